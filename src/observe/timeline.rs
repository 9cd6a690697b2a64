//! The last hour of the breaker: when it came into which state, and why.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// How far back it reaches.
const REACH: Duration = Duration::from_secs(3600);

/// Most changes that are kept, should it flap.
const MOST: usize = 500;

/// A change of the breaker; states as labels have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: SystemTime,
    /// The state before.
    pub from: &'static str,
    /// The state from then on.
    pub to: &'static str,
    /// Why it changed, in words.
    pub why: &'static str,
}

/// The changes of the last hour.
#[derive(Debug, Default)]
pub struct Timeline(Mutex<VecDeque<Change>>);

impl Timeline {
    /// Adds a change, and forgets those that are too old or too many.
    pub fn add(&self, change: Change) {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.push_back(change);
        while changes.len() > MOST || changes.front().is_some_and(|first| is_old(first, change.at)) {
            changes.pop_front();
        }
    }

    /// Those of the hour before `now`, the oldest first.
    #[must_use]
    pub fn changes(&self, now: SystemTime) -> Vec<Change> {
        let changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.iter().filter(|change| !is_old(change, now)).copied().collect()
    }
}

fn is_old(change: &Change, now: SystemTime) -> bool {
    now.duration_since(change.at).is_ok_and(|age| age > REACH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(second: u64) -> Change {
        Change { at: time(second), from: "closed", to: "open", why: "nothing answered" }
    }

    fn time(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn an_hour_is_kept_whoever_asks_when() {
        let timeline = Timeline::default();
        [0, 1_800, 3_700].into_iter().for_each(|second| timeline.add(change(second)));
        assert_eq!(timeline.changes(time(3_700)), [change(1_800), change(3_700)]);
        assert_eq!(timeline.changes(time(6_000)), [change(3_700)]);
        assert_eq!(timeline.changes(time(10_000)), []);
    }

    #[test]
    fn a_breaker_that_flaps_is_no_leak() {
        let timeline = Timeline::default();
        (0..2_000).for_each(|second| timeline.add(change(second)));
        let changes = timeline.changes(time(2_000));
        assert_eq!((changes.len(), changes[0].at), (MOST, time(1_500)));
    }
}
