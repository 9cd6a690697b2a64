//! The log, on standard error: text for people, or one flat JSON object a line for machines.
//!
//! Levels: ERROR, an operator must act; WARN, unexpected but survived; INFO, the life of the process. Never a key, a
//! value or a credential.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Starts logging; may be called once.
///
/// # Errors
/// What is wrong with the directives in `what`.
pub fn start(format: Format, what: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(what).map_err(|error| format!("--log (OUTRIGGER_LOG): `{what}`: {error}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
    }
    Ok(())
}
