//! The log, on standard error: text for people, or one flat JSON object a line for machines.
//!
//! Levels: ERROR, an operator must act; WARN, unexpected but survived; INFO, the life of the process. Never a key, a
//! value or a credential.
//!
//! What was written is counted, and the latest lines of ERROR and WARN are kept for the status page ([`Lines`]).

use std::collections::VecDeque;
use std::fmt::{Debug, Write};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, reload};

/// How many lines are kept.
const KEPT: usize = 50;

/// Bytes that are kept of a line's message, and of its fields.
const LONGEST: usize = 400;

/// Levels that are counted, as labels have them.
pub const LEVELS: [&str; 3] = ["error", "warn", "info"];

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
    lines: Arc<Lines>,
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

    /// What it has written.
    #[must_use]
    pub fn lines(&self) -> Arc<Lines> {
        Arc::clone(&self.lines)
    }
}

/// Starts logging; may be called once.
///
/// # Errors
/// What is wrong with the directives in `what`.
pub fn start(format: Format, what: &str) -> Result<Log, String> {
    let (filter, handle) = reload::Layer::new(filter(what)?);
    let lines = Arc::<Lines>::default();
    let writer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let writer = match format {
        Format::Json => writer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
        Format::Text => writer.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed(),
    };
    // The filter comes first, and so holds for both.
    tracing_subscriber::registry().with(filter).with(writer).with(Keeper(Arc::clone(&lines))).init();
    let change = move |filter| handle.reload(filter).map_err(|error| error.to_string());
    Ok(Log { shows: what.to_owned(), change: Box::new(change), lines })
}

fn filter(what: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(what).map_err(|error| format!("`{what}` is nothing to log: {error}"))
}

/// What the log has written: how many lines of each level, and the latest that tell of trouble.
#[derive(Debug, Default)]
pub struct Lines {
    counts: [AtomicU64; LEVELS.len()],
    latest: Mutex<VecDeque<Line>>,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it was written.
    pub at: SystemTime,
    /// One of [`LEVELS`].
    pub level: &'static str,
    /// The fixed words.
    pub message: String,
    /// What differs, as `name=value`.
    pub fields: String,
}

impl Lines {
    /// How many lines of each level there were.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        LEVELS.into_iter().zip(&self.counts).map(|(level, count)| (level, count.load(Ordering::Relaxed)))
    }

    /// The latest of WARN and ERROR, newest first.
    #[must_use]
    pub fn latest(&self) -> Vec<Line> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }

    fn keep(&self, line: Line) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.len() == KEPT {
            latest.pop_front();
        }
        latest.push_back(line);
    }
}

/// Sees every line that the filter lets through.
struct Keeper(Arc<Lines>);

impl<S: Subscriber> Layer<S> for Keeper {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => 0,
            Level::WARN => 1,
            Level::INFO => 2,
            _ => return,
        };
        let (Some(count), Some(name)) = (self.0.counts.get(level), LEVELS.get(level)) else { return };
        count.fetch_add(1, Ordering::Relaxed);
        if level < 2 {
            let mut words = Words::default();
            event.record(&mut words);
            let Words { message, fields } = words;
            self.0.keep(Line { at: SystemTime::now(), level: name, message: cut(message), fields: cut(fields) });
        }
    }
}

/// The words of a line, as they are collected.
#[derive(Default)]
struct Words {
    message: String,
    fields: String,
}

impl Words {
    fn add(&mut self, field: &Field, value: std::fmt::Arguments<'_>) {
        // Writing to a text does not fail.
        let _ = if field.name() == "message" {
            self.message.write_fmt(value)
        } else {
            let gap = if self.fields.is_empty() { "" } else { " " };
            write!(self.fields, "{gap}{}={value}", field.name())
        };
    }
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

fn cut(mut text: String) -> String {
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is kept of what `work` logs, with this filter.
    fn kept(what: &str, work: impl FnOnce()) -> Arc<Lines> {
        let lines = Arc::<Lines>::default();
        let subscriber =
            tracing_subscriber::registry().with(filter(what).expect("a filter")).with(Keeper(Arc::clone(&lines)));
        tracing::subscriber::with_default(subscriber, work);
        lines
    }

    #[test]
    fn lines_are_counted_and_those_of_trouble_are_kept() {
        let lines = kept("info", || {
            tracing::error!(code = 5, name = "a b", "it broke");
            tracing::warn!(error = %"gone", "it was mended");
            tracing::info!("it goes on");
            tracing::debug!("nobody sees this");
        });
        assert_eq!(lines.counts().collect::<Vec<_>>(), [("error", 1), ("warn", 1), ("info", 1)]);
        let latest = lines.latest();
        let told: Vec<_> = latest.iter().map(|line| (line.level, &*line.message, &*line.fields)).collect();
        assert_eq!(told, [("warn", "it was mended", "error=gone"), ("error", "it broke", "code=5 name=a b")]);
    }

    #[test]
    fn what_is_not_logged_is_neither_counted_nor_kept() {
        let lines = kept("error", || tracing::warn!("nobody sees this"));
        assert_eq!((lines.counts().map(|(_, count)| count).sum::<u64>(), lines.latest()), (0, vec![]));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let lines = kept("info", || (0..KEPT + 5).for_each(|number| tracing::warn!(number, "{}", "ä".repeat(LONGEST))));
        let latest = lines.latest();
        assert_eq!((latest.len(), latest[0].fields.as_str()), (KEPT, "number=54"));
        assert_eq!(latest[0].message, "ä".repeat(LONGEST / 2) + "…");
    }
}
