//! What trips, what does not, how it recovers, and what can never happen, in virtual time.

mod properties;
mod shared;

use super::*;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn settings() -> Settings {
    Settings { mode: Mode::Enabled, failures: 5, recovery: 60 * S, early_recovery: true }
}

/// A breaker and the time.
struct Bench {
    breaker: Breaker,
    now: Instant,
}

impl Bench {
    fn starting(settings: Settings) -> Self {
        let now = Instant::now();
        Self { breaker: Breaker::new(settings, 1, now), now }
    }

    fn closed() -> Self {
        Self::closed_with(settings())
    }

    fn closed_with(settings: Settings) -> Self {
        let mut bench = Self::starting(settings);
        assert!(bench.breaker.probe_succeeded(bench.now));
        bench
    }

    fn half_open() -> Self {
        let mut bench = Self::closed();
        bench.trip();
        assert!(bench.breaker.probe_succeeded(bench.now));
        bench
    }

    fn state(&self) -> State {
        self.breaker.view().state
    }

    fn pass(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self.breaker.tick(self.now);
        self
    }

    fn succeed(&mut self, times: usize) {
        for _ in 0..times {
            self.breaker.success(self.breaker.view().generation, self.now);
        }
    }

    fn fail(&mut self, times: usize) {
        for _ in 0..times {
            self.breaker.failure(self.breaker.view().generation, self.now);
        }
    }

    fn trip(&mut self) {
        self.breaker.hang(self.now);
        assert_eq!(self.state(), State::Open);
    }

    /// Lets the open time pass to its end.
    fn wait_until_time_is_up(&mut self) {
        self.now += self.breaker.retry_in(self.now).expect("it is open");
    }

    /// One failed probe after the other, each when the time is up, and how long it was open after each.
    fn reopen(&mut self) -> Duration {
        self.wait_until_time_is_up();
        self.breaker.probe_failed(self.now);
        self.breaker.retry_in(self.now).expect("it is open still")
    }

    /// Open → half-open → closed.
    fn recover(&mut self) {
        assert!(self.breaker.probe_succeeded(self.now));
        for _ in 0..3 {
            let trial = self.breaker.try_trial().expect("it is half-open");
            self.breaker.trial_ended(trial, Some(true), self.now);
        }
        assert_eq!(self.state(), State::Closed);
    }

    #[track_caller]
    fn is_open_for(&self, reason: Reason) {
        assert_eq!((self.state(), self.breaker.reason()), (State::Open, reason));
    }
}

mod starting {
    use super::*;

    #[test]
    fn a_connection_closes() {
        for made in [true, false] {
            let mut bench = Bench::starting(settings());
            assert!(bench.breaker.may_probe(bench.now));
            if made {
                bench.breaker.dial_made(bench.now);
            } else {
                assert!(bench.breaker.probe_succeeded(bench.now));
            }
            assert_eq!(bench.breaker.view(), View { state: State::Closed, generation: 1 });
        }
    }

    #[test]
    fn the_first_failed_dial_opens() {
        for probe in [true, false] {
            let mut bench = Bench::starting(settings());
            if probe {
                bench.breaker.probe_failed(bench.now);
            } else {
                bench.breaker.dial_refused(bench.now, false);
            }
            bench.is_open_for(Reason::Startup);
        }
    }

    #[test]
    fn a_hang_opens_and_results_mean_nothing() {
        let mut bench = Bench::starting(settings());
        bench.fail(100);
        bench.succeed(100);
        assert_eq!(bench.state(), State::Starting);
        bench.breaker.hang(bench.now);
        bench.is_open_for(Reason::Hang);
    }
}

mod failures_in_a_row {
    use super::*;

    #[test]
    fn five_trip_and_four_do_not() {
        let mut bench = Bench::closed();
        bench.fail(4);
        assert_eq!(bench.state(), State::Closed);
        bench.fail(1);
        bench.is_open_for(Reason::Failures);
    }

    #[test]
    fn a_success_starts_the_count_anew() {
        let mut bench = Bench::closed();
        for _ in 0..4 {
            bench.fail(4);
            bench.succeed(9);
        }
        assert_eq!(bench.state(), State::Closed);
    }

    #[test]
    fn the_number_is_a_setting_and_zero_is_none() {
        let mut bench = Bench::closed_with(Settings { failures: 2, ..settings() });
        bench.fail(2);
        bench.is_open_for(Reason::Failures);
        let mut bench = Bench::closed_with(Settings { failures: 0, ..settings() });
        bench.fail(19);
        assert_eq!(bench.state(), State::Closed);
        bench.fail(1);
        bench.is_open_for(Reason::Ratio);
    }

