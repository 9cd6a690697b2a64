//! The retry budget: how much work may be repeated, so that repeats cannot make an overload worse.
//!
//! One repeat for every five requests and ten a second besides (for those who ask little), as Finagle does it; what is not
//! used is forgotten with a time constant of 10 s. No I/O and no clock: [`Budget::tick`] is the time.

/// What a repeat costs. In thousandths, so that a fifth and a hundredth of it are whole numbers.
const REPEAT: u64 = 1000;

/// What a request adds: 20 % of a repeat.
const DEPOSIT: u64 = REPEAT / 5;

/// What a tick of 100 ms adds: ten repeats a second.
const RESERVE: u64 = REPEAT;

/// The part of the balance that a tick of 100 ms takes away: 10 s are a hundred ticks.
const FORGOTTEN: u64 = 100;

/// A budget of repeats.
#[derive(Debug)]
pub struct Budget {
    balance: u64,
}

impl Budget {
    /// With what ten quiet seconds would have saved: 100 repeats.
    pub fn new() -> Self {
        Self { balance: RESERVE * FORGOTTEN }
    }

    /// So many requests were sent for the first time.
    pub fn deposit(&mut self, requests: u64) {
        self.balance = self.balance.saturating_add(requests.saturating_mul(DEPOSIT));
    }

    /// 100 ms passed.
    pub fn tick(&mut self) {
        self.balance = (self.balance - self.balance / FORGOTTEN).saturating_add(RESERVE);
    }

    /// Takes `repeats` out, all or none of them; false if there are not so many left.
    #[must_use = "what is not granted must not be repeated"]
    pub fn withdraw(&mut self, repeats: u64) -> bool {
        let left = repeats.checked_mul(REPEAT).and_then(|cost| self.balance.checked_sub(cost));
        self.balance = left.unwrap_or(self.balance);
        left.is_some()
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Single repeats that `budget` grants at once, up to a million.
    fn granted(budget: &mut Budget) -> usize {
        (0..1_000_000).take_while(|_| budget.withdraw(1)).count()
    }

    #[test]
    fn starts_with_ten_seconds_of_the_reserve() {
        assert_eq!(granted(&mut Budget::new()), 100);
    }

    #[test]
    fn an_idle_budget_does_not_grow() {
        let mut budget = Budget::new();
        for _ in 0..100_000 {
            budget.tick();
        }
        assert_eq!(granted(&mut budget), 100);
    }

    #[test]
    fn an_empty_budget_gains_ten_a_second() {
        let mut budget = Budget::new();
        assert!(budget.withdraw(100));
        for second in 0..20 {
            for _ in 0..10 {
                budget.tick();
                assert!(budget.withdraw(1), "second {second}");
                assert!(!budget.withdraw(1), "second {second}");
            }
        }
    }

    #[test]
    fn five_requests_earn_one_repeat() {
        let mut budget = Budget::new();
        assert!(budget.withdraw(100));
        budget.deposit(4);
        assert!(!budget.withdraw(1));
        budget.deposit(1);
        assert!(budget.withdraw(1));
        assert!(!budget.withdraw(1));
    }

    #[test]
    fn deposits_are_forgotten() {
        let mut budget = Budget::new();
        assert!(budget.withdraw(100));
        budget.deposit(50_000);
        for _ in 0..100 {
            budget.tick();
        }
        // e⁻¹ of the 10 000 that were earned, and 1 − e⁻¹ of the reserve.
        assert!((3600..3800).contains(&granted(&mut budget)));
    }

    #[test]
    fn all_or_none() {
        let mut budget = Budget::new();
        assert!(!budget.withdraw(101));
        assert!(!budget.withdraw(u64::MAX));
        assert!(budget.withdraw(100));
        assert!(budget.withdraw(0));
    }

    #[test]
    fn no_number_overflows() {
        let mut budget = Budget::new();
        budget.deposit(u64::MAX);
        budget.deposit(u64::MAX);
        budget.tick();
        assert!(budget.withdraw(u64::MAX / REPEAT / 2));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Deposit(u64),
        Tick,
        Withdraw(u64),
    }

    proptest! {
        #[test]
        fn never_more_than_a_fifth_and_ten_a_second(steps in vec(prop_oneof![
            (0u64..5000).prop_map(Step::Deposit),
            Just(Step::Tick),
            (0u64..500).prop_map(Step::Withdraw),
        ], 0..400)) {
            let mut budget = Budget::new();
            let (mut requests, mut ticks, mut repeats) = (0, 0, 0);
            for step in steps {
                match step {
                    Step::Deposit(count) => { budget.deposit(count); requests += count; }
                    Step::Tick => { budget.tick(); ticks += 1; }
                    Step::Withdraw(count) => repeats += if budget.withdraw(count) { count } else { 0 },
                }
                prop_assert!(repeats * 5 <= requests + 5 * ticks + 500, "{repeats} for {requests} in {ticks} ticks");
            }
        }
    }
}
