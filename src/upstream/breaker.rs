//! The breaker: may a request try? One for the process, shared by all workers through a [`Guard`].
//!
//! ```text
//!            connected                   failures in a row │ ratio │ health checks │ hang │ dials
//! Starting ─────────────▶ Closed ─────────────────────────────────────────▶ Open ◀─┐ time is up, and still
//!     │ first dial failed    ▲                                               │ ▲ └──┘ not connected: longer
//!     └──────────▶ Open      │ 3 trials succeeded                  connected │ │
//!                            └────────────────────── HalfOpen ◀──────────────┘ │ a trial failed, no verdict
//!                                                       └──────────────────────┘ for 10 s, hang, dials
//! ```
//!
//! Beside these stand `Isolated` (the operator's: nothing is tried) and `Disabled` (everything is).
//!
//! *Open* means refusing. The breaker is told what happened and when; it does no I/O and reads no clock. It dials nothing
//! either: that is the [`supervisor`](super::supervisor)'s business, who asks [`Breaker::may_probe`] first.
//!
//! Invariants: every entry of a state begins a new generation, and a result or a trial of an older one changes nothing.
//! What belongs to a state lives inside it, so nothing of it outlasts it, but for the step: how long it stays open.

mod shared;

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::jitter::Jitter;
pub use shared::{Change, Guard, Trial};

/// Results that the ratio is not judged on.
const FEWEST_RESULTS: u32 = 20;

/// The length of one bucket of the ratio's window, which has ten.
const BUCKET: Duration = Duration::from_secs(1);

const BUCKETS: usize = 10;

/// So many health checks failed in a row trip.
const STRIKES: u32 = 3;

/// So many dials refused in a row trip, if no connection is usable.
const REFUSED_DIALS: u32 = 5;

/// Trials in flight at once, and successes among them that close.
const TRIALS: u32 = 3;

/// Half-open for so long without a verdict is no recovery.
const VERDICT_WITHIN: Duration = Duration::from_secs(10);

/// The first open time, if the cap is not less.
const FIRST_OPEN: Duration = Duration::from_secs(1);

/// The step falls by one for so long in Closed: what just recovered is trusted less than what has been well for an hour.
const DECAY: Duration = Duration::from_secs(60);

/// What the operator chose at start (`--breaker`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Trips and recovers.
    Enabled,
    /// Never refuses anything.
    Disabled,
    /// Starts isolated: Redis is not contacted until [`Breaker::release`].
    Isolated,
}

/// Settings of the breaker.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What it may do.
    pub mode: Mode,
    /// Failed results in a row that trip; 0: as many as there may be.
    pub failures: u32,
    /// The longest open time. The first is 1 s, and each is twice the one before.
    pub recovery: Duration,
    /// A probe that succeeds ends the open time. Without it Redis is left alone until the time is up.
    pub early_recovery: bool,
}

/// What may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing is known yet; requests wait for the first dial.
    Starting,
    /// Everything.
    Closed,
    /// Nothing but probes.
    Open,
    /// Probes and a few trial requests.
    HalfOpen,
    /// Nothing at all, until the operator says so.
    Isolated,
    /// Everything, whatever happens.
    Disabled,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Starting, Self::Closed, Self::Open, Self::HalfOpen, Self::Isolated, Self::Disabled];

    /// As the log, JSON and labels have it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Isolated => "isolated",
            Self::Disabled => "disabled",
        }
    }

    /// True if every request is let through.
    pub fn serves(self) -> bool {
        matches!(self, Self::Closed | Self::Starting | Self::Disabled)
    }
}

/// A state and which entry of it this is: what a request needs to know, small enough for one atomic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// What may be tried.
    pub state: State,
    /// Grows with every entry of a state (and starts anew after 2³² of them).
    pub generation: u32,
}

impl View {
    /// As a number that [`View::from_bits`] reads.
    pub fn to_bits(self) -> u64 {
        let state = match self.state {
            State::Starting => 0,
            State::Closed => 1,
            State::Open => 2,
            State::HalfOpen => 3,
            State::Isolated => 4,
            State::Disabled => 5,
        };
        u64::from(self.generation) << 8 | state
    }

    /// What [`View::to_bits`] wrote; of any other number, something.
    pub fn from_bits(bits: u64) -> Self {
        let state = match bits & 0xff {
            0 => State::Starting,
            1 => State::Closed,
            2 => State::Open,
            3 => State::HalfOpen,
            4 => State::Isolated,
            _ => State::Disabled,
        };
        Self { state, generation: u32::try_from(bits >> 8 & u64::from(u32::MAX)).unwrap_or(u32::MAX) }
    }
}

