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
use super::{ClientKey, Event, LaneKey, Protocol, Shared, Upstream};

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

impl Obstacle {
    /// PING was answered by this error line, without its `-`.
    pub(super) fn of_refusal(line: &[u8]) -> Self {
        let code = line.split(|byte| !byte.is_ascii_uppercase()).next().unwrap_or_default();
        Self::Refused(String::from_utf8_lossy(code).into_owned())
    }
}

impl Shared {
    /// What keeps Redis from answering, as far as is known.
    pub(crate) fn obstacle(&self) -> Option<Obstacle> {
        self.barrier().or_else(|| self.is_silent().then_some(Obstacle::Silent))
    }

    /// Why there is no use in asking.
    pub(crate) fn barrier(&self) -> Option<Obstacle> {
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

    /// Asks Redis for a PONG.
    ///
    /// # Errors
    /// Why it did not come in time.
    pub(crate) async fn ask_for_pong(&self) -> Result<(), Obstacle> {
        let began = Instant::now();
        let mut answer = None;
        loop {
            if let Some(barrier) = self.barrier() {
                return Err(barrier);
            }
            match answer.take() {
                None if self.has_usable() || self.link() == Link::Up => {
                    let (asker, awaited) = oneshot::channel();
                    self.pass_on(Check { asker, passed_on: 0 });
                    answer = Some(awaited);
                }
                // One is being made, or is about to be.
                None => sleep(LOOK_AGAIN).await,
                Some(mut awaited) => match timeout(LOOK_AGAIN, &mut awaited).await {
                    Ok(Ok(pong)) => return pong,
                    // The connection was lost, or the last one is gone: perhaps there is another.
                    Ok(Err(_)) => sleep(LOOK_AGAIN).await,
                    Err(_) => answer = Some(awaited),
                },
            }
            if began.elapsed() >= ANSWER_WITHIN {
                if answer.is_none() {
                    return Err(Obstacle::Unconnected(self.last_dial()));
                }
                self.note_silence(began);
                return Err(Obstacle::Silent);
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
            None => {
                if check.passed_on == 0 {
                    // All may be lent out; whoever asks asks again soon.
                    let key = LaneKey { database: self.shared.default_database(), protocol: Protocol::Resp3 };
                    let lane = self.lane(key);
                    self.obtain_if_bare(lane);
                }
                self.shared.pass_on(Check { passed_on: check.passed_on + 1, ..check });
            }
        }
    }
}