    #[test]
    fn they_may_be_far_apart() {
        let mut bench = Bench::closed();
        for _ in 0..5 {
            bench.fail(1);
            bench.pass(3600 * S);
        }
        bench.is_open_for(Reason::Failures);
    }

    #[test]
    fn results_of_another_generation_are_not_ours() {
        let mut bench = Bench::closed();
        let before = bench.breaker.view().generation;
        bench.trip();
        bench.recover();
        for _ in 0..100 {
            bench.breaker.failure(before, bench.now);
        }
        assert_eq!(bench.state(), State::Closed);
        bench.fail(4);
        bench.breaker.success(before, bench.now);
        bench.fail(1);
        bench.is_open_for(Reason::Failures);
    }
}

mod ratio {
    use super::*;

    /// Rounds of `good` successes and then `bad` failures, one round each `every`, until it trips: how many results.
    fn results_until_open(good: usize, bad: usize, every: Duration) -> Option<usize> {
        let mut bench = Bench::closed();
        for round in 1..100 {
            bench.succeed(good);
            bench.fail(bad);
            if bench.state() == State::Open {
                bench.is_open_for(Reason::Ratio);
                return Some(round * (good + bad));
            }
            bench.pass(every);
        }
        None
    }

    #[test]
    fn half_of_twenty_within_ten_seconds_trip() {
        assert_eq!(results_until_open(1, 1, 100 * MS), Some(20));
        assert_eq!(results_until_open(1, 1, 900 * MS), Some(20));
        assert_eq!(results_until_open(1, 2, 100 * MS), Some(21));
    }

    #[test]
    fn fewer_failures_or_fewer_results_do_not() {
        assert_eq!(results_until_open(4, 3, 100 * MS), None);
        assert_eq!(results_until_open(1, 1, 1200 * MS), None, "18 results in any ten seconds");
    }

    #[test]
    fn what_is_ten_seconds_old_is_forgotten() {
        let mut bench = Bench::closed();
        for _ in 0..9 {
            bench.succeed(1);
            bench.fail(1);
        }
        bench.pass(10 * S);
        bench.succeed(1);
        bench.fail(1);
        assert_eq!(bench.state(), State::Closed);
    }

    #[test]
    fn a_gap_of_hours_empties_the_window() {
        let mut bench = Bench::closed();
        bench.succeed(10_000);
        bench.pass(5 * 3600 * S + 500 * MS);
        for _ in 0..9 {
            bench.succeed(1);
            bench.fail(1);
        }
        assert_eq!(bench.state(), State::Closed);
        bench.succeed(1);
        bench.fail(1);
        bench.is_open_for(Reason::Ratio);
    }

    #[test]
    fn a_success_alone_trips_nothing() {
        let mut bench = Bench::closed();
        for _ in 0..9 {
            bench.fail(1);
            bench.succeed(1);
        }
        bench.fail(1);
        bench.succeed(1);
        assert_eq!(bench.state(), State::Closed, "ten of twenty, but the last was good");
    }

    #[test]
    fn the_count_in_a_row_comes_first() {
        let mut bench = Bench::closed();
        for _ in 0..5 {
            bench.succeed(3);
            bench.fail(2);
        }
        bench.fail(3);
        bench.is_open_for(Reason::Failures);
    }
}

mod health_checks {
    use super::*;

    #[test]
    fn three_strikes_trip() {
        let mut bench = Bench::closed();
        for ok in [false, false, true, false, false] {
            bench.breaker.health_check(ok, bench.now);
        }
        assert_eq!(bench.state(), State::Closed);
        bench.breaker.health_check(false, bench.now);
        bench.is_open_for(Reason::HealthChecks);
    }

    #[test]
    fn they_count_in_closed_only() {
        for mut bench in [Bench::starting(settings()), Bench::half_open()] {
            let before = bench.breaker.view();
            for _ in 0..10 {
                bench.breaker.health_check(false, bench.now);
            }
            assert_eq!(bench.breaker.view(), before);
        }
    }
}

mod dials {
    use super::*;

    fn refuse(bench: &mut Bench, times: usize, usable: bool) {
        for _ in 0..times {
            bench.breaker.dial_refused(bench.now, usable);
        }
    }

    #[test]
    fn each_is_a_failed_result() {
        let mut bench = Bench::closed();
        refuse(&mut bench, 4, true);
        assert_eq!(bench.state(), State::Closed);
        refuse(&mut bench, 1, true);
        bench.is_open_for(Reason::Failures);
    }

