//! The last quarter of an hour, in steps of five seconds: how much was asked, how long it took, and what became of it.
//!
//! Pure: whoever keeps it says what time it is, and what was counted until then.

use std::collections::VecDeque;
use std::mem;
use std::time::{Duration, SystemTime};

use super::cells::{Class, Found, Outcome, Sample};
use super::metrics::{Metrics, as_float};

/// A step.
pub const STEP: Duration = Duration::from_secs(5);

/// How many are kept: a quarter of an hour.
const KEPT: usize = 180;

/// What was counted since the process began.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Requests, whatever became of them.
    pub requests: u64,
    /// Those that Redis has answered by an error.
    pub errors: u64,
    /// Those that were answered without Redis, as an empty one would or by an error of ours.
    pub without_redis: u64,
    /// Reads that found something.
    pub hits: u64,
    /// Reads that found nothing.
    pub misses: u64,
    /// How long reads and writes took.
    pub durations: Sample,
}

/// What happened within one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Its end.
    pub at: SystemTime,
    /// Requests a second.
    pub requests: f64,
    /// Of these, answered by Redis with an error.
    pub errors: f64,
    /// Of these, answered without Redis.
    pub without_redis: f64,
    /// Half of the reads and writes took no longer, in milliseconds; none if there were none.
    pub p50: Option<f64>,
    /// 99 of 100 took no longer.
    pub p99: Option<f64>,
    /// The share of reads that found something; none if there were none.
    pub hit_rate: Option<f64>,
}

/// The points.
#[derive(Debug, Default)]
pub struct History {
    before: Totals,
    points: VecDeque<Point>,
}

impl Totals {
    /// What was counted until now.
    #[must_use]
    pub fn of(metrics: &Metrics) -> Self {
        let outcomes = metrics.commands().into_iter().flat_map(|(_, counts)| Outcome::ALL.into_iter().zip(counts));
        let mut totals = outcomes.fold(Self::default(), |mut totals, (outcome, count)| {
            totals.requests += count;
            match outcome {
                Outcome::ErrorReply => totals.errors += count,
                Outcome::Degraded | Outcome::Unavailable | Outcome::Indeterminate => totals.without_redis += count,
                Outcome::Ok | Outcome::Local => {}
            }
            totals
        });
        for class in [Class::Read, Class::Write] {
            totals.durations.add(&metrics.sample(|cells| cells.durations(class)));
        }
        totals.hits = metrics.sum(|cells| cells.found(Found::Hit));
        totals.misses = metrics.sum(|cells| cells.found(Found::Miss));
        totals
    }
}

impl History {
    /// At this time so much had been counted; `took` is how long ago that was said last, or that the process began.
    pub fn add(&mut self, at: SystemTime, took: Duration, totals: Totals) {
        let Self { before: now, points } = self;
        let before = mem::replace(now, totals);
        if took.is_zero() {
            return;
        }
        let rate = |of: fn(&Totals) -> u64| as_float(of(now).saturating_sub(of(&before))) / took.as_secs_f64();
        let durations = now.durations.since(&before.durations);
        let quantile = |share| durations.quantile(share).map(|micros| rounded(micros / 1e3));
        let [hits, misses] = [rate(|totals| totals.hits), rate(|totals| totals.misses)];
        if points.len() == KEPT {
            points.pop_front();
        }
        points.push_back(Point {
            at,
            requests: rounded(rate(|totals| totals.requests)),
            errors: rounded(rate(|totals| totals.errors)),
            without_redis: rounded(rate(|totals| totals.without_redis)),
            p50: quantile(0.5),
            p99: quantile(0.99),
            hit_rate: (hits + misses > 0.0).then(|| rounded(hits / (hits + misses))),
        });
    }

    /// All, the oldest first.
    pub fn points(&self) -> impl Iterator<Item = &Point> {
        self.points.iter()
    }
}

/// To three places: more would only be noise.
fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::cells::Durations;

    fn at(step: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + STEP * u32::try_from(step).expect("a few")
    }

    fn lasting(micros: u64, count: u64) -> Sample {
        let (durations, mut sample) = (Durations::default(), Sample::default());
        (0..count).for_each(|_| durations.observe(micros));
        durations.add_to(&mut sample);
        sample
    }

    #[test]
    fn a_point_is_what_happened_since_the_one_before() {
        let mut history = History::default();
        let first =
            Totals { requests: 1_000, hits: 900, misses: 100, durations: lasting(40, 1_000), ..Totals::default() };
        history.add(at(1), STEP, first);
        assert_eq!(history.points().map(|point| point.requests).collect::<Vec<_>>(), [200.0], "since the beginning");
        let mut durations = lasting(40, 1_000);
        durations.add(&lasting(900_000, 100));
        let second = Totals { requests: 1_100, errors: 10, without_redis: 50, hits: 925, misses: 175, durations };
        history.add(at(2), STEP, second.clone());
        let point = *history.points().last().expect("there is one");
        assert_eq!((point.at, point.requests, point.errors, point.without_redis), (at(2), 20.0, 2.0, 10.0));
        assert_eq!(point.hit_rate, Some(0.25), "those before do not count any more");
        let (p50, p99) = (point.p50.expect("some"), point.p99.expect("some"));
        assert!((500.0..p99).contains(&p50) && p99 <= 1_000.0, "{p50} and {p99} of requests that took 900 ms");
        history.add(at(3), STEP, second);
        let point = *history.points().last().expect("there is one");
        assert_eq!((point.requests, point.p50, point.p99, point.hit_rate), (0.0, None, None, None));
    }

    #[test]
    fn a_late_look_does_not_look_like_a_burst() {
        let mut history = History::default();
        history.add(at(0), STEP, Totals::default());
        history.add(at(4), STEP * 4, Totals { requests: 200, ..Totals::default() });
        assert_eq!(history.points().map(|point| point.requests).collect::<Vec<_>>(), [0.0, 10.0]);
    }

    #[test]
    fn a_quarter_of_an_hour_is_kept() {
        let mut history = History::default();
        (0..1_000).for_each(|step| history.add(at(step), STEP, Totals::default()));
        let points: Vec<_> = history.points().collect();
        assert_eq!((points.len(), points[0].at, points[179].at), (180, at(820), at(999)));
    }
}
