//! What the upstream side shows of itself, and what the operator may do to it from outside.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::Shared;
use super::breaker::State;
use super::health::Obstacle;

/// The upstream side at one moment, as JSON has it. Times are in seconds.
#[derive(Debug, Serialize)]
pub(crate) struct Outlook {
    /// Where Redis is.
    pub(crate) address: String,
    /// What is there, as far as it was ever reached.
    pub(crate) server: Option<Server>,
    /// Whether there is a connection, as the supervisor knows.
    pub(crate) link: String,
    pub(crate) breaker: BreakerOutlook,
    pub(crate) supervisor: SupervisorOutlook,
    pub(crate) pool: PoolOutlook,
    /// What went wrong last.
    pub(crate) last_problem: Option<ProblemOutlook>,
}

/// What the server says it is.
#[derive(Debug, Serialize)]
pub(crate) struct Server {
    pub(crate) kind: &'static str,
    pub(crate) version: String,
}

/// The breaker.
#[derive(Debug, Serialize)]
pub(crate) struct BreakerOutlook {
    pub(crate) state: &'static str,
    /// How long it has been in this state.
    pub(crate) for_seconds: f64,
    /// Why it is open, or last was; none before it ever opened.
    pub(crate) reason: Option<String>,
    /// How long it will refuse yet, were it not for early recovery.
    pub(crate) retry_in_seconds: Option<f64>,
    /// How many times its open time was lengthened and not yet forgiven.
    pub(crate) step: u32,
    /// How often it has opened.
    pub(crate) trips: u64,
}

/// The supervisor.
#[derive(Debug, Serialize)]
pub(crate) struct SupervisorOutlook {
    pub(crate) dials_under_way: u32,
    /// When it dials next to see whether Redis is back; none while there is a connection or a dial under way, and while
    /// isolated.
    pub(crate) next_dial_in_seconds: Option<f64>,
}

/// The pool.
#[derive(Debug, Serialize)]
pub(crate) struct PoolOutlook {
    pub(crate) size: usize,
    /// Connections that are open or being made.
    pub(crate) used: usize,
    /// Shared connections in service.
    pub(crate) in_service: usize,
    /// Workers that wait for a connection to come free.
    pub(crate) waiting: usize,
    pub(crate) leases: LeasesOutlook,
}

/// Connections that clients have for themselves.
#[derive(Debug, Serialize)]
pub(crate) struct LeasesOutlook {
    /// Most there may be.
    pub(crate) size: usize,
    pub(crate) used: usize,
    pub(crate) by_cause: BTreeMap<&'static str, usize>,
    /// Clients that wait for one.
    pub(crate) waiting: usize,
}

/// Something that went wrong.
#[derive(Debug, Serialize)]
pub(crate) struct ProblemOutlook {
    pub(crate) error: String,
    /// What it was, as the metrics have it: `refused`, `timeout`, `dns` and so on.
    pub(crate) kind: &'static str,
    pub(crate) seconds_ago: f64,
}

impl Shared {
    /// What is known of the upstream side now. Takes locks, so it is not for the path of a request.
    pub(crate) fn outlook(&self) -> Outlook {
        let now = Instant::now();
        Outlook {
            address: self.config.target.address.to_string(),
            server: self.identity().greeting().map(|greeting| Server {
                kind: if self.identity().release().is_some_and(|release| release.is_valkey) {
                    "valkey"
                } else {
                    "redis"
                },
                version: greeting.version_text.clone(),
            }),
            link: self.link().to_string(),
            breaker: self.breaker_outlook(now),
            supervisor: SupervisorOutlook {
                dials_under_way: self.ask(|supervisor| supervisor.under_way()),
                next_dial_in_seconds: self.next_dial_in(now).map(seconds),
            },
            pool: self.pool_outlook(),
            last_problem: self.problem().map(|problem| ProblemOutlook {
                error: problem.text,
                kind: problem.kind,
                seconds_ago: seconds(now.saturating_duration_since(problem.at)),
            }),
        }
    }

    fn breaker_outlook(&self, now: Instant) -> BreakerOutlook {
        let (outlook, _) = self.guard.with(|breaker| {
            let state = breaker.view().state;
            let has_opened = breaker.trips() > 0 || state == State::Isolated;
            BreakerOutlook {
                state: state.label(),
                for_seconds: seconds(now.saturating_duration_since(breaker.since())),
                reason: has_opened.then(|| breaker.reason().to_string()),
                retry_in_seconds: breaker.retry_in(now).map(seconds),
                step: breaker.step(),
                trips: breaker.trips(),
            }
        });
        outlook
    }

    fn pool_outlook(&self) -> PoolOutlook {
        let (held, waiting) = self.quota.held();
        PoolOutlook {
            size: self.permits.total(),
            used: self.permits.used(),
            in_service: self.usable(),
            waiting: self.permits.waiting(),
            leases: LeasesOutlook {
                size: self.quota.total(),
                used: held.iter().map(|(_, used)| used).sum(),
                by_cause: held.into_iter().map(|(cause, used)| (cause.name(), used)).collect(),
                waiting,
            },
        }
    }

    /// An obstacle with the very words of what failed, which may name addresses: not for strangers.
    pub(crate) fn in_full(&self, obstacle: &Obstacle) -> String {
        let general = match obstacle {
            Obstacle::Open(reason, Some(_)) => Obstacle::Open(*reason, None),
            Obstacle::Unconnected(Some(_)) => Obstacle::Unconnected(None),
            other => return other.to_string(),
        };
        let dial = self.problem().filter(|problem| problem.dial.is_some());
        dial.map_or_else(|| obstacle.to_string(), |dial| format!("{general}; the last dial failed: {}", dial.text))
    }

    /// How long ago something last came from the server.
    pub(crate) fn heard_ago(&self) -> Option<Duration> {
        self.last_heard().map(|heard| heard.elapsed())
    }

    /// How often subscribers were subscribed again after having heard nothing for a while.
    pub(crate) fn gaps(&self) -> u64 {
        self.gaps.load(Ordering::Relaxed)
    }

    /// Health checks in a row that have failed while the breaker was closed.
    pub(crate) fn strikes(&self) -> u32 {
        self.guard.with(|breaker| breaker.strikes()).0
    }

    /// What may be tried.
    pub(crate) fn state(&self) -> State {
        self.view().state
    }

    /// True once any server was reached.
    pub(crate) fn was_reached(&self) -> bool {
        self.was_usable()
    }

    /// Keeps all requests from Redis until [`Shared::release`]; false if that is so already.
    pub(crate) fn isolate(&self) -> bool {
        let already = self.state() == State::Isolated;
        self.tell(|breaker| breaker.isolate(Instant::now()));
        !already
    }

    /// Ends the isolation, whoever began it; false if there is none.
    pub(crate) fn release(&self) -> bool {
        let isolated = self.state() == State::Isolated;
        self.tell(|breaker| breaker.release(Instant::now()));
        isolated
    }
}

fn seconds(time: Duration) -> f64 {
    // To the millisecond: more would only be noise to read.
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
