//! The probes of an orchestrator: does the process live, may it get traffic, has it started? None of them depends on Redis
//! unless that was asked for: an outage must not restart every sidecar, nor keep an application from serving without its
//! cache.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Config;
use super::health::Pulse;
use crate::lifecycle::{Lifecycle, Phase};
use crate::upstream::Shared;

/// What a probe is told: the words, and whether that is well.
pub(super) type Word = (String, bool);

/// What the probes look at beside the process itself.
#[derive(Debug)]
pub(super) struct Probes {
    ready_requires_upstream: bool,
    startup_requires_upstream: bool,
    /// It has started: this never becomes untrue again.
    started: AtomicBool,
}

impl Probes {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            ready_requires_upstream: config.ready_requires_upstream,
            startup_requires_upstream: config.startup_requires_upstream,
            started: AtomicBool::new(false),
        }
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
