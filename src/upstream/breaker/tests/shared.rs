//! The breaker as the workers share it: what is published and reported, and trials that free themselves.

use super::*;

#[test]
fn a_view_survives_its_bits() {
    for state in [State::Starting, State::Closed, State::Open, State::HalfOpen, State::Isolated, State::Disabled] {
        for generation in [0, 1, 255, 256, u32::MAX] {
            let view = View { state, generation };
            assert_eq!(View::from_bits(view.to_bits()), view);
        }
    }
}

#[test]
fn publishes_and_reports_each_change_once() {
    let bench = Bench::closed();
    let (guard, now) = (Guard::new(bench.breaker), bench.now);
    let before = guard.view();
    let reports: Vec<_> =
        (0..6).filter_map(|_| guard.with(|breaker| breaker.failure(before.generation, now)).1).collect();
    assert_eq!(reports, [Change { from: State::Closed, to: State::Open, reason: Reason::Failures }]);
    assert_eq!(guard.view(), View { state: State::Open, generation: before.generation + 1 });
    let (may, change) = guard.with(|breaker| breaker.may_probe(now));
    assert!(may && change.is_none());
}

#[test]
fn opening_for_longer_is_published_but_no_change() {
    let mut bench = Bench::closed();
    bench.trip();
    bench.wait_until_time_is_up();
    let (guard, now) = (Guard::new(bench.breaker), bench.now);
    let before = guard.view();
    assert_eq!(guard.with(|breaker| breaker.probe_failed(now)).1, None);
    assert_eq!(guard.view(), View { generation: before.generation + 1, ..before });
}

#[test]
fn trials_free_themselves() {
    let bench = Bench::half_open();
    let (guard, now) = (Guard::new(bench.breaker), bench.now);
    for _ in 0..10 {
        let trials: Vec<_> = (0..5).filter_map(|_| guard.try_trial(now)).collect();
        assert_eq!(trials.len(), 3);
    }
    assert_eq!(guard.view().state, State::HalfOpen);
}

#[test]
fn trials_report_what_they_change() {
    let bench = Bench::half_open();
    let (guard, now) = (Guard::new(bench.breaker), bench.now);
    let trial = || guard.try_trial(now).expect("it is half-open");
    let (first, second, late) = (trial(), trial(), trial());
    assert_eq!(first.generation(), guard.view().generation);
    assert_eq!(first.succeed(now), None);
    let opened = second.fail(now);
    assert_eq!(opened, Some(Change { from: State::HalfOpen, to: State::Open, reason: Reason::Trial }));
    assert!(guard.try_trial(now).is_none());
    guard.with(|breaker| breaker.probe_succeeded(now));
    assert_eq!(late.fail(now), None, "of an older generation");
    let changes: Vec<_> = (0..3).filter_map(|_| trial().succeed(now)).collect();
    assert_eq!(changes, [Change { from: State::HalfOpen, to: State::Closed, reason: Reason::Trial }]);
}

#[test]
fn many_threads_open_it_once() {
    let bench = Bench::closed();
    let (guard, now) = (Guard::new(bench.breaker), bench.now);
    let generation = guard.view().generation;
    let changes: usize = std::thread::scope(|scope| {
        let report = || (0..1000).filter_map(|_| guard.with(|breaker| breaker.failure(generation, now)).1).count();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(report)).collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
    });
    assert_eq!((changes, guard.view().state), (1, State::Open));
}
