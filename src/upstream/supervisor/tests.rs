//! Who may dial when, in virtual time; and how soon a server that returns is found.

use proptest::{collection::vec, prelude::*};

use super::*;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const NS: Duration = Duration::from_nanos(1);

/// A supervisor, the time, and when dials began.
struct Bench {
    supervisor: Supervisor,
    now: Instant,
    starts: Vec<Instant>,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self { supervisor: Supervisor::new(seed, now), now, starts: Vec::new() }
    }

    fn up(seed: u64) -> Self {
        let mut bench = Self::new(seed);
        assert!(bench.dial());
        bench.made();
        bench.pass(60 * S);
        bench
    }

    /// Refused once, so that the link is down.
    fn down(seed: u64) -> Self {
        let mut bench = Self::up(seed);
        bench.lose();
        assert!(bench.dial());
        bench.fail(DialFailure::Refused);
        assert_eq!(bench.link(), Link::Down);
        bench
    }

    fn link(&self) -> Link {
        self.supervisor.link()
    }

    fn pass(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self.supervisor.settled(self.now);
        self
    }

    fn dial(&mut self) -> bool {
        let may = self.supervisor.may_dial(self.now);
        self.starts.extend(may.then_some(self.now));
        may
    }

    fn probe(&mut self) -> bool {
        let may = self.supervisor.take_probe(self.now);
        self.starts.extend(may.then_some(self.now));
        may
    }

    /// Lets the time pass until the next probe, takes it, and tells how long that took.
    fn wait_and_probe(&mut self) -> Duration {
        let due = self.supervisor.next_probe(self.now).expect("no dial is under way");
        let pause = due.saturating_duration_since(self.now);
        if !pause.is_zero() {
            self.now += pause - NS;
            assert!(!self.probe(), "it was not due yet");
            self.now += NS;
        }
        assert!(self.probe());
        pause
    }

    fn made(&mut self) {
        self.supervisor.made(self.now);
    }

    fn fail(&mut self, failure: DialFailure) {
        self.supervisor.failed(failure, self.now);
    }

    fn lose(&mut self) {
        self.supervisor.lost(false, false, self.now);
    }

    fn next_probe(&self) -> Option<Duration> {
        Some(self.supervisor.next_probe(self.now)?.saturating_duration_since(self.now))
    }
}

#[test]
fn at_first_one_request_dials_and_the_others_wait() {
    let mut bench = Bench::new(1);
    assert_eq!((bench.link(), bench.next_probe()), (Link::Unknown, Some(Duration::ZERO)));
    assert!(bench.dial());
    assert!(!bench.dial() && !bench.probe());
    assert_eq!(bench.next_probe(), None);
    bench.made();
    assert_eq!(bench.link(), Link::Up);
    assert!(bench.dial() && bench.dial(), "growth is bounded elsewhere");
}

#[test]
fn a_failed_first_dial_is_down() {
    let mut bench = Bench::new(1);
    assert!(bench.dial());
    bench.fail(DialFailure::Refused);
    assert_eq!(bench.link(), Link::Down);
    assert!(!bench.dial());
}

#[test]
fn while_another_is_left_nothing_is_in_doubt() {
    let mut bench = Bench::up(1);
    bench.supervisor.lost(true, true, bench.now);
    assert_eq!((bench.link(), bench.next_probe()), (Link::Up, None));
    // To grow further failed; that is no news of the connection we have.
    assert!(bench.dial());
    bench.fail(DialFailure::TimedOut);
    assert_eq!(bench.link(), Link::Up);
}

#[test]
fn the_last_one_lost_is_dialled_again_at_once() {
    let mut bench = Bench::up(1);
    bench.lose();
    assert_eq!((bench.link(), bench.next_probe()), (Link::Doubtful, Some(Duration::ZERO)));
    bench.lose();
    assert!(bench.dial());
    assert!(!bench.dial() && !bench.probe());
    bench.made();
    assert_eq!(bench.link(), Link::Up);
}

#[test]
fn in_doubt_a_dial_that_was_under_way_is_waited_for() {
    let mut bench = Bench::up(1);
    assert!(bench.dial() && bench.dial());
    bench.lose();
    assert!(!bench.dial());
    bench.made();
    assert_eq!(bench.link(), Link::Up);
    bench.fail(DialFailure::Refused);
    assert_eq!(bench.link(), Link::Up);
}

#[test]
fn down_only_probes_dial() {
    let mut bench = Bench::down(1);
    assert!(!bench.dial());
    bench.wait_and_probe();
    assert_eq!(bench.next_probe(), None);
    assert!(!bench.dial() && !bench.probe());
}

