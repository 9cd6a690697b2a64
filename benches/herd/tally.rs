//! What is counted: dials by the hundredth of a second, and the fullest stretch of them.

/// Nanoseconds of virtual time.
pub(crate) type Nanos = u64;

const SLOT: Nanos = 10_000_000;

/// How many dials began in each hundredth of a second.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    slots: Vec<u32>,
}

impl Tally {
    pub(crate) fn count(&mut self, at: Nanos) {
        let slot = (at / SLOT) as usize;
        if slot >= self.slots.len() {
            self.slots.resize(slot + 1, 0);
        }
        self.slots[slot] += 1;
    }

    /// The most dials in any second (to the hundredth) that begins at `from` or later.
    pub(crate) fn most_in_a_second(&self, from: Nanos) -> u32 {
        self.most(from, 100)
    }

    /// The same of any tenth of a second.
    pub(crate) fn most_in_a_tenth(&self, from: Nanos) -> u32 {
        self.most(from, 10)
    }

    fn most(&self, from: Nanos, slots: usize) -> u32 {
        let later = self.slots.get((from / SLOT) as usize..).unwrap_or_default();
        let whole = later.windows(slots.min(later.len()).max(1)).map(|window| window.iter().sum());
        whole.max().unwrap_or(0)
    }
}
