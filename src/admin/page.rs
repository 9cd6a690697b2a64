//! The page for people: how it is, at a glance.

use std::fmt::Write;

use super::Sources;
use crate::lifecycle::Phase;
use crate::upstream::breaker::State;

/// How the process is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    Starting,
    Serving,
    Degraded,
    Recovering,
    Isolated,
    Draining,
}

impl Condition {
    /// The word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Degraded => "degraded",
            Self::Recovering => "recovering",
            Self::Isolated => "isolated",
            Self::Draining => "draining",
        }
    }
}

/// How the process is now.
pub(super) fn state(sources: &Sources) -> Condition {
    match (sources.lifecycle.phase(), sources.upstream.state()) {
        (Phase::Draining, _) => Condition::Draining,
        (Phase::Starting, _) => Condition::Starting,
        (Phase::Serving, State::Isolated) => Condition::Isolated,
        (Phase::Serving, State::HalfOpen) => Condition::Recovering,
        (Phase::Serving, State::Open) => Condition::Degraded,
        (Phase::Serving, State::Starting | State::Closed | State::Disabled) => match sources.upstream.obstacle() {
            Some(_) => Condition::Degraded,
            None => Condition::Serving,
        },
    }
}

/// The page. `full`: whoever asks may know more than the state.
pub(super) fn html(sources: &Sources, full: bool) -> String {
    let state = state(sources).word();
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\">\
         <meta http-equiv=\"refresh\" content=\"2\"><title>{state} · Outrigger</title><h1>{state}</h1>"
    );
    if full {
        let outlook = sources.upstream.outlook();
        let reason = outlook.breaker.reason.unwrap_or_default();
        // Writing to a text does not fail.
        let _ = write!(
            page,
            "<p>Breaker {} for {} s {}; link {}; {} of {} connections.</p>",
            escaped(&outlook.breaker.state),
            outlook.breaker.for_seconds,
            escaped(&reason),
            escaped(&outlook.link),
            outlook.pool.used,
            outlook.pool.size,
        );
    }
    page.push_str("<p><a href=\"/health\">health</a> <a href=\"/metrics\">metrics</a></p></html>");
    page
}

/// Text as HTML has it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