#[test]
fn one_connection_in_the_first_second_after_the_return() {
    let mut bench = Bench::down(1);
    bench.wait_and_probe();
    bench.made();
    assert_eq!(bench.link(), Link::Recovering);
    bench.pass(999 * MS);
    assert_eq!((bench.link(), bench.next_probe()), (Link::Recovering, None));
    assert!(!bench.dial() && !bench.probe());
    bench.now += MS;
    assert!(bench.dial());
    assert_eq!(bench.link(), Link::Up);
}

mod refused {
    use super::*;

    /// When the first `count` dials began after the loss, if all are refused.
    fn starts(seed: u64, count: usize) -> Vec<Duration> {
        let mut bench = Bench::up(seed);
        bench.lose();
        let (lost, before) = (bench.now, bench.starts.len());
        assert!(bench.dial());
        while bench.starts.len() < before + count {
            bench.fail(DialFailure::Refused);
            bench.wait_and_probe();
        }
        bench.starts[before..].iter().map(|start| *start - lost).collect()
    }

    #[test]
    fn two_dials_a_second_and_no_long_gap() {
        for seed in 0..500 {
            let starts = starts(seed, 50);
            for three in starts.windows(3) {
                assert!(three[2] - three[0] > S, "seed {seed}: {three:?}");
            }
            for two in starts.windows(2) {
                let gap = two[1] - two[0];
                assert!((200 * MS..=825 * MS).contains(&gap), "seed {seed}: {gap:?}");
            }
        }
    }

    #[test]
    fn who_lost_redis_together_is_spread_at_once() {
        // After the first dial, which is made at once, no tenth of a second sees many more than its share: 200 of 1000.
        let mut tenths = [0; 40];
        for seed in 0..1000 {
            for start in &starts(seed, 10)[1..] {
                if let Some(tenth) = tenths.get_mut((start.as_millis() / 100) as usize) {
                    *tenth += 1;
                }
            }
        }
        assert!(tenths.iter().all(|count| *count <= 270), "{tenths:?}");
    }

    #[test]
    fn back_within_a_third_of_a_second_in_the_median_and_a_second_at_worst() {
        for outage in [1000 * MS, 1500 * MS, 3300 * MS, 10_000 * MS, 60_100 * MS] {
            let mut waits: Vec<_> = (0..1000)
                .map(|seed| {
                    let starts = starts(seed, 130);
                    *starts.iter().find(|start| **start >= outage).expect("probes go on") - outage
                })
                .collect();
            waits.sort_unstable();
            let (median, worst) = (waits[500], waits[999]);
            assert!(median <= 280 * MS && worst <= 825 * MS, "after {outage:?}: {median:?}, {worst:?}");
        }
    }

    #[test]
    fn a_new_loss_spreads_anew_however_short_the_health() {
        let mut bench = Bench::down(3);
        for _ in 0..10 {
            bench.wait_and_probe();
            bench.fail(DialFailure::Refused);
        }
        let mut pauses = Vec::new();
        for _ in 0..100 {
            bench.wait_and_probe();
            bench.made();
            bench.pass(2 * S).lose();
            assert!(bench.dial());
            bench.fail(DialFailure::Refused);
            pauses.push(bench.next_probe().expect("it is down"));
        }
        assert!(pauses.iter().any(|pause| *pause < 300 * MS) && pauses.iter().any(|pause| *pause > 600 * MS));
    }
}

mod other_failures {
    use super::*;

    /// The pauses after the first failures of a kind, in a hundred sidecars: those after the first failures, those after
    /// the second, and so on.
    fn pauses(failure: DialFailure, count: usize) -> Vec<Vec<Duration>> {
        let mut pauses = vec![Vec::new(); count];
        for seed in 0..100 {
            let mut bench = Bench::up(seed);
            bench.lose();
            assert!(bench.dial());
            for nth in &mut pauses {
                bench.pass(2 * S).fail(failure);
                nth.push(bench.wait_and_probe());
            }
        }
        pauses
    }

    /// All of it is left to chance.
    #[track_caller]
    fn is_full_jitter(pauses: &[Duration], longest: Duration) {
        assert!(pauses.iter().all(|pause| *pause <= longest), "{pauses:?} of {longest:?}");
        for (from, to) in [(0, 1), (1, 2), (2, 3)] {
            let third = longest * from / 3..longest * to / 3;
            let within = pauses.iter().filter(|pause| third.contains(pause)).count();
            assert!((20..=50).contains(&within), "{within} of 100 within {third:?}: {pauses:?}");
        }
    }

    #[test]
    fn late_ones_double_to_almost_five_seconds() {
        for (pauses, longest) in pauses(DialFailure::TimedOut, 6).into_iter().zip([1000, 2000, 4000, 4750, 4750, 4750])
        {
            is_full_jitter(&pauses, longest * MS);
        }
    }