    #[test]
    fn five_without_a_connection_trip() {
        let mut bench = Bench::closed_with(Settings { failures: 0, ..settings() });
        refuse(&mut bench, 4, false);
        assert_eq!(bench.state(), State::Closed);
        refuse(&mut bench, 1, false);
        bench.is_open_for(Reason::Dials);
    }

    #[test]
    fn not_if_one_was_made_between_or_was_left() {
        let mut bench = Bench::closed_with(Settings { failures: 0, ..settings() });
        refuse(&mut bench, 4, false);
        bench.breaker.dial_made(bench.now);
        refuse(&mut bench, 4, false);
        refuse(&mut bench, 1, true);
        refuse(&mut bench, 4, false);
        assert_eq!(bench.state(), State::Closed);
    }

    #[test]
    fn five_end_half_open() {
        let mut bench = Bench::half_open();
        refuse(&mut bench, 4, false);
        bench.breaker.dial_made(bench.now);
        refuse(&mut bench, 4, false);
        assert_eq!(bench.state(), State::HalfOpen);
        refuse(&mut bench, 1, false);
        bench.is_open_for(Reason::Dials);
    }

    #[test]
    fn none_counts_while_open() {
        let mut bench = Bench::closed();
        bench.trip();
        let before = (bench.breaker.view(), bench.breaker.retry_in(bench.now));
        refuse(&mut bench, 100, false);
        bench.breaker.dial_made(bench.now);
        assert_eq!((bench.breaker.view(), bench.breaker.retry_in(bench.now)), before);
    }
}

mod open {
    use super::*;

    #[test]
    fn doubles_to_the_cap_with_half_left_to_chance() {
        let mut bench = Bench::closed();
        bench.trip();
        let mut open = bench.breaker.retry_in(bench.now).expect("it is open");
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            assert!((seconds * S / 2..=seconds * S).contains(&open), "{open:?} instead of {seconds} s");
            open = bench.reopen();
        }
    }

    #[test]
    fn seeds_differ() {
        let now = Instant::now();
        let times = (0..100).map(|seed| {
            let mut breaker = Breaker::new(settings(), seed, now);
            breaker.hang(now);
            breaker.retry_in(now).expect("it is open")
        });
        let (early, late): (Vec<_>, Vec<_>) = times.partition(|time| *time < 750 * MS);
        assert!(early.len() > 30 && late.len() > 30, "{} early, {} late", early.len(), late.len());
    }

    #[test]
    fn a_cap_below_a_second_holds_from_the_first() {
        for cap in [Duration::ZERO, 100 * MS] {
            let mut bench = Bench::closed_with(Settings { recovery: cap, ..settings() });
            bench.trip();
            for _ in 0..3 {
                assert!(bench.reopen() <= cap);
            }
        }
    }

    #[test]
    fn no_cap_is_too_long() {
        let mut bench = Bench::closed_with(Settings { recovery: Duration::MAX, ..settings() });
        bench.trip();
        // Each time as if from the same moment, since a clock does not go on for thousands of years.
        for _ in 0..100 {
            bench.breaker.trip(Reason::Hang, bench.now);
        }
        assert!(bench.breaker.retry_in(bench.now).is_some_and(|open| open > 1_000_000 * S));
    }

    #[test]
    fn a_failed_probe_before_the_time_is_up_changes_nothing() {
        let mut bench = Bench::closed();
        bench.trip();
        let until = bench.now + bench.breaker.retry_in(bench.now).expect("it is open");
        let view = bench.breaker.view();
        bench.pass(100 * MS);
        bench.breaker.probe_failed(bench.now);
        assert_eq!(bench.breaker.view(), view);
        assert_eq!(bench.breaker.retry_in(bench.now), Some(until - bench.now));
    }

    #[test]
    fn opening_for_longer_is_a_new_generation_of_the_same_state() {
        let mut bench = Bench::closed();
        bench.trip();
        let (view, since) = (bench.breaker.view(), bench.breaker.since());
        bench.reopen();
        assert_eq!(bench.breaker.view(), View { generation: view.generation + 1, ..view });
        assert_eq!(bench.breaker.since(), since);
        bench.is_open_for(Reason::Hang);
    }

    #[test]
    fn a_probe_leads_to_half_open_at_any_time() {
        let mut bench = Bench::closed();
        bench.trip();
        assert!(bench.breaker.may_probe(bench.now));
        assert!(bench.breaker.probe_succeeded(bench.now));
        assert_eq!(bench.state(), State::HalfOpen);
    }

    #[test]
    fn without_early_recovery_redis_is_left_alone() {
        let mut bench = Bench::closed_with(Settings { early_recovery: false, ..settings() });
        bench.trip();
        let left = bench.breaker.retry_in(bench.now).expect("it is open");
        bench.pass(left - MS);
        assert!(!bench.breaker.may_probe(bench.now));
        assert!(!bench.breaker.probe_succeeded(bench.now));
        assert_eq!(bench.state(), State::Open);
        bench.pass(MS);
        assert!(bench.breaker.may_probe(bench.now));
        assert!(bench.breaker.probe_succeeded(bench.now));
        assert_eq!(bench.state(), State::HalfOpen);
    }

    #[test]
    fn nothing_else_ends_it() {
        let mut bench = Bench::closed();
        bench.trip();
        bench.succeed(100);
        bench.breaker.health_check(true, bench.now);
        bench.breaker.hang(bench.now);
        assert!(bench.breaker.try_trial().is_none());
        bench.pass(3600 * S).is_open_for(Reason::Hang);
        assert_eq!(bench.breaker.retry_in(bench.now), Some(Duration::ZERO));
    }
}

