//! Admission: how many requests a connection can answer before their deadline, at the rate it shows.
//!
//! A server that is slow rather than gone would let the queue before it grow until whatever comes out has missed its
//! deadline: everybody waits for nothing. So new work is refused as soon as the queue is as long as the server can
//! serve in time; what is refused was never sent, and its client knows at once. Pure.

use std::time::Duration;

/// Batches of replies that the rate is taken from. The slowest of them does not count: one pause, such as a long script,
/// is not yet a slow server. Enough for some turns of a server that serves one connection's whole queue and then another's.
const BATCHES: usize = 32;

/// The rate counts as known from so many on.
const ENOUGH: usize = 8;

/// A server that answered all these within less than this part of the deadline is not slow, however small the batches: what
/// is seen then is how we were scheduled.
const PROMPT: u64 = 8;

/// Requests in flight on a connection whose rate is not known yet; each reply adds one. A quick server has shown it within
/// milliseconds, and a slow one is not given more than it can answer.
const FIRST_LIMIT: usize = 8;

/// The part of the deadline that the queue may fill: the rest is for what the rate does not foresee.
const SHARE: (u64, u64) = (2, 3);

/// The rate of one connection, and the queue it allows.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The latest batches: how many replies came, within how many microseconds.
    recent: [(u64, u64); BATCHES],
    batches: usize,
    deadline: Duration,
    limit: usize,
}

impl Admission {
    /// Nothing is known of the server yet; requests have `deadline` in all.
    pub(crate) fn new(deadline: Duration) -> Self {
        Self { recent: [(0, 0); BATCHES], batches: 0, deadline, limit: FIRST_LIMIT }
    }

    /// Most requests that may be in flight.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether the limit is what the server can do. If it is not known yet, requests beyond it do well to wait a moment.
    pub(crate) fn is_known(&self) -> bool {
        self.batches >= ENOUGH
    }

    /// Notes replies to commands that may honestly take long: they say that the server lives, and nothing of its rate.
    pub(crate) fn replied_slowly(&mut self, replies: usize) {
        if !self.is_known() {
            self.limit += replies;
        }
    }

    /// Notes that so many replies came within `busy`: the time since the replies before them, or since the request if
    /// nothing was in flight.
    pub(crate) fn replied(&mut self, replies: usize, busy: Duration) {
        let micros = u64::try_from(busy.as_micros()).unwrap_or(u64::MAX);
        if let Some(batch) = self.recent.get_mut(self.batches % BATCHES) {
            *batch = (replies as u64, micros);
        }
        self.batches = if self.batches >= BATCHES { BATCHES + (self.batches + 1) % BATCHES } else { self.batches + 1 };
        if !self.is_known() {
            self.limit += replies;
            return;
        }
        let slowest = self.recent.iter().copied().max_by_key(|(replies, micros)| micros / replies.max(&1));
        let (excepted_replies, excepted_micros) = slowest.unwrap_or_default();
        let (replies, micros) = self
            .recent
            .iter()
            .fold((0, 0), |(replies, micros): (u64, u64), batch| (replies + batch.0, micros.saturating_add(batch.1)));
        let (replies, micros) = (replies - excepted_replies, micros.saturating_sub(excepted_micros));
        let deadline = u64::try_from(self.deadline.as_micros()).unwrap_or(u64::MAX);
        if micros < deadline / PROMPT {
            self.limit = usize::MAX;
            return;
        }
        let count = (deadline / SHARE.1 * SHARE.0).saturating_mul(replies).checked_div(micros);
        self.limit = count.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX).max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn shown(batches: &[(usize, Duration)]) -> usize {
        let mut admission = Admission::new(4 * SECOND);
        batches.iter().for_each(|(replies, busy)| admission.replied(*replies, *busy));
        admission.limit()
    }

    #[test]
    fn a_slow_server_gets_what_it_can_answer_in_time() {
        assert_eq!(shown(&[(1, SECOND / 5); 8]), 13, "two thirds of four seconds, one reply in 200 ms");
        assert_eq!(shown(&[(10, 2 * SECOND); 8]), 13, "the same in bursts");
        assert_eq!(shown(&[(1, 10 * SECOND); 8]), 1, "one always");
        let (quick, slow) = ((1, SECOND / 10), (1, SECOND / 2));
        assert_eq!(shown(&[quick, slow, quick, slow, quick, slow, quick, slow]), 9, "not the rate of its best moments");
    }

    #[test]
    fn a_pause_is_no_slow_server() {
        let mut batches = [(100, SECOND / 1000); 8];
        batches[5] = (1, 3 * SECOND);
        assert!(shown(&batches) > 100_000);
    }

    #[test]
    fn a_new_server_is_given_little_at_first() {
        assert_eq!(shown(&[]), 8);
        assert_eq!(shown(&[(1, SECOND), (16, SECOND), (2, SECOND)]), 8 + 19, "each reply adds one");
    }

    #[test]
    fn a_server_that_answers_promptly_is_not_slow_however_few_replies_come_at_once() {
        assert_eq!(shown(&[(1, SECOND / 100); 40]), usize::MAX);
    }
}
