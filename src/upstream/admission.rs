//! Admission: how many requests a connection can answer before their deadline, at the rate it shows.
//!
//! A server that is slow rather than gone would let the queue before it grow until whatever comes out has missed its
//! deadline: everybody waits for nothing. So new work is refused as soon as the queue is as long as the server can
//! serve in time; what is refused was never sent, and its client knows at once. Pure.

use std::time::Duration;

/// Batches of replies that are remembered.
const BATCHES: usize = 32;

/// The rate counts as known from so many on.
const ENOUGH: usize = 8;

/// A server whose batches all came within less than this part of the deadline, but for the longest, is not slow, however
/// small they are: one pause, such as a long script, is not yet a slow server, and the rest is how we were scheduled.
const PROMPT: u64 = 8;

/// An exchange that leaves nothing in flight and took less than this part of the deadline says nothing of the rate: with few
/// requests at a time what is seen is the distance to the server, and how much was asked.
const NEAR: u64 = 40;

/// The rate is taken over about so many parts of the deadline, and the lowest of these rates holds. The short time shows a
/// server that was just quick and is slow now; the long one a server that serves one connection's whole queue and then
/// another's.
const SPANS: [u64; 2] = [4, 1];

/// Requests in flight on a connection whose rate is not known yet; each reply adds one. A quick server has shown it within
/// milliseconds, and a slow one is not given more than it can answer.
const FIRST_LIMIT: usize = 8;

/// The part of the deadline that the queue may fill: the rest is for what the rate does not foresee.
const SHARE: (u64, u64) = (2, 3);

/// The rate of one connection, and the queue it allows.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The latest batches in a ring: how many replies came, within how many microseconds.
    recent: [(u64, u64); BATCHES],
    /// The place of the next one.
    next: usize,
    batches: usize,
    /// The microseconds of all of them.
    micros: u64,
    /// In microseconds.
    deadline: u64,
    limit: usize,
}

impl Admission {
    /// Nothing is known of the server yet; requests have `deadline` in all.
    pub(crate) fn new(deadline: Duration) -> Self {
        let deadline = u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX);
        Self { recent: [(0, 0); BATCHES], next: 0, batches: 0, micros: 0, deadline, limit: FIRST_LIMIT }
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
    /// nothing was in flight. `drained`: nothing is in flight now.
    pub(crate) fn replied(&mut self, replies: usize, busy: Duration, drained: bool) {
        // An hour at most, so that no sum overflows.
        let mut micros = u64::try_from(busy.as_micros()).unwrap_or(u64::MAX).clamp(1, 3_600_000_000);
        if drained && micros < self.deadline / NEAR {
            // It was the way there and back, and the server waited for us.
            micros = 1;
        }
        if let Some(batch) = self.recent.get_mut(self.next) {
            self.micros += micros;
            self.micros -= batch.1;
            *batch = (replies as u64, micros);
        }
        self.next = (self.next + 1) % BATCHES;
        self.batches = (self.batches + 1).min(BATCHES);
        if self.is_known() {
            self.limit = if self.is_prompt() { usize::MAX } else { self.most_in_time() };
        } else {
            self.limit += replies;
        }
    }

    fn is_prompt(&self) -> bool {
        let prompt = self.deadline / PROMPT;
        // The longest is looked for only where it may matter, which is never while the server is quick.
        self.micros < prompt || {
            let longest = self.recent.iter().map(|(_, micros)| *micros).max().unwrap_or(0);
            self.micros - longest < prompt
        }
    }

    /// How many are answered in time at the lowest of the rates.
    fn most_in_time(&self) -> usize {
        SPANS.iter().map(|part| self.most_at_rate_of(self.deadline / part)).min().unwrap_or(usize::MAX)
    }

    /// How many are answered in time at the rate of the latest batches, about `span` microseconds of them.
    fn most_at_rate_of(&self, span: u64) -> usize {
        let (mut replies, mut micros) = (0, 0);
        let (newer, older) = self.recent.split_at(self.next);
        for batch in newer.iter().rev().chain(older.iter().rev()).take(self.batches) {
            if micros >= span {
                break;
            }
            replies += batch.0;
            micros += batch.1;
        }
        let time = self.deadline / SHARE.1 * SHARE.0;
        let most = u128::from(time) * u128::from(replies) / u128::from(micros.max(1));
        usize::try_from(most).unwrap_or(usize::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn shown(batches: &[(usize, Duration)]) -> usize {
        let mut admission = Admission::new(4 * SECOND);
        batches.iter().for_each(|(replies, busy)| admission.replied(*replies, *busy, false));
        admission.limit()
    }

    #[test]
    fn a_slow_server_gets_what_it_can_answer_in_time() {
        assert_eq!(shown(&[(1, SECOND / 5); 8]), 13, "two thirds of four seconds, one reply in 200 ms");
        assert_eq!(shown(&[(10, 2 * SECOND); 8]), 13, "the same in bursts");
        assert_eq!(shown(&[(1, 10 * SECOND); 8]), 1, "one always");
        let (quick, slow) = ((1, SECOND / 10), (1, SECOND / 2));
        let shown = shown(&[quick, slow, quick, slow, quick, slow, quick, slow]);
        assert!((6..=8).contains(&shown), "not the rate of its best moments: {shown}");
    }

    #[test]
    fn what_it_gives_to_other_connections_is_not_ours() {
        // Runs of six replies, 200 ms each, with three times as long for others in between.
        let cycle = [vec![(1, 19 * SECOND / 5)], vec![(1, SECOND / 5); 5]].concat();
        assert!((3..=4).contains(&shown(&cycle.repeat(4))), "{}", shown(&cycle.repeat(4)));
        let once = [vec![(1, SECOND / 5); 40], vec![(1, 4 * SECOND)], vec![(1, SECOND / 5)]].concat();
        assert!(shown(&once) <= 2, "{}", shown(&once));
    }

    #[test]
    fn a_server_that_turns_slow_is_soon_known_as_slow() {
        let batches = [vec![(100, SECOND / 1000); 40], vec![(1, SECOND); 5]].concat();
        assert_eq!(shown(&batches), 2);
    }

    #[test]
    fn a_pause_is_no_slow_server() {
        let mut batches = [(100, SECOND / 1000); 8];
        batches[5] = (1, 3 * SECOND);
        assert_eq!(shown(&batches), usize::MAX);
    }

    #[test]
    fn a_server_that_is_far_away_is_not_slow() {
        let mut admission = Admission::new(4 * SECOND);
        (0..100).for_each(|_| admission.replied(1, SECOND / 50, true));
        assert_eq!(admission.limit(), usize::MAX);
        (0..100).for_each(|_| admission.replied(1, SECOND / 5, true));
        assert_eq!(admission.limit(), 13, "but no network takes that long");
    }

    #[test]
    fn a_new_server_is_given_little_at_first() {
        assert_eq!(shown(&[]), 8);
        assert_eq!(shown(&[(1, SECOND), (16, SECOND), (2, SECOND)]), 8 + 19, "each reply adds one");
    }

    #[test]
    fn a_server_that_answers_promptly_is_not_slow_however_few_replies_come_at_once() {
        assert_eq!(shown(&[(1, SECOND / 100); 100]), usize::MAX);
    }
}
