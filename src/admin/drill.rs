//! A drill: an outage on purpose, of this one process, that ends by itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::upstream::Shared;

/// How long it lasts unless said otherwise.
pub(super) const USUAL: Duration = Duration::from_secs(30);

/// How long it may last. Whoever wants more can say so at start (`--breaker isolated`).
pub(super) const LONGEST: Duration = Duration::from_secs(3600);

/// Isolates and releases.
pub(super) struct Drill {
    upstream: Arc<Shared>,
    /// When the present one ends.
    until: Mutex<Option<Instant>>,
}

impl Drill {
    pub(super) fn new(upstream: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { upstream, until: Mutex::default() })
    }

    /// How long it will last yet; none while there is none.
    pub(super) fn left(&self) -> Option<Duration> {
        self.until().map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// Begins one, or has the present one end at another time. False if Redis is kept away for good.
    pub(super) fn begin(self: &Arc<Self>, length: Duration) -> bool {
        let mut planned = self.until();
        if planned.is_none() && !self.upstream.isolate() {
            return false;
        }
        let until = Instant::now() + length;
        *planned = Some(until);
        drop(planned);
        tracing::warn!(
            seconds = length.as_secs_f64(),
            "drill: isolated from Redis, clients are answered as in an outage"
        );
        let drill = Arc::clone(self);
        tokio::spawn(async move {
            sleep_until(until).await;
            drill.end_if(until);
        });
        true
    }

    /// Ends it, or an isolation that was there from the start; false if there is none.
    pub(super) fn end(&self) -> bool {
        *self.until() = None;
        let released = self.upstream.release();
        if released {
            tracing::warn!("drill: ended by the operator");
        }
        released
    }

    /// Ends it if it is the one that was to last until then.
    fn end_if(&self, until: Instant) {
        let mut planned = self.until();
        if *planned != Some(until) {
            return;
        }
        *planned = None;
        drop(planned);
        self.upstream.release();
        tracing::warn!("drill: its time is up");
    }

    fn until(&self) -> MutexGuard<'_, Option<Instant>> {
        // Nothing that runs under the lock can panic half-way, so a poisoned one still guards good data.
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
