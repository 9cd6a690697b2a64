//! The supervisor's judgement: who may dial, and when. One for the process, so that however many requests and workers
//! miss a connection, one dial finds out what they all want to know.
//!
//! ```text
//!            made                last connection lost               failed
//! Unknown ─────────▶ Up ───────────────────────────────▶ Doubtful ──────────▶ Down ◀─┐ failed: the next
//!    │               ▲ ▲             made                    │                │ ▲ └──┘ probe later
//!    │ failed        │ └─────────────────────────────────────┘           made │ │
//!    └──▶ Down       └──────────────────────── Recovering ◀───────────────────┘ │ lost within a second
//!                                  1 s              └───────────────────────────┘
//! ```
//!
//! - *Unknown* (nothing was tried yet) and *Doubtful* (the last usable connection was just lost): one dial at a time, at
//!   once; requests wait for its outcome.
//! - *Down*: requests do not wait. Probes only, one at a time, at moments chosen here.
//! - *Recovering*: one connection for the first second, so that ten thousand of us do not ask for ten each.
//! - *Up*: dials are free; what bounds them is elsewhere. But from the loss of one connection until the next is made, two
//!   in a second: when Redis dies all are lost, one after the other.
//!
//! It is told what happened and when; it does no I/O and reads no clock. Whether a request may try is not its business
//! but the [`breaker`](super::breaker)'s, who also has a say in whether probes are allowed.
//!
//! Invariants: unless the link is up, a dial begins only while none is under way, and at most two begin in any
//! second, whatever else happens.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::jitter::Jitter;

/// Of any three dials, the last begins so much later than the first has left, unless all is well: more than a second,
/// by the precision of the kernel's clocks.
const TWO_DIALS: Duration = Duration::from_millis(1001);

/// Refused at once, the first pause. Two dials a second are as many as are allowed and as are needed to be back within
/// half a second, so from here on the pauses do not grow. This one is as wide as the period of those that follow: all
/// who lost Redis in the same moment are spread evenly over it at once, where pauses that double from 50 ms would
/// keep them together, and would spend the second dial of the first second on a server that has hardly begun to start.
const REFUSED_FIRST: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(700));

/// The second pause: what two dials in any second leave over for the earliest of the first ones. The same for all, so
/// that they stay spread.
const REFUSED_SECOND: Duration = Duration::from_millis(825);

/// All others. Little jitter: the moments are spread already, and each irregular pause would be paid for by a longer one.
/// A server that returns at any moment waits a quarter of a second in the median.
const REFUSED_THEN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(550));

/// Bounds of the pause when dials are not refused at once but fail later: it doubles from the first to the second, and
/// all of it is left to chance, since those who time out together dialled together. In `benches/herd`, of a server that
/// returns and can make 1000 TLS handshakes a second, 99 % of ten thousand sidecars are served after 12 s of the 10 s
/// there must be; it were 14 s if the first pause were half or twice as long, 19 s if half of each were fixed. The second
/// leaves room for a connect timeout of 2 s and the trials: where packets were lost we are back within 7 s.
const LATE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(4750));

/// The pause after a refused password: 30 s ± 10 %. It will not get better by itself, and tries may be counted.
const PASSWORD: (Duration, Duration) = (Duration::from_secs(27), Duration::from_secs(33));

/// What is lost sooner than this after it was made was not worth having: accept-then-close counts as a failed dial.
/// For so long after an outage there is one connection.
const RECOVERING: Duration = Duration::from_secs(1);

/// Only after so much health the pauses begin anew.
const HEALTHY: Duration = Duration::from_secs(10);

/// Connections are renewed for READONLY no more often.
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// When a fresh connection says READONLY too, nothing is renewed for so long.
const READONLY_PAUSE: Duration = Duration::from_secs(30);

/// What is known of the way to Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Nothing was tried yet.
    Unknown,
    /// There is a connection.
    Up,
    /// The last connection was just lost; it may have been only that one.
    Doubtful,
    /// A dial failed and there is no connection.
    Down,
    /// There is a connection again, for less than a second.
    Recovering,
}

/// How a dial failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialFailure {
    /// At once, by the other side's system: nobody listens.
    Refused,
    /// By the end of a connection that was accepted: a server in the middle of dying, once; or one that does so always.
    Closed,
    /// In any other way: time-out, name, TLS, handshake, a server that is loading or has too many clients.
    TimedOut,
    /// User or password are refused.
    Password,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Doubtful => "doubtful",
            Self::Down => "down",
            Self::Recovering => "recovering",
        })
    }
}

impl fmt::Display for DialFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "nobody listens there, or the name is not known",
            Self::Closed => "the connection was ended at once",
            Self::TimedOut => "no answer in time, or not the right one",
            Self::Password => "user or password are refused",
        })
    }
}

/// What to do about a connection that says READONLY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failover {
    /// Resolve the name and make new connections: this server was the primary and another is now.
    Renew,
    /// Tell the client.
    PassOn,
}

