//! How often something happened to clients, by the names they give themselves (CLIENT SETNAME).
//!
//! Names are the clients' own, and there may be any number of them: so many are told apart, and the rest counted together.

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

    /// All, the most frequent first.
    #[must_use]
    pub fn counts(&self) -> Vec<(String, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let mut counts: Vec<_> = counts.iter().map(|(name, count)| (text(name), *count)).collect();
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
        let counts = names.counts();
        assert_eq!(counts.len(), MOST + 1);
        assert_eq!(counts[..2], [("other".to_owned(), 151), ("app".to_owned(), 6)]);
        let names = Names::default();
        (0..3).for_each(|end| names.count(&[b"x".repeat(4_000), vec![end]].concat()));
        assert_eq!(names.counts(), [("x".repeat(LONGEST), 3)]);
    }
}
