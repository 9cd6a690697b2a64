//! Does Redis answer? For those who ask from outside: a PING over a connection that is in service anyway.
//!
//! Nobody dials here: that is the supervisor's business. While there is nothing to ask over, or the breaker refuses, that is
//! the answer, and it costs nothing.

use std::fmt;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::breaker::{Reason, State};
use super::lane::{ConnectionId, Use};
use super::supervisor::{DialFailure, Link};
use super::{ClientKey, Event, Shared, Upstream};

/// A PING that is not answered sooner counts as unanswered. With the second for which an answer is shared, and what timers
/// and the asking itself take, a Redis that falls silent is noticed within three.
const ANSWER_WITHIN: Duration = Duration::from_millis(1800);

/// While an answer is awaited, it is looked this often whether there is still hope for one.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Takes the answer to one PING; dropped without one if the connection is lost, or no worker has any.
pub(super) type Asker = oneshot::Sender<Result<(), Obstacle>>;

/// The question on its way to a worker that can ask it.
pub(crate) struct Check {
    asker: Asker,
    /// The workers that have no connection to ask over.
    passed_on: usize,
}

/// Why Redis does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The operator keeps us apart.
    Isolated,
    /// The breaker refuses, and how the last dial failed.
    Open(Reason, Option<DialFailure>),
    /// There is no connection, and how the last dial failed.
    Unconnected(Option<DialFailure>),
    /// PING was not answered.
    Silent,
    /// PING was answered by an error of this code.
    Refused(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dial = |f: &mut fmt::Formatter<'_>, dial: &Option<DialFailure>| {
            dial.as_ref().map_or(Ok(()), |failure| write!(f, "; the last dial failed: {failure}"))
        };
        match self {
            Self::Isolated => f.write_str("isolated by the operator"),
            Self::Open(reason, last) => write!(f, "the breaker is open: {reason}").and_then(|()| dial(f, last)),
            Self::Unconnected(last) => f.write_str("no connection to Redis").and_then(|()| dial(f, last)),
            Self::Silent => f.write_str("Redis has not answered PING in time"),
            Self::Refused(code) => write!(f, "Redis answers {code}"),
        }
    }
}

impl Shared {
    /// Why nobody has to ask: Redis does not answer for a reason that is known already.
    pub(crate) fn obstacle(&self) -> Option<Obstacle> {
        let state = self.view().state;
        match state {
            State::Isolated => return Some(Obstacle::Isolated),
            State::Open => {
                return Some(Obstacle::Open(self.guard.with(|breaker| breaker.reason()).0, self.last_dial()));
            }
            State::Starting | State::Closed | State::HalfOpen | State::Disabled => {}
        }
        let hopeless = !self.has_usable() && self.link() == Link::Down;
        hopeless.then(|| Obstacle::Unconnected(self.last_dial()))
    }

    /// Asks Redis for a PONG, and how long it took to come.
    ///
    /// # Errors
    /// Why it did not come in time.
    pub(crate) async fn ask_for_pong(&self) -> Result<Duration, Obstacle> {
        let began = Instant::now();
        let mut answer = None;
        loop {
            if let Some(obstacle) = self.obstacle() {
                return Err(obstacle);
            }
            match answer.take() {
                None if self.has_usable() => {
                    let (asker, awaited) = oneshot::channel();
                    self.pass_on(Check { asker, passed_on: 0 });
                    answer = Some(awaited);
                }
                // One is being made, or is about to be.
                None => sleep(LOOK_AGAIN).await,
                Some(mut awaited) => match timeout(LOOK_AGAIN, &mut awaited).await {
                    Ok(Ok(pong)) => return pong.map(|()| began.elapsed()),
                    // The connection was lost, or the last one is gone: perhaps there is another.
                    Ok(Err(_)) => sleep(LOOK_AGAIN).await,
                    Err(_) => answer = Some(awaited),
                },
            }
            if began.elapsed() >= ANSWER_WITHIN {
                let obstacle =
                    if answer.is_some() { Obstacle::Silent } else { Obstacle::Unconnected(self.last_dial()) };
                return Err(obstacle);
            }
        }
    }

    /// How the last dial failed, if nothing else went wrong since.
    fn last_dial(&self) -> Option<DialFailure> {
        self.problem().and_then(|problem| problem.dial)
    }

    /// Hands the question to the next worker; drops it when all have had it.
    fn pass_on(&self, check: Check) {
        self.send_to(check.passed_on, Event::Check(check));
    }
}

impl Upstream {
    /// Asks over the connection with the least to do, if this worker has one in service.
    pub(super) fn check(&mut self, check: Check) {
        let candidates = self.connections.iter().filter(|(_, entry)| {
            entry.usage != Use::Lease && !entry.connection.is_sidelined() && !entry.connection.is_withdrawn()
        });
        let load = candidates.min_by_key(|(_, entry)| entry.connection.in_flight());
        match load.map(|(slot, entry)| ConnectionId { slot, serial: entry.serial }) {
            Some(id) => {
                let Check { asker, passed_on: _ } = check;
                if let Some(connection) = self.connection(id) {
                    connection.expect_check(asker);
                    self.ask(id, ClientKey::CHECK);
                }
            }
            None => self.shared.pass_on(Check { passed_on: check.passed_on + 1, ..check }),
        }
    }
}