    #[test]
    fn a_refused_password_takes_half_a_minute() {
        let pauses = pauses(DialFailure::Password, 10).concat();
        assert!(pauses.iter().all(|pause| (27 * S..=33 * S).contains(pause)), "{pauses:?}");
    }

    #[test]
    fn who_is_told_that_it_is_mended_dials_at_once() {
        let mut bench = Bench::down(1);
        bench.wait_and_probe();
        bench.fail(DialFailure::Password);
        bench.supervisor.hurry(bench.now);
        assert!(bench.next_probe().is_some_and(|pause| pause <= 1001 * MS));
    }

    #[test]
    fn those_that_fail_fast_are_two_a_second_all_the_same() {
        let mut bench = Bench::up(5);
        bench.lose();
        assert!(bench.dial());
        for _ in 0..20 {
            bench.pass(MS).fail(DialFailure::TimedOut);
            bench.wait_and_probe();
        }
        assert!(bench.starts.windows(3).all(|three| three[2] - three[0] > S));
    }

    #[test]
    fn another_kind_of_failure_begins_anew() {
        let pauses = (0..100).map(|seed| {
            let mut bench = Bench::down(seed);
            for _ in 0..10 {
                bench.wait_and_probe();
                bench.pass(2 * S).fail(DialFailure::TimedOut);
            }
            bench.wait_and_probe();
            bench.fail(DialFailure::Refused);
            // It listens again but loads.
            bench.wait_and_probe();
            bench.pass(2 * S).fail(DialFailure::TimedOut);
            bench.next_probe().expect("it is down")
        });
        is_full_jitter(&pauses.collect::<Vec<_>>(), S);
    }

    #[test]
    fn accept_then_close_is_a_late_failure_and_slows_down() {
        let pauses = (0..100).map(|seed| {
            let mut bench = Bench::up(seed);
            bench.lose();
            assert!(bench.dial());
            for _ in 0..10 {
                bench.made();
                bench.pass(10 * MS).lose();
                assert_eq!(bench.link(), Link::Down);
                bench.wait_and_probe();
            }
            bench.made();
            // Long enough for the two dials a second not to matter.
            bench.pass(999 * MS).lose();
            bench.next_probe().expect("it is down")
        });
        is_full_jitter(&pauses.collect::<Vec<_>>(), LATE.1);
    }

    #[test]
    fn only_ten_seconds_of_health_are_forgiven() {
        for (healthy, longest) in [(9999 * MS, LATE.1), (10 * S, S)] {
            let pauses = (0..100).map(|seed| {
                let mut bench = Bench::down(seed);
                for _ in 0..10 {
                    bench.wait_and_probe();
                    bench.pass(2 * S).fail(DialFailure::TimedOut);
                }
                bench.wait_and_probe();
                bench.made();
                bench.pass(healthy).lose();
                assert!(bench.dial());
                bench.pass(2 * S).fail(DialFailure::TimedOut);
                bench.next_probe().expect("it is down")
            });
            is_full_jitter(&pauses.collect::<Vec<_>>(), longest);
        }
    }
}

mod readonly {
    use super::*;

    #[test]
    fn renews_once_in_five_seconds() {
        let mut bench = Bench::up(1);
        // Before the first renewal no connection can have been made since it, whatever we are told.
        for fresh in [true, false, false] {
            assert_eq!(bench.supervisor.readonly(bench.now, fresh), Failover::Renew);
            assert_eq!(bench.supervisor.readonly(bench.now + 4999 * MS, false), Failover::PassOn);
            bench.pass(5 * S);
        }
    }

    #[test]
    fn a_fresh_one_that_says_so_too_ends_it_for_half_a_minute() {
        let mut bench = Bench::up(1);
        assert_eq!(bench.supervisor.readonly(bench.now, false), Failover::Renew);
        bench.pass(S);
        for fresh in [true, false, true] {
            assert_eq!(bench.supervisor.readonly(bench.now, fresh), Failover::PassOn);
        }
        assert_eq!(bench.supervisor.readonly(bench.now + 29_999 * MS, false), Failover::PassOn);
        bench.pass(30 * S);
        assert_eq!(bench.supervisor.readonly(bench.now, true), Failover::Renew, "perhaps it is so by now");
    }
}

/// Anything that can happen to a supervisor.
#[derive(Debug, Clone)]
enum Event {
    Pass(u64),
    Dial,
    Probe,
    WaitAndProbe,
    Made,
    Failed(DialFailure),
    Lost(bool),
}

