//! How often something happened to clients, by the names they give themselves (CLIENT SETNAME).
//!
//! Names are the clients' own, and there may be any number of them: each worker tells so many apart, and counts the rest
//! together. It counts for itself, so that it shares the lock with none but whoever reads.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Names that are told apart.
const MOST: usize = 50;

/// What the others are counted under.
const OTHER: &[u8] = b"other";

/// Bytes of a name that matter.
const LONGEST: usize = 100;

/// Counts by name.
#[derive(Debug, Default)]
pub struct Names(Mutex<HashMap<Box<[u8]>, u64>>);

impl Names {
    /// Counts one for a client of this name. Allocates the first time only.
    pub fn count(&self, name: &[u8]) {
        let name = name.get(..LONGEST).unwrap_or(name);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(name) {
            *count += 1;
            return;
        }
        let name = if counts.len() < MOST { name } else { OTHER };
        *counts.entry(name.into()).or_default() += 1;
    }

    /// All of these together, the most frequent first.
    #[must_use]
    pub fn sum<'a>(all: impl Iterator<Item = &'a Self>) -> Vec<(String, u64)> {
        let mut sums: HashMap<String, u64> = HashMap::new();
        for Self(counts) in all {
            for (name, count) in &*counts.lock().unwrap_or_else(PoisonError::into_inner) {
                *sums.entry(String::from_utf8_lossy(name).into_owned()).or_default() += count;
            }
        }
        let mut counts: Vec<_> = sums.into_iter().collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_in_number_and_length() {
        let names = Names::default();
        names.count(b"app");
        (0..200).for_each(|number| names.count(format!("pod-{number}").as_bytes()));
        (0..5).for_each(|_| names.count(b"app"));
        let others = Names::default();
        others.count(b"app");
        let counts = Names::sum([&names, &others].into_iter());
        assert_eq!(counts.len(), MOST + 1);
        assert_eq!(counts[..2], [("other".to_owned(), 151), ("app".to_owned(), 7)]);
        let names = Names::default();
        (0..3).for_each(|end| names.count(&[b"x".repeat(4_000), vec![end]].concat()));
        assert_eq!(Names::sum([&names].into_iter()), [("x".repeat(LONGEST), 3)]);
    }
}
