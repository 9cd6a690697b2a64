//! The flags of `outrigger inject` and `outrigger uninject`, what they have in common with the webhook's, and what a manifest may say of all other flags.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Arg, ArgAction, Args as _, Command, FromArgMatches};

use super::{Settings, variable};

/// What to inject, and how.
#[derive(Debug, clap::Args)]
pub struct Inject {
    /// What to read.
    #[command(flatten)]
    pub manifests: Manifests,

    /// Add a native sidecar, an init container that goes on running (Kubernetes 1.29 and later): this is the default.
    #[arg(long, conflicts_with = "classic")]
    pub native: bool,

    /// Image of the sidecar.
    #[arg(
        long,
        env = "OUTRIGGER_IMAGE",
        value_name = "IMAGE",
        default_value = concat!("outrigger:", env!("CARGO_PKG_VERSION"))
    )]
    pub image: String,

    /// What else the sidecar is like.
    #[command(flatten)]
    pub sidecar: Sidecar,
}

/// What the sidecar is like, unless annotations say otherwise.
#[derive(Debug, Clone, clap::Args)]
pub struct Sidecar {
    /// Add a container beside the others, for clusters before Kubernetes 1.29.
    #[arg(long, env = "OUTRIGGER_CLASSIC", value_parser = BoolishValueParser::new())]
    pub classic: bool,

    /// Variable that holds the URL of Redis. May be given several times.
    #[arg(long, env = "OUTRIGGER_ENV", value_name = "NAME", value_delimiter = ',', default_value = "REDIS_URL")]
    pub env: Vec<String>,

    /// Where the variable comes from, if only `envFrom` brings it: secret/NAME or configmap/NAME.
    #[arg(long, env = "OUTRIGGER_FROM", value_name = "SOURCE")]
    pub from: Option<String>,
}

/// What to read.
#[derive(Debug, clap::Args)]
pub struct Manifests {
    /// Manifest to read, of one document or many; `-`, or none, is the standard input. May be given several times.
    #[arg(short, long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// A flag as a manifest may name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Without dashes.
    pub name: String,
    /// Its twin in the environment.
    pub variable: String,
}

/// All flags of a proxy.
#[must_use]
pub fn flags() -> Vec<Flag> {
    let command = command();
    let named = command.get_arguments().filter_map(Arg::get_long);
    named.map(|name| Flag { name: name.to_owned(), variable: variable(name) }).collect()
}

/// Whether a proxy with these values of its flags would start, whatever the environment here.
///
/// # Errors
/// What is wrong, as the proxy would say it.
pub fn try_flags<'value>(values: impl IntoIterator<Item = (&'value str, &'value str)>) -> Result<(), String> {
    let command = command();
    let mut words = Vec::new();
    for (name, value) in values {
        let switch = command
            .get_arguments()
            .any(|arg| arg.get_long() == Some(name) && matches!(arg.get_action(), ArgAction::SetTrue));
        match value {
            "false" if switch => {}
            "true" if switch => words.push(format!("--{name}")),
            _ if switch => return Err(format!("--{name}: `{value}` is neither true nor false")),
            _ => words.push(format!("--{name}={value}")),
        }
    }
    let parsed = command.try_get_matches_from(words).and_then(|matches| Settings::from_arg_matches(&matches));
    // The first line of what clap says is what is wrong; the rest is about how it was called.
    let said = |error: clap::Error| {
        let text = error.to_string();
        text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
    };
    parsed.map_err(said)?.resolve().map(drop).map_err(|error| error.to_string())
}

/// The flags, without their twins.
fn command() -> Command {
    Settings::augment_args(Command::new("outrigger")).no_binary_name(true).mut_args(|arg| arg.env(None::<&str>))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_known_and_tried() {
        let flags = flags();
        assert!(flags.len() > 30, "{flags:?}");
        assert!(flags.contains(&Flag { name: "http".to_owned(), variable: "OUTRIGGER_HTTP".to_owned() }));
        let wrong = |name, value| try_flags([("upstream", "redis://h"), (name, value)]).expect_err("it is wrong");
        assert_eq!(try_flags([("upstream", "redis://h"), ("quitquitquit", "true"), ("pool-size", "9")]), Ok(()));
        assert!(wrong("pool-size", "2").contains("too small for --workers"));
        assert!(wrong("request-timeout", "5").contains("give a time with its unit"));
        assert!(wrong("quitquitquit", "maybe").contains("neither true nor false"));
        assert!(wrong("mode", "nonsense").contains("invalid value 'nonsense'"));
        assert!(try_flags([("upstream", "rediss://h")]).expect_err("it is wrong").contains("TLS (rediss://)"));
    }
}