/// Who may dial, and when.
#[derive(Debug)]
pub struct Supervisor {
    phase: Phase,
    /// Dials started and not ended.
    under_way: u32,
    /// When the last two dials began, and when the last two left, the older one first.
    starts: [Option<Instant>; 2],
    departures: [Option<Instant>; 2],
    /// A connection was lost and none was made since: the others may be lost too, though nobody knows yet.
    shaken: bool,
    pauses: Pauses,
    readonly: Readonly,
}

#[derive(Debug)]
enum Phase {
    Unknown,
    Up { since: Instant },
    Doubtful,
    Down { due: Instant },
    Recovering { since: Instant },
}

impl Supervisor {
    /// Of a link that nothing is known of. `seed` decides its pauses.
    pub fn new(seed: u64, _now: Instant) -> Self {
        Self {
            phase: Phase::Unknown,
            under_way: 0,
            starts: [None; 2],
            departures: [None; 2],
            shaken: false,
            pauses: Pauses { last: None, failures: 0, jitter: Jitter::new(seed) },
            readonly: Readonly::default(),
        }
    }

    /// What is known of the link, as of the last call that was told the time.
    pub fn link(&self) -> Link {
        match self.phase {
            Phase::Unknown => Link::Unknown,
            Phase::Up { .. } => Link::Up,
            Phase::Doubtful => Link::Doubtful,
            Phase::Down { .. } => Link::Down,
            Phase::Recovering { .. } => Link::Recovering,
        }
    }

    /// Dials that have begun and not ended.
    pub fn under_way(&self) -> u32 {
        self.under_way
    }

    /// Whether a request that needs a connection may dial. If so the dial counts as begun: [`Supervisor::made`] or
    /// [`Supervisor::failed`] must follow, also when it is given up.
    pub fn may_dial(&mut self, now: Instant) -> bool {
        self.settled(now);
        let may = match self.phase {
            Phase::Up { .. } => true,
            Phase::Unknown | Phase::Doubtful => self.next_probe(now).is_some_and(|at| at <= now),
            Phase::Down { .. } | Phase::Recovering { .. } => false,
        };
        if may {
            self.begin(now);
        }
        may
    }

    /// When to probe next, perhaps in the past. `None`: not before something else happens, because a dial is under way
    /// or there is a connection. Unknown and doubtful, it is due as soon as two dials a second allow: if no request
    /// dials first (there may be none, or the breaker refuses them), the probe finds out.
    pub fn next_probe(&self, now: Instant) -> Option<Instant> {
        let due = match self.phase {
            Phase::Unknown | Phase::Doubtful => now,
            Phase::Down { due } => due,
            Phase::Up { .. } | Phase::Recovering { .. } => return None,
        };
        let earliest = self.starts[0].max(self.departures[0]).map_or(due, |start| start + TWO_DIALS);
        (self.under_way == 0).then(|| due.max(earliest))
    }

