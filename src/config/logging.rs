//! The flags of the log.

use std::io::IsTerminal;

use crate::observe::log::Format;

/// Flags for the log.
#[derive(Debug, clap::Args)]
pub struct Logging {
    /// Form of the log on standard error. [default: text on a terminal, json elsewhere]
    #[arg(long, env = "OUTRIGGER_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<Format>,

    /// What to log: error, warn, info, debug, trace, or directives such as outrigger=debug.
    #[arg(long, env = "OUTRIGGER_LOG", value_name = "LEVEL", default_value = "info")]
    pub log: String,
}

impl Logging {
    /// The form of the log: that for people on a terminal, unless it is given.
    pub(super) fn format(&self) -> Format {
        let usual = || if std::io::stderr().is_terminal() { Format::Text } else { Format::Json };
        self.log_format.unwrap_or_else(usual)
    }
}
