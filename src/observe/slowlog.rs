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
    /// Which request it is: its client's id, and when it arrived, in microseconds since the process began.
    pub id: (u64, u64),
    /// How long it was, in bytes.
    pub request: u64,
    /// How long the reply was, in bytes.
    pub reply: u64,
    /// From its arrival until it was written to Redis.
    pub queue: Duration,
    /// From there until the reply had come.
    pub upstream: Duration,
    /// The part of that in which replies to others' requests before it were still due.
    pub head_of_line: Duration,
    /// How long its reply, and those behind it, waited for the client to take them. Told of a client's replies together: the
    /// request is then the one that was answered last; unless that was slow before, its other parts and sizes are not known.
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

    /// Adds what is known of the time that a reply waited for its client; a request that was slow before is not another one.
    pub fn add_flush(&self, slow: Slow) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |known: &&mut Slow| known.id == slow.id && known.command == slow.command;
        match latest.iter_mut().rev().find(is_it) {
            Some(known) => known.flush = slow.flush,
            None => {
                drop(latest);
                self.add(slow);
            }
        }
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
        let most = KEPT as u64;
        (0..most + 3).for_each(|request| log.add(slow(1, request)));
        let latest = log.latest();
        assert_eq!((latest.len(), log.count()), (KEPT, most + 3));
        assert_eq!(latest.first().map(|slow| slow.request), Some(most + 2));
        assert_eq!(latest.last().map(|slow| slow.request), Some(3));
    }

    #[test]
    fn a_request_that_is_slow_twice_over_is_one() {
        let log = SlowLog::default();
        log.add(slow(1, 7));
        log.add(slow(2, 8));
        let flush = Duration::from_secs(2);
        log.add_flush(Slow { flush, ..slow(1, 0) });
        log.add_flush(Slow { flush, ..slow(3, 0) });
        let found: Vec<_> = log.latest().iter().map(|slow| (slow.id.0, slow.request, slow.flush.as_secs())).collect();
        assert_eq!((found, log.count()), (vec![(3, 0, 2), (2, 8, 0), (1, 7, 2)], 3));
    }

    fn slow(client: u64, request: u64) -> Slow {
        Slow {
            at: SystemTime::UNIX_EPOCH,
            command: "get",
            client: String::new(),
            id: (client, 5),
            keys: 1,
            request,
            reply: 5,
            queue: Duration::ZERO,
            upstream: Duration::from_secs(1),
            head_of_line: Duration::ZERO,
            flush: Duration::ZERO,
        }
    }
}
