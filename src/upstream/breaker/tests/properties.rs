//! What holds whatever the breaker is told, in whatever order.

use proptest::{collection::vec, prelude::*};

use super::*;

/// Anything that can be told.
#[derive(Debug, Clone)]
enum Told {
    Pass(u64),
    Success { old: bool },
    Failure { old: bool },
    HealthCheck(bool),
    DialRefused { usable: bool },
    DialMade,
    Hang,
    ProbeSucceeded,
    ProbeFailed,
    Trial,
    TrialEnded(usize, Option<bool>),
    Isolate,
    Release,
}

fn anything() -> impl Strategy<Value = Told> {
    prop_oneof![
        4 => (0u64..2000).prop_map(Told::Pass),
        1 => (0u64..200_000).prop_map(Told::Pass),
        3 => any::<bool>().prop_map(|old| Told::Success { old }),
        6 => any::<bool>().prop_map(|old| Told::Failure { old }),
        2 => any::<bool>().prop_map(Told::HealthCheck),
        2 => any::<bool>().prop_map(|usable| Told::DialRefused { usable }),
        1 => Just(Told::DialMade),
        1 => Just(Told::Hang),
        6 => Just(Told::ProbeSucceeded),
        2 => Just(Told::ProbeFailed),
        6 => Just(Told::Trial),
        6 => (0usize..8, prop_oneof![3 => Just(Some(true)), 1 => Just(Some(false)), 1 => Just(None)])
            .prop_map(|(which, verdict)| Told::TrialEnded(which, verdict)),
        1 => Just(Told::Isolate),
        1 => Just(Told::Release),
    ]
}

/// The arrows of the drawing at the head of the module.
fn is_legal(from: State, to: State, told: &Told) -> bool {
    match (from, to) {
        (_, State::Isolated) => matches!(told, Told::Isolate),
        (State::Isolated, State::Open | State::Disabled) => matches!(told, Told::Release),
        (State::Starting, State::Closed) => matches!(told, Told::ProbeSucceeded | Told::DialMade),
        (State::Starting, State::Open) => matches!(told, Told::ProbeFailed | Told::DialRefused { .. } | Told::Hang),
        (State::Closed, State::Open) => {
            matches!(told, Told::Failure { .. } | Told::HealthCheck(false) | Told::DialRefused { .. } | Told::Hang)
        }
        (State::Open, State::HalfOpen) => matches!(told, Told::ProbeSucceeded),
        (State::HalfOpen, State::Closed) => matches!(told, Told::TrialEnded(_, Some(true))),
        (State::HalfOpen, State::Open) => {
            matches!(told, Told::TrialEnded(_, Some(false)) | Told::Pass(_) | Told::DialRefused { .. } | Told::Hang)
        }
        _ => false,
    }
}

impl Bench {
    /// Tells it; the trials that are not ended are in `trials`.
    fn tell(&mut self, told: &Told, trials: &mut Vec<u32>) {
        let (generation, now, breaker) = (self.breaker.view().generation, self.now, &mut self.breaker);
        match *told {
            Told::Pass(millis) => {
                self.pass(Duration::from_millis(millis));
            }
            Told::Success { old } => breaker.success(generation.wrapping_sub(u32::from(old)), now),
            Told::Failure { old } => breaker.failure(generation.wrapping_sub(u32::from(old)), now),
            Told::HealthCheck(ok) => breaker.health_check(ok, now),
            Told::DialRefused { usable } => breaker.dial_refused(now, usable),
            Told::DialMade => breaker.dial_made(now),
            Told::Hang => breaker.hang(now),
            Told::ProbeSucceeded => {
                let before = breaker.view();
                assert_eq!(breaker.probe_succeeded(now), breaker.view() != before);
            }
            Told::ProbeFailed => breaker.probe_failed(now),
            Told::Trial => trials.extend(breaker.try_trial()),
            Told::TrialEnded(which, verdict) => {
                if which < trials.len() {
                    breaker.trial_ended(trials.swap_remove(which), verdict, now);
                }
            }
            Told::Isolate => breaker.isolate(now),
            Told::Release => breaker.release(now),
        }
    }
}

proptest! {
    #[test]
    fn whatever_it_is_told(
        mode in prop_oneof![6 => Just(Mode::Enabled), 1 => Just(Mode::Disabled), 1 => Just(Mode::Isolated)],
        failures in 0u32..8,
        early_recovery: bool,
        told in vec(anything(), 0..300),
    ) {
        let recovery = 60 * S;
        let mut bench = Bench::starting(Settings { mode, failures, recovery, early_recovery });
        let mut trials = Vec::new();
        for told in told {
            let before = bench.breaker.view();
            let refusing = bench.breaker.retry_in(bench.now).filter(|left| !left.is_zero());
            let seldom = matches!(told, Told::Pass(_) | Told::Isolate);
            bench.tell(&told, &mut trials);
            let after = bench.breaker.view();
            if before.state != after.state {
                prop_assert!(is_legal(before.state, after.state, &told), "{before:?} → {after:?} by {told:?}");
                prop_assert_eq!(bench.breaker.since(), bench.now);
            }
            prop_assert!(after.generation == before.generation + u32::from(after != before));
            if matches!(told, Told::Success { old: true } | Told::Failure { old: true }) {
                prop_assert_eq!(after, before);
            }
            if refusing.is_some() && !early_recovery && !seldom {
                prop_assert_eq!(after, before, "{:?} before the time was up", told);
                prop_assert!(!bench.breaker.may_probe(bench.now));
            }
            let current = trials.iter().filter(|generation| **generation == after.generation).count();
            prop_assert!(current <= 3);
            prop_assert!(current == 0 || after.state == State::HalfOpen);
            prop_assert!(bench.breaker.retry_in(bench.now) <= Some(recovery));
            prop_assert_eq!(bench.breaker.retry_in(bench.now).is_some(), after.state == State::Open);
            prop_assert!(mode != Mode::Disabled || [State::Disabled, State::Isolated].contains(&after.state));
        }
    }

    #[test]
    fn it_always_finds_its_way_back(failures in 0u32..8, early_recovery: bool, told in vec(anything(), 0..200)) {
        let mut bench = Bench::starting(Settings { failures, early_recovery, ..settings() });
        let mut trials = Vec::new();
        for told in told {
            bench.tell(&told, &mut trials);
        }
        bench.breaker.release(bench.now);
        // From now on Redis is well. Trials that were taken and forgotten hold it up for 10 s and an open time.
        let limit = bench.now + 75 * S;
        while bench.state() != State::Closed {
            prop_assert!(bench.now < limit, "still {:?}", bench.breaker);
            bench.pass(100 * MS);
            if bench.breaker.may_probe(bench.now) {
                bench.breaker.probe_succeeded(bench.now);
            }
            if let Some(trial) = bench.breaker.try_trial() {
                bench.breaker.trial_ended(trial, Some(true), bench.now);
            }
        }
    }
}
