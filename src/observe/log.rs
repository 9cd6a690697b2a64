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

/// The log that was started: what it is to show can be changed.
pub struct Log {
    shows: String,
    change: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

impl Log {
    /// Shows this from now on; returns at once if it does already.
    ///
    /// # Errors
    /// What is wrong with the directives; the log shows what it did before.
    pub fn set(&mut self, what: &str) -> Result<(), String> {
        if what == self.shows {
            return Ok(());
        }
        (self.change)(filter(what)?)?;
        what.clone_into(&mut self.shows);
        tracing::info!(what, "the log shows something else from now on");
        Ok(())
    }
}

/// Starts logging; may be called once.
///
/// # Errors
/// What is wrong with the directives in `what`.
pub fn start(format: Format, what: &str) -> Result<Log, String> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(what)?).with_writer(std::io::stderr);
    let change: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync> = match format {
        Format::Json => {
            let builder = builder
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
        }
        Format::Text => {
            let builder = builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
        }
    };
    Ok(Log { shows: what.to_owned(), change })
}

fn filter(what: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(what).map_err(|error| format!("`{what}` is nothing to log: {error}"))
}
