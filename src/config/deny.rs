//! What is refused whoever asks, as typed.
//!
//! Apart from the other settings because `explain` takes it too.

use super::{Error, wrong};
use crate::command::deny::Denied;

/// Settings as typed.
#[derive(Debug, clap::Args)]
pub struct Deny {
    /// Commands that are refused, whoever asks: names (flushall), subcommands (config|set) and ACL categories
    /// (@dangerous), separated by commas. May be given several times.
    #[arg(long, env = "OUTRIGGER_DENY_COMMANDS", value_name = "COMMANDS", value_delimiter = ',')]
    pub deny_commands: Vec<String>,
}

impl Deny {
    /// The same in the words of the part that decides.
    ///
    /// # Errors
    /// What is neither a command nor a category.
    pub fn denied(&self) -> Result<Option<Denied>, Error> {
        Denied::new(&self.deny_commands).map_err(|problem| wrong("deny-commands", problem))
    }
}
