//! The breaker as the workers share it: one load on the path of a request, a lock where something is reported.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::{Breaker, Reason, State, View};

/// One [`Breaker`] for all workers. What it decides is published in one word, after every call that may change it.
#[derive(Debug)]
pub struct Guard {
    word: AtomicU64,
    breaker: Mutex<Breaker>,
}

/// A change of state: to be logged and counted by whoever caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The state before.
    pub from: State,
    /// Another state.
    pub to: State,
    /// Why it opened, or last had.
    pub reason: Reason,
}

impl Change {
    /// Why it changed. The words fit a log line.
    #[must_use]
    pub fn why(&self) -> &'static str {
        match (self.from, self.to) {
            (_, State::HalfOpen) => "Redis can be reached: a few requests are tried",
            (State::HalfOpen, State::Closed) => "the requests that were tried were answered",
            (_, State::Closed) => "the first connection was made",
            (_, State::Open | State::Isolated | State::Disabled | State::Starting) => self.reason.words(),
        }
    }
}

impl Guard {
    /// Shares `breaker`.
    pub fn new(breaker: Breaker) -> Arc<Self> {
        Arc::new(Self { word: AtomicU64::new(breaker.view().to_bits()), breaker: Mutex::new(breaker) })
    }

    /// State and generation, by one load. Another worker may be about to change them.
    pub fn view(&self) -> View {
        // Nothing else is read in the belief that this load came first, so no order is needed.
        View::from_bits(self.word.load(Ordering::Relaxed))
    }

    /// Tells or asks the breaker something, and what became of its state. Being opened for longer, which is a new
    /// generation of the same state, is no change. `tell` must not come back here: it would wait for itself.
    pub fn with<R>(&self, tell: impl FnOnce(&mut Breaker) -> R) -> (R, Option<Change>) {
        // Nothing in the breaker panics half-way, so a poisoned lock still guards good data.
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let from = breaker.view().state;
        let told = tell(&mut breaker);
        let View { state: to, .. } = breaker.view();
        // Under the lock, so that words are published in the order of the changes.
        self.word.store(breaker.view().to_bits(), Ordering::Relaxed);
        (told, (from != to).then(|| Change { from, to, reason: breaker.reason() }))
    }

    /// The right to send one request while half-open; `None` in any other state, and while enough are under way.
    pub fn try_trial(self: &Arc<Self>, now: Instant) -> Option<Trial> {
        if self.view().state != State::HalfOpen {
            return None;
        }
        let (generation, _) = self.with(Breaker::try_trial);
        generation.map(|generation| Trial { guard: Some(Arc::clone(self)), generation, taken: now })
    }
}

/// The right to one trial request. Dropped without a verdict, it is free for another.
#[derive(Debug)]
#[must_use = "dropping it gives the trial back"]
pub struct Trial {
    /// `None` once the verdict is given.
    guard: Option<Arc<Guard>>,
    generation: u32,
    taken: Instant,
}

impl Trial {
    /// The generation in which it was taken.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The request was answered.
    pub fn succeed(self, now: Instant) -> Option<Change> {
        self.end(Some(true), now)
    }

    /// The request failed in a way that counts against Redis.
    pub fn fail(self, now: Instant) -> Option<Change> {
        self.end(Some(false), now)
    }

    fn end(mut self, verdict: Option<bool>, now: Instant) -> Option<Change> {
        let guard = self.guard.take()?;
        guard.with(|breaker| breaker.trial_ended(self.generation, verdict, now)).1
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Some(guard) = self.guard.take() {
            // Without a verdict no state changes, so neither the time nor a report matters.
            guard.with(|breaker| breaker.trial_ended(self.generation, None, self.taken));
        }
    }
}