/// Why the breaker last opened. The words fit a log line and an error reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The first dial failed, or nothing happened yet.
    Startup,
    /// Failed results in a row.
    Failures,
    /// Half of at least 20 results within 10 s failed.
    Ratio,
    /// Health checks failed.
    HealthChecks,
    /// Nothing answered, on any connection, until a request's deadline.
    Hang,
    /// Dials were refused and no connection was left.
    Dials,
    /// A trial failed.
    Trial,
    /// Half-open led to nothing.
    NoVerdict,
    /// The operator isolated it.
    Operator,
    /// The operator has released it, or the time of a drill is up.
    Released,
}

impl Reason {
    /// As a label's value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Failures => "consecutive",
            Self::Ratio => "ratio",
            Self::HealthChecks => "health_check",
            Self::Hang => "hang",
            Self::Dials => "connect",
            Self::Trial => "trial",
            Self::NoVerdict => "no_verdict",
            Self::Operator | Self::Released => "manual",
        }
    }
}

impl Reason {
    /// The words.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Startup => "not reached since start",
            Self::Failures => "failures in a row",
            Self::Ratio => "half of the results failed",
            Self::HealthChecks => "health checks failed",
            Self::Hang => "nothing answered until the deadline",
            Self::Dials => "no connection could be made",
            Self::Trial => "a trial failed",
            Self::NoVerdict => "no trial ended",
            Self::Operator => "the operator's choice",
            Self::Released => "the isolation is over, and Redis is looked for",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// The breaker itself. Instants that it is told may repeat or be a little late (workers read the time once per batch).
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    phase: Phase,
    generation: u32,
    reason: Reason,
    since: Instant,
    /// How many times the open time was lengthened and not yet forgiven: 1 is the first open time.
    step: u32,
    /// How often it has opened, but for being opened for longer.
    trips: u64,
    jitter: Jitter,
}

#[derive(Debug)]
enum Phase {
    Starting,
    Closed(Health),
    Open { until: Instant },
    HalfOpen(Trials),
    Isolated,
    Disabled,
}

/// What Closed remembers.
#[derive(Debug)]
struct Health {
    failed_in_a_row: u32,
    window: Window,
    strikes: u32,
    refused_dials: u32,
    /// Up to when the step was decayed.
    decayed: Instant,
}

/// What HalfOpen remembers.
#[derive(Debug)]
struct Trials {
    in_flight: u32,
    succeeded: u32,
    refused_dials: u32,
    /// When the last trial succeeded, or the state was entered.
    verdict: Instant,
}

impl Breaker {
    /// A breaker that has seen nothing. `seed` decides the jitter of its open times.
    pub fn new(settings: Settings, seed: u64, now: Instant) -> Self {
        let (phase, reason) = match settings.mode {
            Mode::Enabled => (Phase::Starting, Reason::Startup),
            Mode::Disabled => (Phase::Disabled, Reason::Startup),
            Mode::Isolated => (Phase::Isolated, Reason::Operator),
        };
        Self { settings, phase, generation: 0, reason, since: now, step: 0, trips: 0, jitter: Jitter::new(seed) }
    }

    /// State and generation.
    pub fn view(&self) -> View {
        let state = match self.phase {
            Phase::Starting => State::Starting,
            Phase::Closed(_) => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen(_) => State::HalfOpen,
            Phase::Isolated => State::Isolated,
            Phase::Disabled => State::Disabled,
        };
        View { state, generation: self.generation }
    }

    /// Why it is open, or last was. Stays what it was through half-open and closed.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Since when it is in this state. Being opened for longer is not a change of state.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// How many times the open time was lengthened and not yet forgiven.
    pub fn step(&self) -> u32 {
        self.step
    }

    /// Health checks in a row that have failed, up to the one that opens it; none but in Closed.
    pub fn strikes(&self) -> u32 {
        if let Phase::Closed(health) = &self.phase { health.strikes } else { 0 }
    }

    /// How often it has opened.
    pub fn trips(&self) -> u64 {
        self.trips
    }

    /// How long it will refuse yet, were it not for early recovery; `None` unless it is open.
    pub fn retry_in(&self, now: Instant) -> Option<Duration> {
        match self.phase {
            Phase::Open { until } => Some(until.saturating_duration_since(now)),
            Phase::Starting | Phase::Closed(_) | Phase::HalfOpen(_) | Phase::Isolated | Phase::Disabled => None,
        }
    }

    /// One good result of that generation: a connection answered within a slot of 100 ms, and nothing failed in it.
    /// Counts in Closed only.
    pub fn success(&mut self, generation: u32, now: Instant) {
        if let (Phase::Closed(health), true) = (&mut self.phase, generation == self.generation) {
            health.failed_in_a_row = 0;
            health.window.count(false, now);
        }
    }

    /// One failed result of that generation: a slot of 100 ms of a connection in which something failed, however much did.
    /// Counts in Closed only.
    pub fn failure(&mut self, generation: u32, now: Instant) {
        if generation == self.generation {
            self.failed_result(now);
        }
    }

