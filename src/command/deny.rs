//! What the operator denies: commands that are answered with an error here, whoever asks.
//!
//! Redis' own ACL is the place to keep a user from a command; this is for a sidecar whose operator cannot set it, or that is
//! to be stricter than the other users of the same credentials. It looks at the commands that clients send, not at what a
//! script calls.

use std::collections::{BTreeSet, HashSet};

use super::category;
use super::table;

/// The commands that are denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// By their index in the table.
    known: Vec<bool>,
    /// Names in lower case that are not in the table: of modules, or of a later version.
    others: HashSet<Vec<u8>>,
}

impl Denied {
    /// Those that `items` name: commands (`flushall`), subcommands (`config|set`, or `config set`), and categories
    /// (`@dangerous`), in any case. None if there are no items.
    ///
    /// # Errors
    /// What is no category, no subcommand, or no name of a command.
    pub fn new(items: &[String]) -> Result<Option<Self>, String> {
        let mut denied = Self { known: vec![false; table::COUNT], others: HashSet::new() };
        let mut any = false;
        for item in items.iter().map(|item| item.trim()).filter(|item| !item.is_empty()) {
            any = true;
            match item.strip_prefix('@') {
                Some(name) => denied.add_category(name)?,
                None => denied.add_command(item)?,
            }
        }
        Ok(any.then_some(denied))
    }

    fn add_category(&mut self, name: &str) -> Result<(), String> {
        let Some(category) = category::find(name) else {
            let known: Vec<_> = category::names().map(|name| format!("@{name}")).collect();
            return Err(format!("there is no category `@{name}`: give one of {}", known.join(", ")));
        };
        for (command, denied) in table::all().iter().zip(&mut self.known) {
            *denied |= category.has(command);
        }
        Ok(())
    }

    fn add_command(&mut self, item: &str) -> Result<(), String> {
        let item = item.to_ascii_lowercase();
        let mut words = item.split(|c: char| c == '|' || c.is_ascii_whitespace()).filter(|word| !word.is_empty());
        let (Some(name), subcommand, None) = (words.next(), words.next(), words.next()) else {
            return Err(format!("`{item}` is no command: give a name, such as flushall or config|set"));
        };
        let Some(command) = table::find(name.as_bytes()) else {
            if subcommand.is_some() {
                return Err(format!("`{name}` is not known to have subcommands: give `{name}` alone"));
            }
            self.others.insert(name.as_bytes().to_vec());
            return Ok(());
        };
        let found = match subcommand {
            Some(subcommand) => table::find_sub(command, subcommand.as_bytes())
                .ok_or_else(|| format!("`{name}` has no subcommand `{subcommand}`"))?,
            None => command,
        };
        self.known.get_mut(found.index()).into_iter().for_each(|denied| *denied = true);
        Ok(())
    }

    /// Whether a request is denied; `args` gives the whole of it, the name first.
    #[must_use]
    pub fn covers<'a>(&self, mut args: impl Iterator<Item = &'a [u8]>) -> bool {
        let is_denied = |command: &table::Command| self.known.get(command.index()).copied().unwrap_or_default();
        let name = args.next().unwrap_or_default();
        let Some(command) = table::find(name) else { return self.others.contains(&name.to_ascii_lowercase()) };
        is_denied(command)
            || (command.is_container()
                && args.next().and_then(|word| table::find_sub(command, up_to_nul(word))).is_some_and(is_denied))
    }

    /// The names of all that are denied, in alphabetical order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let known = table::all().iter().zip(&self.known).filter(|(_, denied)| **denied);
        let others = self.others.iter().map(|name| String::from_utf8_lossy(name).into_owned());
        let names: BTreeSet<String> = known.map(|(command, _)| command.name.to_owned()).chain(others).collect();
        names.into_iter().collect()
    }
}

/// Servers before Redis 7 read a subcommand up to its first NUL.
fn up_to_nul(word: &[u8]) -> &[u8] {
    word.split(|&byte| byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(items: &[&str]) -> Result<Option<Denied>, String> {
        Denied::new(&items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>())
    }

    fn covers(items: &[&str], request: &str) -> bool {
        let denied = denied(items).expect("understood").expect("something is denied");
        denied.covers(request.split_ascii_whitespace().map(str::as_bytes))
    }

    #[test]
    fn commands_are_denied_by_name_in_any_case() {
        assert!(covers(&["FlushAll"], "flushALL async"));
        assert!(!covers(&["flushall"], "flushdb"));
        assert!(covers(&["my.module"], "MY.MODULE x"));
        assert!(!covers(&["my.module"], "my.other x"));
    }

    #[test]
    fn subcommands_are_denied_alone_or_with_their_container() {
        assert!(covers(&["config|set"], "CONFIG SET a b"));
        assert!(covers(&["config set"], "CONFIG SET a b"));
        assert!(!covers(&["config|set"], "CONFIG GET a"));
        assert!(covers(&["config"], "CONFIG GET a"));
        assert!(covers(&["config"], "CONFIG NOSUCH"));
        assert!(covers(&["config|set"], "CONFIG SET\0 a b"), "as Redis 6.2 reads it");
        assert!(!covers(&["object|freq"], "OBJECT"));
    }

    #[test]
    fn categories_have_what_servers_say_and_what_only_we_know_by_its_kind() {
        for request in ["FLUSHALL", "DEBUG SLEEP 1", "CONFIG SET a b", "KEYS *", "CLIENT KILL ID 1", "SHUTDOWN"] {
            assert!(covers(&["@Dangerous"], request), "{request}");
        }
        for request in ["GET k", "CLIENT SETNAME x", "EVAL x 0", "SET k v"] {
            assert!(!covers(&["@dangerous"], request), "{request}");
        }
        assert!(covers(&["@write"], "JSON.SET k $ 1"), "no server of ours has it");
    }

    #[test]
    fn nothing_is_denied_unless_said() {
        assert_eq!(denied(&[]), Ok(None));
        assert_eq!(denied(&["", " "]), Ok(None));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(denied(&["@nosuch"]).is_err_and(|error| error.contains("@nosuch") && error.contains("@dangerous")));
        assert!(denied(&["config|nosuch"]).is_err_and(|error| error.contains("nosuch")));
        assert!(denied(&["my.module|x"]).is_err_and(|error| error.contains("alone")));
        assert!(denied(&["a|b|c"]).is_err());
    }
}