mod half_open {
    use super::*;

    #[test]
    fn three_trials_at_once_and_three_successes_close() {
        let mut bench = Bench::half_open();
        let trials = [(); 3].map(|()| bench.breaker.try_trial().expect("three are granted"));
        assert!(bench.breaker.try_trial().is_none());
        for trial in &trials[..2] {
            bench.breaker.trial_ended(*trial, Some(true), bench.now);
            assert_eq!(bench.state(), State::HalfOpen);
        }
        bench.breaker.trial_ended(trials[2], Some(true), bench.now);
        assert_eq!(bench.state(), State::Closed);
    }

    #[test]
    fn one_failure_opens_for_longer() {
        let mut bench = Bench::half_open();
        let trials = [(); 3].map(|()| bench.breaker.try_trial().expect("three are granted"));
        bench.breaker.trial_ended(trials[0], Some(true), bench.now);
        bench.breaker.trial_ended(trials[1], Some(true), bench.now);
        bench.breaker.trial_ended(trials[2], Some(false), bench.now);
        bench.is_open_for(Reason::Trial);
        let open = bench.breaker.retry_in(bench.now).expect("it is open");
        assert!((S..=2 * S).contains(&open), "{open:?}");
    }

    #[test]
    fn successes_of_an_earlier_attempt_do_not_count() {
        let mut bench = Bench::half_open();
        let trials = [(); 3].map(|()| bench.breaker.try_trial().expect("three are granted"));
        bench.breaker.trial_ended(trials[0], Some(false), bench.now);
        assert!(bench.breaker.probe_succeeded(bench.now));
        let before = bench.breaker.view();
        for trial in [trials[1], trials[2], trials[0]] {
            bench.breaker.trial_ended(trial, Some(true), bench.now);
            bench.breaker.trial_ended(trial, Some(false), bench.now);
        }
        assert_eq!(bench.breaker.view(), before);
        for _ in 0..3 {
            assert!(bench.breaker.try_trial().is_some());
        }
        assert!(bench.breaker.try_trial().is_none(), "what ended late has freed nothing");
    }

    #[test]
    fn a_trial_without_a_verdict_is_free_again() {
        let mut bench = Bench::half_open();
        for _ in 0..100 {
            let trial = bench.breaker.try_trial().expect("the last one was freed");
            bench.breaker.trial_ended(trial, None, bench.now);
        }
        assert_eq!(bench.state(), State::HalfOpen);
    }

    #[test]
    fn only_trials_count() {
        let mut bench = Bench::half_open();
        bench.fail(100);
        bench.succeed(100);
        assert_eq!(bench.state(), State::HalfOpen);
    }

    #[test]
    fn ten_seconds_without_a_verdict_open() {
        let mut bench = Bench::half_open();
        bench.pass(9 * S);
        let trial = bench.breaker.try_trial().expect("it is half-open");
        bench.breaker.trial_ended(trial, Some(true), bench.now);
        bench.pass(9999 * MS);
        assert_eq!(bench.state(), State::HalfOpen);
        bench.pass(MS).is_open_for(Reason::NoVerdict);
    }

    #[test]
    fn a_hang_opens() {
        let mut bench = Bench::half_open();
        bench.breaker.hang(bench.now);
        bench.is_open_for(Reason::Hang);
    }
}

mod step {
    use super::*;