    /// A health check ended. Counts in Closed only.
    pub fn health_check(&mut self, ok: bool, now: Instant) {
        let Phase::Closed(health) = &mut self.phase else { return };
        health.strikes = if ok { 0 } else { health.strikes + 1 };
        if health.strikes >= STRIKES {
            self.trip(Reason::HealthChecks, now);
        }
    }

    /// A dial failed, for whatever reason; `usable`: there is another connection that requests can use.
    /// While open, [`Breaker::probe_failed`] is what counts.
    pub fn dial_refused(&mut self, now: Instant, usable: bool) {
        if matches!(self.phase, Phase::Starting) {
            return self.trip(Reason::Startup, now);
        }
        self.failed_result(now);
        let (Phase::Closed(Health { refused_dials, .. }) | Phase::HalfOpen(Trials { refused_dials, .. })) =
            &mut self.phase
        else {
            return;
        };
        *refused_dials = if usable { 0 } else { *refused_dials + 1 };
        if *refused_dials >= REFUSED_DIALS {
            self.trip(Reason::Dials, now);
        }
    }

    /// A connection was made. The first one closes, if none failed before; otherwise [`Breaker::probe_succeeded`] does.
    pub fn dial_made(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Starting => self.enter_closed(now),
            Phase::Closed(health) => health.refused_dials = 0,
            Phase::HalfOpen(trials) => trials.refused_dials = 0,
            Phase::Open { .. } | Phase::Isolated | Phase::Disabled => {}
        }
    }

    /// A request reached its deadline, and a PING elsewhere is unanswered too.
    pub fn hang(&mut self, now: Instant) {
        match self.phase {
            Phase::Starting | Phase::Closed(_) | Phase::HalfOpen(_) => self.trip(Reason::Hang, now),
            Phase::Open { .. } | Phase::Isolated | Phase::Disabled => {}
        }
    }

    /// Dial, handshake and PING succeeded. True if that changed the state.
    pub fn probe_succeeded(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Starting => self.enter_closed(now),
            Phase::Open { .. } if self.may_probe(now) => {
                let trials = Trials { in_flight: 0, succeeded: 0, refused_dials: 0, verdict: now };
                self.enter(Phase::HalfOpen(trials), now);
            }
            Phase::Open { .. } | Phase::Closed(_) | Phase::HalfOpen(_) | Phase::Isolated | Phase::Disabled => {
                return false;
            }
        }
        true
    }

    /// Whether Redis may be contacted at all, were it only to see whether it is there.
    pub fn may_probe(&self, now: Instant) -> bool {
        self.may_probe_from(now).is_some_and(|from| from <= now)
    }

    /// From when on Redis may be contacted; `None`: not before the operator says so.
    pub fn may_probe_from(&self, now: Instant) -> Option<Instant> {
        match self.phase {
            Phase::Open { until } if !self.settings.early_recovery => Some(until),
            Phase::Isolated => None,
            Phase::Open { .. } | Phase::Starting | Phase::Closed(_) | Phase::HalfOpen(_) | Phase::Disabled => Some(now),
        }
    }

    /// Dial, handshake or PING failed while open. Once the time is up, it stays open for longer than before.
    pub fn probe_failed(&mut self, now: Instant) {
        match self.phase {
            Phase::Open { until } if now >= until => {
                // Why it was isolated once does not explain why it still refuses.
                let reason = if self.reason == Reason::Released { Reason::Dials } else { self.reason };
                self.trip(reason, now);
            }
            Phase::Starting => self.trip(Reason::Startup, now),
            Phase::Open { .. } | Phase::Closed(_) | Phase::HalfOpen(_) | Phase::Isolated | Phase::Disabled => {}
        }
    }

    /// The right to send one request while half-open, if three do not have it already: the generation to end it with by
    /// [`Breaker::trial_ended`], which must follow whatever happens. A [`Trial`] sees to that.
    pub fn try_trial(&mut self) -> Option<u32> {
        let Phase::HalfOpen(trials) = &mut self.phase else { return None };
        if trials.in_flight >= TRIALS {
            return None;
        }
        trials.in_flight += 1;
        Some(self.generation)
    }

    /// A trial ended: well, badly, or without telling anything (the client left, the request was not sent).
    pub fn trial_ended(&mut self, generation: u32, verdict: Option<bool>, now: Instant) {
        let Phase::HalfOpen(trials) = &mut self.phase else { return };
        if generation != self.generation {
            return;
        }
        trials.in_flight = trials.in_flight.saturating_sub(1);
        match verdict {
            None => {}
            Some(false) => self.trip(Reason::Trial, now),
            Some(true) => {
                trials.succeeded += 1;
                trials.verdict = now;
                if trials.succeeded >= TRIALS {
                    self.enter_closed(now);
                }
            }
        }
    }

    /// The operator wants Redis left alone.
    pub fn isolate(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Isolated) {
            self.decay(now);
            self.reason = Reason::Operator;
            self.enter(Phase::Isolated, now);
        }
    }

    /// The operator is done. What Redis is like now nobody knows, so it is open with its time up: the next probe decides,
    /// and until then requests are answered at once rather than kept waiting.
    pub fn release(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Isolated) {
            return;
        }
        let phase = match self.settings.mode {
            Mode::Enabled | Mode::Isolated => Phase::Open { until: now },
            Mode::Disabled => Phase::Disabled,
        };
        self.reason = Reason::Released;
        self.enter(phase, now);
    }

    /// Time passed: call it every second or so.
    pub fn tick(&mut self, now: Instant) {
        match &self.phase {
            Phase::HalfOpen(trials) if now.saturating_duration_since(trials.verdict) >= VERDICT_WITHIN => {
                self.trip(Reason::NoVerdict, now);
            }
            Phase::Closed(_) => self.decay(now),
            Phase::Starting | Phase::Open { .. } | Phase::HalfOpen(_) | Phase::Isolated | Phase::Disabled => {}
        }
    }

    fn failed_result(&mut self, now: Instant) {
        let Phase::Closed(health) = &mut self.phase else { return };
        health.failed_in_a_row = health.failed_in_a_row.saturating_add(1);
        health.window.count(true, now);
        // In this order, so that one cause is always called by the same name.
        if self.settings.failures > 0 && health.failed_in_a_row >= self.settings.failures {
            self.trip(Reason::Failures, now);
        } else if health.window.is_bad() {
            self.trip(Reason::Ratio, now);
        }
    }

    /// Opens, for one step longer than last time.
    fn trip(&mut self, reason: Reason, now: Instant) {
        self.decay(now);
        self.trips += u64::from(!matches!(self.phase, Phase::Open { .. }));
        self.reason = reason;
        if self.longest_open() < self.settings.recovery {
            self.step += 1;
        }
        self.step = self.step.max(1);
        let whole = self.longest_open();
        let until = now + self.jitter.between(whole / 2, whole);
        self.enter(Phase::Open { until }, now);
    }

    /// The open time of this step, before half of it is left to chance.
    fn longest_open(&self) -> Duration {
        let Some(doublings) = self.step.checked_sub(1) else { return Duration::ZERO };
        let factor = 2u32.checked_pow(doublings).unwrap_or(u32::MAX);
        FIRST_OPEN.saturating_mul(factor).min(self.settings.recovery)
    }

    fn enter_closed(&mut self, now: Instant) {
        let health =
            Health { failed_in_a_row: 0, window: Window::new(now), strikes: 0, refused_dials: 0, decayed: now };
        self.enter(Phase::Closed(health), now);
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        let before = self.view().state;
        self.phase = phase;
        self.generation = self.generation.wrapping_add(1);
        if self.view().state != before {
            self.since = now;
        }
    }

    /// Forgives a step for each minute of Closed.
    fn decay(&mut self, now: Instant) {
        let Phase::Closed(health) = &mut self.phase else { return };
        while self.step > 0 && now.saturating_duration_since(health.decayed) >= DECAY {
            self.step -= 1;
            health.decayed += DECAY;
        }
    }
}

