//! The tests' own test: what a careless proxy would do is done to a crowd, and the checker must notice.
//!
//! There is no Outrigger but in the last one. The crowd talks through the proxy with faults to a real server, once for each
//! fault.

use super::checker::Wrong;
use super::crowd::{Crowd, EVERYBODY, complaints};
use super::stage::{RECOVERY, Stage, last, seed};
use crate::support::{Fault, FaultProxy, Figures, Kind, PATIENCE, Plant, Server, is_direct, wait_until};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What is noticed after one fault of this sort.
fn noticed(fault: Option<Fault>) -> BTreeSet<Wrong> {
    let server = Server::start(Kind::Redis70);
    let proxy = FaultProxy::before(&server);
    let seed = seed();
    let crowd = Crowd::start(&server, &proxy.address(), &EVERYBODY, seed);
    crowd.wait_until_served_since(Instant::now(), RECOVERY);
    if let Some(fault) = fault {
        proxy.switch(fault);
        wait_until("the fault has happened", PATIENCE, || proxy.strikes() > 0);
    }
    // What was done late must have had the time.
    crowd.wait_until_served_since(Instant::now(), RECOVERY);
    crowd.wait_until_served_since(Instant::now(), RECOVERY);
    let histories = crowd.finish();
    let complaints = complaints(&histories, &server);
    let mut figures = Figures::of(&format!("planted {fault:?}"));
    figures.add("seed", seed);
    figures.add("complaints", complaints.len());
    if let Some(first) = complaints.first() {
        figures.add("first", format!("\"{first}\""));
    }
    complaints.iter().map(|complaint| complaint.wrong).collect()
}

#[test]
fn a_proxy_without_fault_gives_no_cause_for_complaint() {
    assert_eq!(noticed(None), BTreeSet::new());
}

#[test]
fn a_resend_is_noticed() {
    for command in ["RPUSH", "INCR"] {
        let wrongs = noticed(Some(Fault::Planted(Plant::Resend, command)));
        assert!(wrongs.contains(&Wrong::Excess), "{command}: {wrongs:?}");
    }
}

#[test]
fn a_repeat_out_of_order_is_noticed() {
    let wrongs = noticed(Some(Fault::Planted(Plant::Late, "RPUSH")));
    assert!(wrongs.contains(&Wrong::Order), "{wrongs:?}");
    let wrongs = noticed(Some(Fault::Planted(Plant::Late, "INCR")));
    assert!(wrongs.contains(&Wrong::Excess), "{wrongs:?}");
}

/// The list and the counter look as if all had been in order: what is noticed is only what a read lacked between.
#[test]
fn a_repeat_behind_a_write_of_another_kind_is_noticed() {
    let wrongs = noticed(Some(Fault::Planted(Plant::Overtaken, "RPUSH")));
    assert!(wrongs.contains(&Wrong::Order), "{wrongs:?}");
    let wrongs = noticed(Some(Fault::Planted(Plant::Overtaken, "INCR")));
    assert!(wrongs.contains(&Wrong::Excess), "{wrongs:?}");
}

#[test]
fn a_request_that_was_sent_although_it_was_said_not_to_be_is_noticed() {
    for command in ["RPUSH", "INCR"] {
        let wrongs = noticed(Some(Fault::Planted(Plant::Deny, command)));
        assert!(wrongs.contains(&Wrong::Excess), "{command}: {wrongs:?}");
    }
}

#[test]
fn swapped_replies_are_noticed() {
    let wrongs = noticed(Some(Fault::Planted(Plant::Swap, "")));
    assert!(!wrongs.is_disjoint(&[Wrong::Foreign, Wrong::Strange].into()), "{wrongs:?}");
}

/// Old connections keep what they hold until requests on new ones are answered, and Redis does not let Outrigger end them:
/// what then runs late must be noticed, or the same round would say nothing of an Outrigger that may end them.
#[test]
fn a_proxy_that_may_not_end_its_old_connections_is_noticed() {
    if is_direct() {
        return;
    }
    let limit = Duration::from_millis(600);
    let server = Server::start(Kind::Redis70);
    assert_eq!(server.connect().ask("ACL SETUSER default -client|kill"), b"+OK\r\n");
    let mut stage = Stage::with_everybody(&server, limit);
    stage.fault.switch_existing(Fault::Hang);
    last(limit * 2);
    // Everybody is served over new connections before the old ones let go.
    stage.recover("hang", RECOVERY);
    stage.end_fault("release", RECOVERY);
    let (_, complaints) = stage.close("planted, no fence", &server);
    let wrongs: BTreeSet<_> = complaints.iter().map(|complaint| complaint.wrong).collect();
    assert!(wrongs.contains(&Wrong::Order), "{wrongs:?}");
}