    /// Trips and tells which open time this was: 1, 2, 4, … seconds.
    fn trip(bench: &mut Bench) -> u32 {
        bench.trip();
        let open = bench.breaker.retry_in(bench.now).expect("it is open");
        [1, 2, 4, 8, 16, 32, 60].into_iter().find(|seconds| open <= *seconds * S).expect("at most the cap")
    }

    #[test]
    fn is_not_forgotten_at_once() {
        let mut bench = Bench::closed();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            // Of 60 s half may be left to chance, and be 32.
            assert!([seconds, 32].contains(&trip(&mut bench)));
            bench.recover();
        }
    }

    #[test]
    fn falls_by_one_for_each_minute_of_closed() {
        let mut bench = Bench::closed();
        for _ in 0..3 {
            trip(&mut bench);
            bench.recover();
        }
        bench.pass(59_999 * MS).pass(MS);
        assert_eq!(trip(&mut bench), 4, "three, less one, and one");
        bench.recover();
        // Without a tick in between.
        bench.now += 125 * S;
        assert_eq!(trip(&mut bench), 2);
        bench.recover();
        bench.pass(3600 * S);
        assert_eq!(trip(&mut bench), 1);
    }

    #[test]
    fn the_minutes_must_be_uninterrupted() {
        let mut bench = Bench::closed();
        for seconds in [1, 2, 4] {
            assert_eq!(trip(&mut bench), seconds);
            bench.recover();
            bench.pass(59 * S);
        }
    }

    #[test]
    fn does_not_fall_while_open() {
        let mut bench = Bench::closed();
        assert_eq!(trip(&mut bench), 1);
        bench.pass(3600 * S);
        bench.recover();
        assert_eq!(trip(&mut bench), 2);
    }
}

mod operator {
    use super::*;

    #[test]
    fn isolated_is_left_by_release_only() {
        for mut bench in [Bench::starting(settings()), Bench::closed(), Bench::half_open()] {
            bench.breaker.isolate(bench.now);
            let view = bench.breaker.view();
            assert_eq!((view.state, bench.breaker.reason()), (State::Isolated, Reason::Operator));
            assert!(!bench.breaker.may_probe(bench.now));
            assert!(!bench.breaker.probe_succeeded(bench.now));
            assert!(bench.breaker.try_trial().is_none());
            bench.breaker.dial_made(bench.now);
            bench.breaker.dial_refused(bench.now, false);
            bench.breaker.probe_failed(bench.now);
            bench.breaker.hang(bench.now);
            bench.fail(100);
            bench.breaker.isolate(bench.now);
            assert_eq!(bench.pass(3600 * S).breaker.view(), view);
        }
    }

    #[test]
    fn release_lets_the_next_probe_decide() {
        for early_recovery in [true, false] {
            let mut bench = Bench::starting(Settings { mode: Mode::Isolated, early_recovery, ..settings() });
            assert_eq!(bench.state(), State::Isolated);
            bench.breaker.release(bench.now);
            assert_eq!((bench.state(), bench.breaker.retry_in(bench.now)), (State::Open, Some(Duration::ZERO)));
            assert_eq!(bench.breaker.reason(), Reason::Released);
            assert_eq!(bench.breaker.may_probe_from(bench.now), Some(bench.now));
            bench.recover();
            bench.breaker.isolate(bench.now);
            bench.breaker.release(bench.now);
            bench.breaker.probe_failed(bench.now);
            bench.is_open_for(Reason::Dials);
            assert!(bench.breaker.retry_in(bench.now) >= Some(500 * MS));
        }
    }

    #[test]
    fn release_of_what_is_not_isolated_does_nothing() {
        for mut bench in [Bench::starting(settings()), Bench::closed(), Bench::half_open()] {
            let view = bench.breaker.view();
            bench.breaker.release(bench.now);
            assert_eq!(bench.breaker.view(), view);
        }
    }

    #[test]
    fn disabled_never_opens_but_can_be_isolated() {
        let mut bench = Bench::starting(Settings { mode: Mode::Disabled, ..settings() });
        for _ in 0..100 {
            bench.fail(1);
            bench.breaker.dial_refused(bench.now, false);
            bench.breaker.health_check(false, bench.now);
            bench.breaker.probe_failed(bench.now);
            bench.breaker.hang(bench.now);
            assert!(bench.breaker.may_probe(bench.now));
        }
        assert_eq!(bench.pass(3600 * S).state(), State::Disabled);
        bench.breaker.isolate(bench.now);
        assert_eq!(bench.state(), State::Isolated);
        bench.breaker.release(bench.now);
        assert_eq!(bench.state(), State::Disabled);
    }
}