/// The results of the last ten seconds, in buckets of one.
#[derive(Debug)]
struct Window {
    buckets: [Bucket; BUCKETS],
    /// The bucket of the newest results, and when it began.
    newest: usize,
    began: Instant,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    results: u32,
    failed: u32,
}

impl Window {
    fn new(now: Instant) -> Self {
        Self { buckets: [Bucket::default(); BUCKETS], newest: 0, began: now }
    }

    fn count(&mut self, failed: bool, now: Instant) {
        self.turn(now);
        if let Some(bucket) = self.buckets.get_mut(self.newest) {
            bucket.results = bucket.results.saturating_add(1);
            bucket.failed = bucket.failed.saturating_add(u32::from(failed));
        }
    }

    /// Empties the buckets whose seconds are over. A time before the newest bucket counts there.
    fn turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.began).as_secs();
        for _ in 0..passed.min(BUCKETS as u64) {
            self.newest = (self.newest + 1) % BUCKETS;
            self.buckets[self.newest] = Bucket::default();
        }
        self.began += BUCKET.saturating_mul(u32::try_from(passed).unwrap_or(u32::MAX));
    }

    fn is_bad(&self) -> bool {
        let results: u32 = self.buckets.iter().map(|bucket| bucket.results).fold(0, u32::saturating_add);
        let failed: u32 = self.buckets.iter().map(|bucket| bucket.failed).fold(0, u32::saturating_add);
        results >= FEWEST_RESULTS && failed >= results - failed
    }
}

#[cfg(test)]
mod tests;
