//! Many durations, and what a report says of them: the median, the 99th percentile, the worst.

use std::time::Duration;

/// Durations, shortest first.
#[derive(Default)]
pub struct Spread {
    sorted: Vec<Duration>,
}

impl Spread {
    /// The middle one: half of all are no longer. Zero if there are none.
    pub fn median(&self) -> Duration {
        self.percentile(50)
    }

    /// 99 of 100 are no longer.
    pub fn p99(&self) -> Duration {
        self.percentile(99)
    }

    /// The longest.
    pub fn worst(&self) -> Duration {
        self.sorted.last().copied().unwrap_or_default()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// `median 0.8 ms, p99 2.1 ms, worst 3.0 ms of 50`
    pub fn shown(&self) -> String {
        let milliseconds = |duration: Duration| format!("{:.1} ms", duration.as_secs_f64() * 1000.0);
        let [median, p99, worst] = [self.median(), self.p99(), self.worst()].map(milliseconds);
        format!("median {median}, p99 {p99}, worst {worst} of {}", self.count())
    }

    /// The smallest that `percent` of all do not exceed.
    fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.sorted.len() * percent).div_ceil(100);
        self.sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

impl FromIterator<Duration> for Spread {
    fn from_iter<I: IntoIterator<Item = Duration>>(durations: I) -> Self {
        let mut sorted: Vec<_> = durations.into_iter().collect();
        sorted.sort_unstable();
        Self { sorted }
    }
}

#[test]
fn percentiles_are_of_the_nearest_rank() {
    let spread: Spread = (1..=200).rev().map(Duration::from_millis).collect();
    let found = [spread.median(), spread.p99(), spread.worst()];
    assert_eq!(found, [100, 198, 200].map(Duration::from_millis));
    assert_eq!(Spread::default().p99(), Duration::ZERO);
}