    /// Whether it is soon known if there is a connection to be had: one is there, or a dial is under way or about to be.
    /// Only then requests do well to wait.
    pub fn is_worth_waiting(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Up { .. } => true,
            Phase::Unknown | Phase::Doubtful => self.next_probe(now).is_none_or(|at| at <= now),
            Phase::Down { .. } | Phase::Recovering { .. } => false,
        }
    }

    /// Takes the probe if it is due: the dial counts as begun, as in [`Supervisor::may_dial`].
    pub fn take_probe(&mut self, now: Instant) -> bool {
        let due = self.next_probe(now).is_some_and(|at| at <= now);
        if due {
            self.begin(now);
        }
        due
    }

    /// What dials failed for may be mended: the next is due at once, as far as two a second allow.
    pub fn hurry(&mut self, now: Instant) {
        if let Phase::Down { due } = &mut self.phase {
            *due = (*due).min(now);
        }
    }

    /// A dial and its handshake succeeded.
    pub fn made(&mut self, now: Instant) {
        self.settled(now);
        self.under_way = self.under_way.saturating_sub(1);
        self.shaken = false;
        self.pauses.made();
        match self.phase {
            Phase::Unknown | Phase::Doubtful => self.phase = Phase::Up { since: now },
            Phase::Down { .. } => self.phase = Phase::Recovering { since: now },
            Phase::Up { .. } | Phase::Recovering { .. } => {}
        }
    }

    /// A connection that was given up works after all, or an attempt that was given up has succeeded.
    pub fn revived(&mut self, now: Instant) {
        self.under_way += 1;
        self.made(now);
    }

    /// A dial or its handshake failed, or was given up.
    pub fn failed(&mut self, failure: DialFailure, now: Instant) {
        self.settled(now);
        self.under_way = self.under_way.saturating_sub(1);
        match self.phase {
            Phase::Unknown | Phase::Doubtful | Phase::Down { .. } => {
                self.phase = Phase::Down { due: now + self.pauses.next(failure) };
            }
            // There is a connection: this one was to be one more.
            Phase::Up { .. } | Phase::Recovering { .. } => {}
        }
    }

    /// A connection was lost, or closed by us because it is of no use. `usable_left`: there is another. `served`: it had
    /// answered requests; what is lost soon after it was made and without that was accepted only to be closed.
    pub fn lost(&mut self, usable_left: bool, served: bool, now: Instant) {
        self.settled(now);
        let (Phase::Up { since } | Phase::Recovering { since }) = self.phase else { return };
        self.shaken = true;
        if usable_left {
            return;
        }
        let healthy = now.saturating_duration_since(since);
        if healthy >= HEALTHY {
            self.pauses.forget();
        }
        self.phase = if healthy < RECOVERING && !served {
            Phase::Down { due: now + self.pauses.next(DialFailure::Closed) }
        } else {
            Phase::Doubtful
        };
    }

    /// Time passed: what has recovered for long enough is up.
    pub fn settled(&mut self, now: Instant) {
        if let Phase::Recovering { since } = self.phase
            && now.saturating_duration_since(since) >= RECOVERING
        {
            self.phase = Phase::Up { since };
        }
    }

    /// A connection said READONLY; `fresh`: it was made since the last [`Failover::Renew`].
    pub fn readonly(&mut self, now: Instant, fresh: bool) -> Failover {
        self.readonly.judge(now, fresh)
    }

    /// Whether READONLY is passed on to clients just now.
    pub fn passes_on_readonly(&self, now: Instant) -> bool {
        self.readonly.quiet_until.is_some_and(|until| now < until)
    }

    /// A dial that was granted leaves only now: the name had to be resolved first. False if it must not, because a connection
    /// was lost meanwhile and two others leave to see what became of Redis: then [`Supervisor::withheld`] must follow.
    pub fn leaves(&mut self, now: Instant) -> bool {
        let is_free = matches!(self.phase, Phase::Up { .. }) && !self.shaken;
        if !is_free && self.departures[0].is_some_and(|departure| now < departure + TWO_DIALS) {
            return false;
        }
        self.departures = [self.departures[1], Some(now)];
        true
    }

    /// The dial that left last did so now, or before.
    pub fn has_left(&mut self, now: Instant) {
        self.departures[1] = Some(now);
    }

    /// A dial did not leave.
    pub fn withheld(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    fn begin(&mut self, now: Instant) {
        self.under_way += 1;
        self.starts = [self.starts[1], Some(now)];
    }
}

/// The pauses after failed dials.
#[derive(Debug)]
struct Pauses {
    /// How the last dial failed that failed.
    last: Option<DialFailure>,
    /// How many did so in that way, in a row.
    failures: u32,
    jitter: Jitter,
}

impl Pauses {
    /// The pause after one more failure. When dials begin to fail in another way something has changed, and we begin anew.
    fn next(&mut self, failure: DialFailure) -> Duration {
        if self.last != Some(failure) {
            self.last = Some(failure);
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let (shortest, longest) = match (failure, self.failures) {
            (DialFailure::Refused | DialFailure::Closed, 1) => REFUSED_FIRST,
            (DialFailure::Refused, 2) => (REFUSED_SECOND, REFUSED_SECOND),
            (DialFailure::Refused, _) => REFUSED_THEN,
            (DialFailure::TimedOut | DialFailure::Closed, failures) => {
                let doublings = if failure == DialFailure::Closed { failures - 2 } else { failures - 1 };
                let doubled = LATE.0.saturating_mul(2u32.saturating_pow(doublings));
                (Duration::ZERO, doubled.min(LATE.1))
            }
            (DialFailure::Password, _) => PASSWORD,
        };
        self.jitter.between(shortest, longest)
    }

    /// A dial succeeded. Pauses after refusals begin anew, since they do not grow but spread; the others must not, or
    /// a server that accepts and closes would be dialled as fast as it does.
    fn made(&mut self) {
        if self.last == Some(DialFailure::Refused) {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.last = None;
        self.failures = 0;
    }
}

/// How often READONLY is taken for a failover.
#[derive(Debug, Default)]
struct Readonly {
    renewed: Option<Instant>,
    quiet_until: Option<Instant>,
}

impl Readonly {
    fn judge(&mut self, now: Instant, fresh: bool) -> Failover {
        if self.quiet_until.is_some_and(|until| now < until) {
            return Failover::PassOn;
        }
        match self.renewed {
            Some(_) if fresh => {
                *self = Self { renewed: None, quiet_until: Some(now + READONLY_PAUSE) };
                Failover::PassOn
            }
            Some(at) if now.saturating_duration_since(at) < RENEW_EVERY => Failover::PassOn,
            _ => {
                *self = Self { renewed: Some(now), quiet_until: None };
                Failover::Renew
            }
        }
    }
}

#[cfg(test)]
mod tests;
