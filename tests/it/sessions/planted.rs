//! The test's own test: scripts have one outcome, and what a careless proxy would do is found.

use super::repertoire::Repertoire;
use super::script::Script;
use super::stage::{Before, Plant, Stage};
use super::{number, play_those};
use crate::support::Kind;
use std::collections::BTreeSet;
use std::time::Duration;

/// How many scripts of all groups show for each server that they have one outcome.
const SCRIPTS: u64 = 300;

/// Two clients, who both hear something in the last step.
const SCRIPT: &str = "1: SUBSCRIBE a | 2: SET s1 v; GET s1 | 2: GET s1; PUBLISH a v";

/// What clients must have come to hear in so many scripts, if these are to be worth anything: `unasked` is what a client
/// hears in another's step.
const WORTH_HEARING: &[&str] = &[
    "EXECABORT",
    "ERR",
    "NOSCRIPT",
    "WRONGTYPE",
    "*-1",
    "%",
    "_",
    "closed",
    "invalidate",
    "message",
    "pmessage",
    "smessage",
    "subscribe",
    "unsubscribe",
    "unasked *",
    "unasked *-1",
    "unasked UNBLOCKED",
    "unasked invalidate",
];

#[test]
fn without_a_proxy_the_scripts_have_one_outcome() {
    let repertoire = Repertoire::whole();
    let count = number("OUTRIGGER_SCRIPTS").unwrap_or(SCRIPTS);
    let play = |kind| play_those(kind, Before::Nothing, &repertoire, &repertoire.groups(), count);
    let heard: BTreeSet<_> = Kind::ALL.into_iter().flat_map(play).map(|(sort, _)| sort).collect();
    let missing: Vec<_> = WORTH_HEARING.iter().filter(|sort| !heard.contains(**sort)).collect();
    assert!(count < SCRIPTS || missing.is_empty(), "nobody heard {missing:?}");
}

#[test]
fn what_is_planted_is_found() {
    let script = Script::read(SCRIPT);
    let mut stage = Stage::start(Kind::Redis70, Before::Nothing);
    stage.play(&script).expect("without a fault there is no difference");
    for plant in [Plant::Lose, Plant::Double, Plant::Swap, Plant::Reorder, Plant::Write] {
        let mut stage = Stage::start(Kind::Redis70, Before::Nothing);
        stage.plant(plant);
        stage.set_patience(Duration::from_secs(2));
        let finding = stage.play(&script).expect_err("a fault is found");
        println!("{plant:?}: {finding}");
    }
}

#[test]
fn servers_of_two_kinds_are_told_apart() {
    let script = Script::read("1: SET s1 v | 1: WATCH s1; SET s1 w; MULTI; GET s1; EXEC | 1: GET s1; HELLO 3");
    let mut stage = Stage::between([Kind::Redis70, Kind::Valkey91], Before::Nothing);
    let finding = stage.play(&script).expect_err("they do not have one name");
    assert!(finding.to_string().starts_with("after 1: GET s1; HELLO 3"), "{finding}");
}
