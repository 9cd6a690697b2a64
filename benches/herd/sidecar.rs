//! Ways to reconnect: ours, by the code that the proxy runs, and others.
//!
//! Each sidecar wants one connection, and its application sends [`REQUESTS`] a second, whatever the answers.

use std::time::Duration;

use outrigger::upstream::breaker::{Breaker, Mode, Settings, State};
use outrigger::upstream::supervisor::{DialFailure, Supervisor};
use tokio::time::Instant;

use crate::simulation::{Outage, Outcome, run};
use crate::tally::Nanos;

/// Requests a second of one application.
const REQUESTS: f64 = 50.0;

const MS: Nanos = 1_000_000;

/// What a sidecar does next. It has one thing at a time to wait for.
pub(crate) enum Next {
    Dial,
    Wake(Nanos),
    Nothing,
}

/// One sidecar: told what happens to it, says what it does.
pub(crate) trait Sidecar {
    fn lost(&mut self, now: Nanos) -> Next;
    fn wake(&mut self, now: Nanos) -> Next;
    fn refused(&mut self, now: Nanos) -> Next;
    fn timed_out(&mut self, now: Nanos) -> Next;
    fn connected(&mut self, now: Nanos) -> Next;
    /// Whether requests are answered by the server again.
    fn serves(&self) -> bool;
}

/// A way to reconnect.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    /// No connection, and a request: dial, but one at a time. So do other proxies.
    EachRequest,
    /// A second after the last failure.
    Fixed,
    /// After a pause that doubles from 50 ms.
    Doubling {
        longest: Nanos,
        full_jitter: bool,
    },
    Outrigger,
}

/// In the order of the table. Ours is judged by the first.
pub(crate) const WAYS: [Way; 6] = [
    Way { name: "at each request", kind: Kind::EachRequest },
    Way { name: "every second", kind: Kind::Fixed },
    Way { name: "50 ms doubling to 5 s", kind: Kind::Doubling { longest: 5000 * MS, full_jitter: false } },
    Way { name: "the same with full jitter", kind: Kind::Doubling { longest: 5000 * MS, full_jitter: true } },
    Way { name: "50 ms to 0.5 s, full jitter", kind: Kind::Doubling { longest: 500 * MS, full_jitter: true } },
    Way { name: "Outrigger", kind: Kind::Outrigger },
];

impl Way {
    /// What becomes of an outage if all reconnect in this way, and a connection costs the server a `handshake`.
    pub(crate) fn run(&self, outage: &Outage, handshake: Duration) -> Outcome {
        let seeds = 0..u64::from(outage.sidecars);
        let pausing = |pause, longest, full_jitter| {
            let all = seeds.clone().map(|seed| Pausing::new(seed, pause, longest, full_jitter)).collect();
            run(outage, handshake, all)
        };
        match self.kind {
            Kind::EachRequest => {
                // It remembers nothing of an outage, so a longer one is not different.
                let outage = Outage { length: outage.length.min(Duration::from_secs(5)), ..*outage };
                run(&outage, handshake, seeds.map(EachRequest::new).collect())
            }
            Kind::Fixed => pausing(1000 * MS, 1000 * MS, false),
            Kind::Doubling { longest, full_jitter } => pausing(50 * MS, longest, full_jitter),
            Kind::Outrigger => {
                let origin = Instant::now();
                run(outage, handshake, seeds.map(|seed| Outrigger::new(seed, origin)).collect())
            }
        }
    }
}

/// When the application's next request comes.
fn next_request(random: &mut fastrand::Rng, now: Nanos) -> Nanos {
    let pause = -(1.0 - random.f64()).ln() / REQUESTS;
    now + Duration::from_secs_f64(pause).as_nanos() as Nanos
}

struct EachRequest {
    random: fastrand::Rng,
    connected: bool,
}

impl EachRequest {
    fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), connected: false }
    }
}

impl Sidecar for EachRequest {
    fn lost(&mut self, now: Nanos) -> Next {
        Next::Wake(next_request(&mut self.random, now))
    }

    fn wake(&mut self, _now: Nanos) -> Next {
        Next::Dial
    }

    fn refused(&mut self, now: Nanos) -> Next {
        self.lost(now)
    }

    fn timed_out(&mut self, now: Nanos) -> Next {
        self.lost(now)
    }

    fn connected(&mut self, _now: Nanos) -> Next {
        self.connected = true;
        Next::Nothing
    }

    fn serves(&self) -> bool {
        self.connected
    }
}

