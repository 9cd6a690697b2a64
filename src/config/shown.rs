//! The settings as they may be shown: every flag by its name with the value in force, without credentials.

use std::collections::BTreeMap;

use clap::{ArgMatches, Command};

/// Values in force by the names of their flags.
pub type Shown = BTreeMap<String, String>;

/// What was given for the flags of `command`, or is its default; flags without either are left out.
pub(super) fn values(command: &Command, matches: &ArgMatches) -> Shown {
    let value_of = |id: &str| {
        let values = matches.try_get_raw(id).ok().flatten()?;
        Some(values.map(|value| without_credentials(&value.to_string_lossy())).collect::<Vec<_>>().join(","))
    };
    let named = command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg.get_id().as_str())));
    named.filter_map(|(name, id)| Some((name.to_owned(), value_of(id)?))).collect()
}

/// A URL without what stands before the host. What looks like no URL is shown as it is: secrets come from files.
fn without_credentials(value: &str) -> String {
    match value.split_once("://") {
        Some((scheme, rest)) => match rest.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}://***@{host}"),
            None => value.to_owned(),
        },
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::Args;

    fn shown(words: &[&str]) -> Shown {
        let words = [&["outrigger"], words].concat();
        values(&Args::command(), &Args::command().try_get_matches_from(words).expect("clap accepts it"))
    }

    #[test]
    fn what_was_given_and_what_is_the_default_are_shown() {
        let shown =
            shown(&["--upstream", "redis://h", "--pool-size", "7", "--listen", "127.0.0.1:1", "--insecure-listen"]);
        let value = |name: &str| shown.get(name).map(String::as_str);
        assert_eq!(value("upstream"), Some("redis://h"));
        assert_eq!((value("pool-size"), value("databases")), (Some("7"), Some("16")));
        assert_eq!((value("insecure-listen"), value("quitquitquit")), (Some("true"), Some("false")));
        assert_eq!(value("password-file"), None);
    }

    #[test]
    fn credentials_are_not_shown() {
        for url in ["redis://user:secret@h:1/2", "redis://:secret@h:1/2", "redis://a:secr@secret@h:1/2"] {
            assert_eq!(shown(&["--upstream", url]).get("upstream").map(String::as_str), Some("redis://***@h:1/2"));
        }
    }
}
