//! Whether Redis answers: one PING for all who ask within a second.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::upstream::{Obstacle, Shared};

/// An answer is shared for so long.
const SHARED_FOR: Duration = Duration::from_secs(1);

/// How Redis is, as JSON has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// So many callers may wait for an answer at once. They hold places at the HTTP port, which the liveness probe needs too; those
/// beyond are given what was known last.
const MOST_WAITING: usize = 24;

/// What was known last holds for so long; then what stands in the way of an answer is all that is known.
const HOLDS_FOR: Duration = Duration::from_secs(3);

/// A question that others may share: when it was answered and how, once it is.
type Asked = watch::Receiver<Option<(Instant, Health)>>;

/// Asks Redis, and remembers the answer for a moment.
pub(super) struct Pulse {
    upstream: Arc<Shared>,
    /// The latest question.
    latest: Mutex<Option<Asked>>,
    /// Those who wait for its answer.
    waiting: Semaphore,
    /// How Redis was when it was asked before.
    last: Mutex<Option<(Instant, Health)>>,
}

impl Health {
    fn new(answer: Result<(), Obstacle>) -> Self {
        match answer {
            Ok(()) => Self { status: "pass", reason: None },
            Err(obstacle) => Self::failed(&obstacle),
        }
    }

    fn failed(obstacle: &Obstacle) -> Self {
        Self { status: "fail", reason: Some(obstacle.to_string()) }
    }

    /// The same with the very words of what failed: not for strangers.
    pub(super) fn in_full(mut self, upstream: &Shared) -> Self {
        if let (Some(reason), Some(obstacle)) = (&mut self.reason, upstream.obstacle()) {
            *reason = upstream.in_full(&obstacle);
        }
        self
    }

    /// True if Redis answers.
    pub(super) fn is_well(&self) -> bool {
        self.reason.is_none()
    }

    /// Why it does not.
    pub(super) fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or_default()
    }
}

impl Pulse {
    pub(super) fn new(upstream: Arc<Shared>) -> Self {
        Self { upstream, latest: Mutex::default(), waiting: Semaphore::new(MOST_WAITING), last: Mutex::default() }
    }

    /// How Redis is now, or was less than a second ago.
    pub(super) async fn health(&self) -> Health {
        if let Some(obstacle) = self.upstream.barrier() {
            // What is known need not be asked, and was not known yet when somebody asked.
            return Health::failed(&obstacle);
        }
        let mut asked = self.ask(Instant::now());
        let Ok(_waits) = self.waiting.try_acquire() else {
            let last = locked(&self.last).clone().filter(|(at, _)| at.elapsed() < HOLDS_FOR);
            return last
                .map_or_else(|| Health::new(self.upstream.obstacle().map_or(Ok(()), Err)), |(_, health)| health);
        };
        let answer = asked.wait_for(Option::is_some).await;
        let health = answer.ok().and_then(|answer| answer.clone()).map_or_else(
            // Only if the runtime ends.
            || Health::failed(&Obstacle::Silent),
            |(_, health)| health,
        );
        *locked(&self.last) = Some((Instant::now(), health.clone()));
        health
    }

    /// The question that is under way or was just answered, or a new one. It is asked by a task of its own, so that whoever
    /// hangs up does not take it from the others.
    fn ask(&self, now: Instant) -> Asked {
        let mut latest = locked(&self.latest);
        let holds = |asked: &&Asked| {
            asked.borrow().as_ref().is_none_or(|(at, _)| now.saturating_duration_since(*at) < SHARED_FOR)
        };
        if let Some(asked) = latest.as_ref().filter(holds) {
            return asked.clone();
        }
        let (answer, asked) = watch::channel(None);
        let upstream = Arc::clone(&self.upstream);
        tokio::spawn(async move {
            let pong = upstream.ask_for_pong().await;
            answer.send_replace(Some((Instant::now(), Health::new(pong))));
        });
        *latest = Some(asked.clone());
        asked
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that runs under these locks can panic half-way, so a poisoned one still guards good data.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