struct Pausing {
    random: fastrand::Rng,
    pause: Nanos,
    longest: Nanos,
    full_jitter: bool,
    connected: bool,
}

impl Pausing {
    fn new(seed: u64, pause: Nanos, longest: Nanos, full_jitter: bool) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), pause, longest, full_jitter, connected: false }
    }
}

impl Sidecar for Pausing {
    fn lost(&mut self, _now: Nanos) -> Next {
        Next::Dial
    }

    fn wake(&mut self, _now: Nanos) -> Next {
        Next::Dial
    }

    fn refused(&mut self, now: Nanos) -> Next {
        let pause = if self.full_jitter { self.random.u64(..=self.pause) } else { self.pause };
        self.pause = (2 * self.pause).min(self.longest);
        Next::Wake(now + pause)
    }

    fn timed_out(&mut self, now: Nanos) -> Next {
        self.refused(now)
    }

    fn connected(&mut self, _now: Nanos) -> Next {
        self.connected = true;
        Next::Nothing
    }

    fn serves(&self) -> bool {
        self.connected
    }
}

/// The real thing: one supervisor, one breaker, and requests that are trials once there is a connection.
struct Outrigger {
    origin: Instant,
    random: fastrand::Rng,
    supervisor: Supervisor,
    breaker: Breaker,
    connected: bool,
}

impl Outrigger {
    /// One that was well for a minute.
    fn new(seed: u64, origin: Instant) -> Self {
        let settings =
            Settings { mode: Mode::Enabled, failures: 5, recovery: Duration::from_secs(60), early_recovery: true };
        let (mut supervisor, mut breaker) = (Supervisor::new(seed, origin), Breaker::new(settings, seed, origin));
        supervisor.take_probe(origin);
        supervisor.made(origin);
        breaker.dial_made(origin);
        let origin = origin + Duration::from_secs(60);
        Self { origin, random: fastrand::Rng::with_seed(seed), supervisor, breaker, connected: true }
    }

    fn instant(&self, now: Nanos) -> Instant {
        self.origin + Duration::from_nanos(now)
    }

    fn nanos(&self, at: Instant) -> Nanos {
        at.saturating_duration_since(self.origin).as_nanos() as Nanos
    }

    fn failed(&mut self, failure: DialFailure, now: Nanos) -> Next {
        let at = self.instant(now);
        self.supervisor.failed(failure, at);
        if self.breaker.view().state == State::Open {
            self.breaker.probe_failed(at);
        } else {
            self.breaker.dial_refused(at, false);
        }
        self.wake(now)
    }

    /// The next request is a trial.
    fn try_the_connection(&mut self, now: Nanos) -> Next {
        let at = self.instant(now);
        match self.breaker.try_trial() {
            Some(trial) => self.breaker.trial_ended(trial, Some(true), at),
            None => self.breaker.tick(at),
        }
        if self.serves() { Next::Nothing } else { Next::Wake(next_request(&mut self.random, now)) }
    }
}

impl Sidecar for Outrigger {
    fn lost(&mut self, now: Nanos) -> Next {
        let at = self.instant(now);
        self.connected = false;
        self.supervisor.lost(false, true, at);
        self.breaker.failure(self.breaker.view().generation, at);
        self.wake(now)
    }

    fn wake(&mut self, now: Nanos) -> Next {
        if self.connected {
            return self.try_the_connection(now);
        }
        let at = self.instant(now);
        let Some(due) = self.supervisor.next_probe(at) else { return Next::Nothing };
        let allowed = if self.breaker.may_probe(at) { at } else { at + self.breaker.retry_in(at).unwrap_or_default() };
        if due.max(allowed) > at {
            return Next::Wake(self.nanos(due.max(allowed)));
        }
        if self.supervisor.take_probe(at) { Next::Dial } else { Next::Nothing }
    }

    fn refused(&mut self, now: Nanos) -> Next {
        self.failed(DialFailure::Refused, now)
    }

    fn timed_out(&mut self, now: Nanos) -> Next {
        self.failed(DialFailure::TimedOut, now)
    }

    fn connected(&mut self, now: Nanos) -> Next {
        let at = self.instant(now);
        self.connected = true;
        self.supervisor.made(at);
        self.breaker.dial_made(at);
        self.breaker.probe_succeeded(at);
        if self.serves() { Next::Nothing } else { Next::Wake(next_request(&mut self.random, now)) }
    }

    fn serves(&self) -> bool {
        self.connected && self.breaker.view().state == State::Closed
    }
}
