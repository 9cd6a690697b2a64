//! How the process is, in one word; and why, in words for whoever is on call.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::Sources;
use crate::lifecycle::Phase;
use crate::upstream::Outlook;
use crate::upstream::breaker::State;

/// How the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// Not all that is needed has started.
    Starting,
    /// Redis answers.
    Serving,
    /// Redis does not, and clients are answered without it.
    Degraded,
    /// It is tried whether Redis serves again.
    Recovering,
    /// An operator keeps Redis away.
    Isolated,
    /// The process ends.
    Draining,
}

impl Condition {
    /// How the process is now.
    pub(super) fn of(sources: &Sources) -> Self {
        match (sources.lifecycle.phase(), sources.upstream.state()) {
            (Phase::Draining, _) => Self::Draining,
            (Phase::Starting, _) => Self::Starting,
            (Phase::Serving, State::Isolated) => Self::Isolated,
            (Phase::Serving, State::HalfOpen) => Self::Recovering,
            (Phase::Serving, State::Open) => Self::Degraded,
            (Phase::Serving, State::Starting | State::Closed | State::Disabled) => match sources.upstream.obstacle() {
                Some(_) => Self::Degraded,
                None => Self::Serving,
            },
        }
    }

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

    /// Why it is so, and what it means to clients: not for strangers. `drill`: how long an isolation lasts yet.
    pub(super) fn why(self, sources: &Sources, drill: Option<Duration>) -> String {
        let instead = || answers(|flag| sources.settings.get(flag).map_or("", String::as_str));
        match self {
            Self::Starting => "Not everything that is needed has started yet; no client is taken in so far.".to_owned(),
            Self::Serving if sources.upstream.was_reached() => "Redis answers. Requests are forwarded.".to_owned(),
            Self::Serving => "Clients are taken in. There was no connection to Redis yet.".to_owned(),
            Self::Degraded => {
                let obstacle = sources.upstream.obstacle();
                let obstacle = obstacle.map_or_else(String::new, |obstacle| sources.upstream.in_full(&obstacle));
                let colon = if obstacle.is_empty() { "" } else { ": " };
                format!("Redis cannot be asked{colon}{obstacle}. {}", instead())
            }
            Self::Recovering => format!(
                "Redis can be reached again. A few requests are let through to see whether it serves; for the others \
                 nothing has changed yet. {}",
                instead()
            ),
            Self::Isolated => match drill {
                Some(left) => format!(
                    "A drill keeps this process from Redis, and ends by itself in {} s. Redis itself may be well. {}",
                    left.as_secs(),
                    instead()
                ),
                None => format!(
                    "The operator keeps this process from Redis (--breaker isolated) until POST /breaker/release. {}",
                    instead()
                ),
            },
            Self::Draining => {
                "The process was told to stop. It answers what it has read, and lets its clients go.".to_owned()
            }
        }
    }

    /// Where to look: at Redis, the network, or the settings.
    pub(super) fn advice(self, outlook: &Outlook) -> Option<&'static str> {
        match self {
            Self::Degraded => outlook.last_problem.as_ref().and_then(|problem| advice(problem.kind)),
            Self::Starting | Self::Serving | Self::Recovering | Self::Isolated | Self::Draining => None,
        }
    }
}

/// What clients are told instead of a reply, by the flags in force.
fn answers<'a>(setting: impl Fn(&str) -> &'a str) -> String {
    let reads = match setting("degrade-reads") {
        "error" => "Reads get an error",
        "values" => "GET, MGET and HGET are answered as if the cache were empty, other reads by an error",
        _ => "Reads are answered as if the cache were empty",
    };
    let writes = match setting("degrade-writes") {
        "drop" => "plain SETs are dropped with an OK, other writes get a prompt error",
        _ => "writes get a prompt error",
    };
    format!("{reads}; {writes}.")
}

/// What a problem of this kind points to.
fn advice(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "refused" => {
            "Look at Redis first: nothing accepts connections at its address. It is down or restarting, or the address \
             or a network policy is wrong."
        }
        "dns" => "Look at DNS, and at the name in --upstream: it has no address.",
        "timeout" => {
            "Look at Redis and the network: nothing comes back. Packets are dropped, or Redis is frozen or stuck."
        }
        "eof" | "reset" => {
            "Look at Redis first: connections are cut. It restarts or takes no more clients, or something between cuts them."
        }
        "auth" => "Look at the password (--upstream-password-file) and the ACL user: Redis refuses them.",
        "protocol" => "Look at the address in --upstream: what answers there does not speak as Redis does.",
        "readonly" => "Look at where the address leads: Redis there has become a replica.",
        _ => return None,
    })
}

/// Since when the process is as it is.
pub(super) struct Standing(Mutex<(Condition, SystemTime)>);

impl Standing {
    pub(super) fn new(condition: Condition) -> Self {
        Self(Mutex::new((condition, SystemTime::now())))
    }

    /// It is like this now; since when?
    pub(super) fn since(&self, condition: Condition) -> SystemTime {
        let mut standing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if standing.0 != condition {
            *standing = (condition, SystemTime::now());
        }
        standing.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_are_told_follows_the_flags() {
        assert_eq!(answers(|_| ""), "Reads are answered as if the cache were empty; writes get a prompt error.");
        let dropped = answers(|flag| if flag == "degrade-writes" { "drop" } else { "error" });
        assert_eq!(dropped, "Reads get an error; plain SETs are dropped with an OK, other writes get a prompt error.");
    }

    #[test]
    fn every_kind_of_problem_but_the_unknown_points_somewhere() {
        use crate::observe::metrics::CONNECT_RESULTS;
        let without: Vec<_> = CONNECT_RESULTS.into_iter().filter(|kind| advice(kind).is_none()).collect();
        assert_eq!(without, ["ok", "other"]);
    }

    #[test]
    fn a_condition_lasts_until_there_is_another() {
        let standing = Standing::new(Condition::Starting);
        let start = standing.since(Condition::Starting);
        let serving = standing.since(Condition::Serving);
        assert!(start <= serving);
        assert_eq!(standing.since(Condition::Serving), serving);
    }
}
