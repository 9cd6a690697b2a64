//! Sessions: what clients do to their connections and to each other, in any order, reads the same through the proxy as
//! directly.
//!
//! Scripts of some steps of some clients are written by chance and played twice, on two fresh servers of one kind, one with
//! the proxy before it: step by step, so that what happens has one order and one outcome. Everything that each client hears
//! is compared, and after each step what both servers store and who is blocked or subscribed there.
//!
//! | variable | |
//! |---|---|
//! | `OUTRIGGER_SCRIPTS` | how many scripts for each server (1000) |
//! | `OUTRIGGER_SEED` | repeats a run; with `OUTRIGGER_SCRIPTS=1`, one script |
//! | `OUTRIGGER_STEPS` | groups of steps, separated by commas, or `all`; otherwise those [`COVERED`] |
//! | `OUTRIGGER_SCRIPT` | plays this script instead, its steps separated by ` \| ` |
//! | `OUTRIGGER_BIN=direct` | leaves the proxy out: shows that the scripts have one outcome |

mod author;
mod differences;
mod planted;
mod regression;
mod repertoire;
mod script;
mod shrink;
mod side;
mod stage;

use crate::support::{Figures, Kind};
use differences::DIFFERENCES;
use repertoire::{DATA, Repertoire};
use script::Script;
use stage::{Before, Finding, Stage};
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::Write as _;
use std::time::{Duration, Instant};

/// The groups of steps that read the same through the proxy; `steps.txt` has them all.
const COVERED: &[&str] = &[
    "connection,leaving,name,reply,script,unknown,wrong",
    "leaving,multi,script,unknown,watch,wrong",
    "connection,leaving,name,pubsub,reply,script,wrong",
    "blocking,connection,leaving,multi,name,script,unknown,wrong",
    "connection,leaving,moved,multi,name,unknown,watch,wrong",
    "connection,leaving,multi,name,script,wait,wrong",
    "broadcast,connection,moved,multi,redirect,script,state,tracking,watch",
    "connection,info,kill,leaving,monitor,moved,multi,name,state",
];

/// How many scripts for each server, unless it is said otherwise.
const SCRIPTS: u64 = 1_000;

/// How long what is due may take while a script is made shorter.
const SHORT_PATIENCE: Duration = Duration::from_millis(1_500);

#[test]
fn sessions_on_redis_6_2() {
    play_many(Kind::Redis62, Before::Proxy(1));
}

#[test]
fn sessions_on_redis_7_0_and_two_workers() {
    play_many(Kind::Redis70, Before::Proxy(2));
}

#[test]
fn sessions_on_valkey_9_1() {
    play_many(Kind::Valkey91, Before::Proxy(1));
}

/// Plays as many scripts as are wanted, up to the first that shows a difference.
fn play_many(kind: Kind, before: Before) {
    if let Ok(text) = env::var("OUTRIGGER_SCRIPT") {
        let script = Script::read(&text);
        again(kind, before, &script).unwrap_or_else(|finding| panic!("{}: {finding}", kind.name()));
        return;
    }
    let repertoire = Repertoire::whole();
    let count = number("OUTRIGGER_SCRIPTS").unwrap_or(SCRIPTS);
    match env::var("OUTRIGGER_STEPS") {
        Ok(wanted) => drop(play_those(kind, before, &repertoire, &groups(&repertoire, &wanted), count)),
        Err(_) => COVERED.iter().for_each(|wanted| {
            let share = count.div_ceil(COVERED.len() as u64);
            drop(play_those(kind, before, &repertoire, &groups(&repertoire, wanted), share));
        }),
    }
}

/// Plays `count` scripts of these groups; returns how often clients heard what.
fn play_those(
    kind: Kind,
    before: Before,
    repertoire: &Repertoire,
    groups: &BTreeSet<&'static str>,
    count: u64,
) -> BTreeMap<String, usize> {
    let first = number("OUTRIGGER_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    let names = groups.iter().copied().collect::<Vec<_>>().join(",");
    // Past the capture of output, so that a run that passes tells its seed too.
    let _ = writeln!(std::io::stderr(), "sessions on {}: OUTRIGGER_SEED={first} OUTRIGGER_STEPS={names}", kind.name());
    for difference in DIFFERENCES {
        println!("not compared: {}: {}", difference.name, difference.reason);
    }
    let mut stage = Stage::start(kind, before);
    let (start, mut steps) = (Instant::now(), 0);
    for seed in first..first + count {
        let script = author::script(seed, kind, repertoire, groups);
        steps += script.steps.len();
        if let Err(finding) = play(&mut stage, &script) {
            drop(stage);
            let alone = explained(kind, before, script.clone());
            let before = seed - first + 1;
            let alone = alone.unwrap_or_else(|| {
                format!("alone it shows no difference: OUTRIGGER_SEED={first} OUTRIGGER_SCRIPTS={before} plays those before too")
            });
            panic!("{}, OUTRIGGER_SEED={seed} OUTRIGGER_SCRIPTS=1:\n{script}\n\n{finding}\n\n{alone}", kind.name());
        }
    }
    let mut figures = Figures::of(&format!("sessions on {}, {before:?}", kind.name()));
    figures.add("scripts", count);
    figures.add("steps", steps);
    figures.add("seconds", format!("{:.1}", start.elapsed().as_secs_f64()));
    figures.add("heard", format!("{:?}", stage.tally()));
    figures.add("upstream", stage.server().info_number("stats", "total_connections_received"));
    stage.tally().clone()
}

/// The shortest part of a script that shows a difference, and which; `None` if on a stage of its own it shows none.
fn explained(kind: Kind, before: Before, script: Script) -> Option<String> {
    again(kind, before, &script).err()?;
    let shrunk = shrink::shrink(script, |script| again(kind, before, script).is_err());
    let finding = again(kind, before, &shrunk).err().map(|finding| finding.to_string());
    let line = shrunk.to_string().replace('\n', " | ");
    Some(format!("in short, OUTRIGGER_SCRIPT='{line}'\n{}", finding.unwrap_or_else(|| "(not every time)".to_owned())))
}

/// Plays a script; says which one it was if the test fails within.
fn play(stage: &mut Stage, script: &Script) -> Result<(), Finding> {
    let _shown = ShownInPanic(script);
    stage.play(script)
}

/// Plays a script on a stage of its own.
fn again(kind: Kind, before: Before, script: &Script) -> Result<(), Finding> {
    let mut stage = Stage::start(kind, before);
    stage.set_patience(SHORT_PATIENCE);
    play(&mut stage, script)
}

struct ShownInPanic<'a>(&'a Script);

impl Drop for ShownInPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it was this script:\n{}", self.0);
        }
    }
}

/// The groups that are wanted.
fn groups(repertoire: &Repertoire, wanted: &str) -> BTreeSet<&'static str> {
    let known = repertoire.groups();
    if wanted == "all" {
        return known;
    }
    let find = |name: &str| {
        let found = known.get(name).copied();
        found.unwrap_or_else(|| panic!("there is no group of steps {name}, but {known:?}"))
    };
    wanted.split(',').map(find).chain([DATA]).collect()
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}