fn events() -> impl Strategy<Value = Event> {
    let failure = prop_oneof![
        4 => Just(DialFailure::Refused),
        3 => Just(DialFailure::TimedOut),
        1 => Just(DialFailure::Password),
    ];
    prop_oneof![
        3 => (0u64..300).prop_map(Event::Pass),
        1 => (0u64..20_000).prop_map(Event::Pass),
        3 => Just(Event::Dial),
        3 => Just(Event::Probe),
        4 => Just(Event::WaitAndProbe),
        2 => Just(Event::Made),
        4 => failure.prop_map(Event::Failed),
        2 => any::<bool>().prop_map(Event::Lost),
    ]
}

proptest! {
    #[test]
    fn whatever_happens(seed: u64, events in vec(events(), 0..300)) {
        let mut bench = Bench::new(seed);
        let mut under_way = 0;
        for event in events {
            let (link, begun) = (bench.link(), bench.starts.len());
            match event {
                Event::Pass(millis) => { bench.pass(Duration::from_millis(millis)); }
                Event::Dial => { bench.dial(); }
                Event::Probe => { bench.probe(); }
                Event::WaitAndProbe => if let Some(pause) = bench.next_probe() {
                    bench.now += pause;
                    prop_assert!(bench.probe());
                },
                Event::Made if under_way > 0 => { under_way -= 1; bench.made(); }
                Event::Failed(failure) if under_way > 0 => { under_way -= 1; bench.fail(failure); }
                Event::Made | Event::Failed(_) => {}
                Event::Lost(usable_left) => bench.supervisor.lost(usable_left, false, bench.now),
            }
            if let [.., first, _, third] = bench.starts[..] && bench.starts.len() > begun && bench.link() != Link::Up {
                prop_assert!(third - first > S, "three dials within {:?} ({:?})", third - first, event);
            }
            if bench.starts.len() > begun {
                prop_assert!(bench.link() == Link::Up || under_way == 0, "two at once in {link:?}");
                prop_assert!(!matches!(bench.link(), Link::Recovering));
                under_way += 1;
            }
            // There is always a way on: a connection, a dial under way, or a moment for the next.
            let next = bench.next_probe();
            prop_assert!(next.is_some() || under_way > 0 || matches!(bench.link(), Link::Up | Link::Recovering));
            prop_assert!(next <= Some(34 * S));
        }
    }
}

#[test]
fn requests_wait_only_for_what_is_soon_known() {
    let worth = |bench: &Bench| bench.supervisor.is_worth_waiting(bench.now);
    let mut bench = Bench::new(1);
    assert!(worth(&bench), "nothing was tried yet");
    assert!(bench.dial());
    assert!(worth(&bench), "a dial is under way");
    bench.made();
    assert!(worth(&bench));
    bench.pass(60 * S).lose();
    assert!(worth(&bench), "a dial may begin at once");
    assert!(bench.dial());
    bench.fail(DialFailure::Refused);
    assert!(!worth(&bench), "down");
}

#[test]
fn what_has_served_was_not_accepted_only_to_be_closed() {
    let mut bench = Bench::up(1);
    for _ in 0..5 {
        bench.supervisor.lost(false, true, bench.now);
        assert_eq!(bench.link(), Link::Doubtful);
        bench.pass(2 * S);
        assert!(bench.dial());
        bench.made();
        bench.pass(10 * MS);
    }
}

#[test]
fn a_dial_counts_from_when_it_leaves() {
    let mut bench = Bench::new(1);
    let mut left = Vec::new();
    for resolving in [300 * MS, Duration::ZERO, Duration::ZERO] {
        bench.now += bench.next_probe().expect("a probe is due some time");
        assert!(bench.probe());
        bench.now += resolving;
        assert!(bench.supervisor.leaves(bench.now));
        left.push(bench.now);
        bench.fail(DialFailure::Refused);
    }
    assert!(left[2] - left[0] >= TWO_DIALS);
}

#[test]
fn of_many_dials_granted_before_the_last_connection_was_lost_two_leave() {
    let mut bench = Bench::up(1);
    assert!((0..8).all(|_| bench.dial()));
    // One after the other, and each is missed at once.
    bench.supervisor.lost(true, true, bench.now);
    assert_eq!((0..5).filter(|_| bench.supervisor.leaves(bench.now)).count(), 2);
    bench.lose();
    assert_eq!((0..3).filter(|_| bench.supervisor.leaves(bench.now)).count(), 0);
    (0..6).for_each(|_| bench.supervisor.withheld());
    assert_eq!(bench.link(), Link::Doubtful, "what did not leave tells nothing");
    (0..2).for_each(|_| bench.fail(DialFailure::Refused));
    assert_eq!(bench.link(), Link::Down);
    assert!(bench.wait_and_probe() >= TWO_DIALS);
    assert!(bench.supervisor.leaves(bench.now));
}
