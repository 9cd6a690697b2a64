//! The slow log: the latest requests that took long, with the parts of their time, and never a key or a value.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// How many are kept.
const KEPT: usize = 128;

/// One slow request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slow {
    /// When it was answered.
    pub at: SystemTime,
    /// The command's name, as the table has it.
    pub command: &'static str,
    /// What its client calls itself (CLIENT SETNAME).
    pub client: String,
    /// How many keys it named.
    pub keys: usize,
    /// How long it was, in bytes.
    pub request: usize,
    /// How long the reply was, in bytes.
    pub reply: usize,
    /// From its arrival until it was written to Redis.
    pub queue: Duration,
    /// From there until the reply had come.
    pub upstream: Duration,
    /// How long its reply, and those behind it, waited for the client to take them. Told of a client's replies together: the
    /// request is then the one that was answered last, and the other parts and sizes are not known any more.
    pub flush: Duration,
}

impl Slow {
    /// The whole of its time, as far as it is known.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.queue + self.upstream + self.flush
    }
}

/// The latest slow requests of the process.
#[derive(Debug, Default)]
pub struct SlowLog {
    latest: Mutex<VecDeque<Slow>>,
    count: AtomicU64,
}

impl SlowLog {
    /// Adds one; the oldest goes if there are too many.
    pub fn add(&self, slow: Slow) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.len() == KEPT {
            latest.pop_front();
        }
        latest.push_back(slow);
    }

    /// The latest, newest first.
    #[must_use]
    pub fn latest(&self) -> Vec<Slow> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }

    /// How many there ever were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_newest_first() {
        let log = SlowLog::default();
        for request in 0..KEPT + 3 {
            log.add(Slow {
                at: SystemTime::UNIX_EPOCH,
                command: "get",
                client: String::new(),
                keys: 1,
                request,
                reply: 5,
                queue: Duration::ZERO,
                upstream: Duration::from_secs(1),
                flush: Duration::ZERO,
            });
        }
        let latest = log.latest();
        assert_eq!((latest.len(), log.count()), (KEPT, KEPT as u64 + 3));
        assert_eq!(latest.first().map(|slow| slow.request), Some(KEPT + 2));
        assert_eq!(latest.last().map(|slow| slow.request), Some(3));
    }
}
