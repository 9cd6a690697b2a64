//! The probes of an orchestrator: does the process live, may it get traffic, has it started? None of them depends on Redis
//! unless that was asked for: an outage must not restart every sidecar, nor keep an application from serving without its
//! cache.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::Config;
use super::caller::ALIVE;
use super::health::Pulse;
use crate::lifecycle::{Lifecycle, Phase};
use crate::upstream::Shared;

/// The workers are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// So many looks without a sign of a worker, and it is stuck. Looks are counted, not time: when the whole machine stands
/// still, so do we.
const PATIENCE: u32 = 30;

/// What a probe is told: the words, and whether that is well.
pub(super) type Word = (String, bool);

/// What the probes look at beside the process itself.
#[derive(Debug)]
pub(super) struct Probes {
    ready_requires_upstream: bool,
    startup_requires_upstream: bool,
    /// A worker is stuck.
    stuck: AtomicBool,
    /// It has started: this never becomes untrue again.
    started: AtomicBool,
}

impl Probes {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            ready_requires_upstream: config.ready_requires_upstream,
            startup_requires_upstream: config.startup_requires_upstream,
            stuck: AtomicBool::new(false),
            started: AtomicBool::new(false),
        }
    }

    /// Looks after the workers for as long as the process lives.
    pub(super) async fn watch(&self, upstream: &Shared) {
        let mut watchdog = Watchdog::default();
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let stuck = watchdog.look(&upstream.beats());
            let before = self.stuck.swap(stuck.is_some(), Ordering::Relaxed);
            match stuck {
                Some(worker) if !before => tracing::error!(worker, "a worker is stuck: the liveness probe fails"),
                None if before => tracing::warn!("the worker goes on: the liveness probe succeeds again"),
                Some(_) | None => {}
            }
        }
    }

    /// Whether the process lives: its workers go on.
    pub(super) fn live(&self) -> Word {
        let stuck = self.stuck.load(Ordering::Relaxed);
        (if stuck { "a worker is stuck" } else { ALIVE }.to_owned(), !stuck)
    }

    /// Whether it may get traffic. Degraded answers count as serving.
    pub(super) async fn ready(&self, lifecycle: &Lifecycle, pulse: &Pulse) -> Word {
        match lifecycle.phase() {
            Phase::Starting => ("starting".to_owned(), false),
            Phase::Draining => ("draining".to_owned(), false),
            Phase::Serving if self.ready_requires_upstream => {
                let health = pulse.health().await;
                if health.is_well() { ("ready".to_owned(), true) } else { (health.reason().to_owned(), false) }
            }
            Phase::Serving => ("ready".to_owned(), true),
        }
    }

    /// The same as far as is known without asking Redis.
    pub(super) fn is_ready(&self, lifecycle: &Lifecycle, upstream: &Shared) -> bool {
        let is_served = || !self.ready_requires_upstream || upstream.obstacle().is_none();
        lifecycle.phase() == Phase::Serving && is_served()
    }

    /// Whether it has started.
    pub(super) fn startup(&self, lifecycle: &Lifecycle, upstream: &Shared) -> Word {
        let has_begun = lifecycle.phase() > Phase::Starting;
        let is_connected = !self.startup_requires_upstream || upstream.was_reached();
        if has_begun && is_connected {
            self.started.store(true, Ordering::Relaxed);
        }
        if self.started.load(Ordering::Relaxed) {
            ("started".to_owned(), true)
        } else if has_begun {
            ("Redis was not reached yet".to_owned(), false)
        } else {
            ("starting".to_owned(), false)
        }
    }
}

/// Notices workers that do not go on.
#[derive(Debug, Default)]
struct Watchdog {
    /// What was seen of each worker last, and how many looks ago that was new.
    seen: Vec<(u64, u32)>,
}

impl Watchdog {
    /// One look at the workers' beats: which of them is stuck, if any. One that has not begun is not.
    fn look(&mut self, beats: &[u64]) -> Option<usize> {
        self.seen.resize(beats.len(), (0, 0));
        for ((seen, looks), beats) in self.seen.iter_mut().zip(beats) {
            *looks = if seen == beats && *beats > 0 { looks.saturating_add(1) } else { 0 };
            *seen = *beats;
        }
        self.seen.iter().position(|(_, looks)| *looks >= PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stands_still_is_stuck_after_a_while_and_until_it_goes_on() {
        let mut watchdog = Watchdog::default();
        for beat in 0..100 {
            assert_eq!(watchdog.look(&[beat, 0]), None, "one has not begun, and that is all");
        }
        for _ in 1..PATIENCE {
            assert_eq!(watchdog.look(&[99, 5]), None);
        }
        assert_eq!(watchdog.look(&[99, 6]), Some(0));
        assert_eq!(watchdog.look(&[100, 6]), None);
    }
}
