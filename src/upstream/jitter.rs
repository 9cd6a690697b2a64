//! Random lengths of time, so that many sidecars do not do the same thing in the same moment.
//!
//! The generator is SplitMix64 (Steele, Lea and Flood, 2014): eight bytes of state, good enough to spread moments, and the
//! same from the same seed, so that a simulation can be repeated. It keeps no secrets.

use std::time::Duration;

/// A source of random lengths of time.
#[derive(Debug, Clone)]
pub(super) struct Jitter(u64);

impl Jitter {
    /// The same seed gives the same lengths.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A length from `shortest` to `longest`, both possible, each as likely as the next; `shortest` if that is longer.
    pub(super) fn between(&mut self, shortest: Duration, longest: Duration) -> Duration {
        let span = longest.saturating_sub(shortest).as_nanos();
        // A span of more than the 584 years that fit into 64 bits is cut to them.
        let span = u64::try_from(span).unwrap_or(u64::MAX);
        // The upper half of the product of a random 64-bit fraction and the span, which is less biased than a remainder.
        let part = (u128::from(self.next()) * (u128::from(span) + 1)) >> 64;
        shortest + Duration::from_nanos(u64::try_from(part).unwrap_or(span))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn lengths_stay_within_their_bounds_and_fill_them() {
        let mut jitter = Jitter::new(7);
        let lengths: Vec<_> = (0..10_000).map(|_| jitter.between(100 * MS, 200 * MS)).collect();
        assert!(lengths.iter().all(|length| (100 * MS..=200 * MS).contains(length)));
        for tenth in 0..10 {
            let from = 100 * MS + tenth * 10 * MS;
            let within = lengths.iter().filter(|length| (from..from + 10 * MS).contains(*length)).count();
            assert!((850..1150).contains(&within), "{within} of 10 000 from {from:?} on");
        }
    }

    #[test]
    fn odd_bounds_do_no_harm() {
        let mut jitter = Jitter::new(0);
        assert_eq!(jitter.between(5 * MS, 5 * MS), 5 * MS);
        assert_eq!(jitter.between(5 * MS, 4 * MS), 5 * MS);
        assert!(jitter.between(Duration::ZERO, Duration::MAX) <= Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn a_seed_is_a_story() {
        let told = |seed| {
            let mut jitter = Jitter::new(seed);
            [(); 8].map(|()| jitter.between(Duration::ZERO, Duration::from_secs(1)))
        };
        assert_eq!(told(1), told(1));
        assert_ne!(told(1), told(2));
    }
}
