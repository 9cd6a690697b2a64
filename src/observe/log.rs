//! The log, on standard error: text for people, or one flat JSON object a line for machines.
//!
//! Levels: ERROR, an operator must act; WARN, unexpected but survived; INFO, the life of the process. Never a key, a
//! value or a credential.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts logging; may be called once.
///
/// # Errors
/// What is wrong with the directives in `what`.
pub fn start(format: LogFormat, what: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(what).map_err(|error| format!("--log (OUTRIGGER_LOG): `{what}`: {error}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
    }
    Ok(())
}
