//! Nothing runs twice, and nothing late: clients write through rounds of kills, freezes, resets and hangs.
//!
//! `OUTRIGGER_ROUNDS` says how many rounds there are, `OUTRIGGER_SEED` repeats the choices of a run (not its timing).

use super::crowd::WITH_TRANSACTIONS;
use super::history::Heard;
use super::stage::{Frozen, RECOVERY, Stage, durable_server, last, number, seed};
use crate::support::{Fault, Kind, Server, is_direct};
use std::time::{Duration, Instant};

/// Rounds where nobody says how many.
const ROUNDS: u64 = 10;

/// A limit for requests that makes rounds short.
const SHORT: Duration = Duration::from_millis(600);

/// The default limit.
const DEFAULT: Duration = Duration::from_secs(4);

/// Long enough for everybody to have something on its way.
const AT_WORK: Duration = Duration::from_millis(50);

/// One way to fail.
#[derive(Clone, Copy, Debug)]
enum Round {
    /// kill -9, and a restart.
    Kill,
    /// SIGSTOP for longer than requests wait: what is in its socket buffers runs when it wakes.
    Freeze,
    /// Every connection is reset, once, with requests on their way.
    Reset,
    /// The same, with replies on their way.
    ResetReplies,
    /// The same, in the middle of a reply.
    ResetWithinReply,
    /// Connections hang for longer than requests wait, and so do new ones. What they hold arrives afterwards.
    Hang,
    /// The same, but new connections work: what the old ones hold arrives behind what was sent over the new.
    HangOld,
    /// The same, but what the old ones hold are replies.
    HangReplies,
    /// Connections lose what is sent and never recover; new ones work.
    Lose,
}

impl Round {
    const ALL: [Self; 9] = {
        use Round::{Freeze, Hang, HangOld, HangReplies, Kill, Lose, Reset, ResetReplies, ResetWithinReply};
        [Kill, Freeze, Reset, ResetReplies, ResetWithinReply, Hang, HangOld, HangReplies, Lose]
    };

    /// Fails, for a time about `limit` where it takes time; then stands in the way of nothing.
    fn run(self, server: &mut Server, stage: &Stage, limit: Duration, rng: &mut fastrand::Rng) {
        let fault = &stage.fault;
        // Longer than requests wait, so that each has to be given up; longer than connections are kept, now and then.
        let long = limit.mul_f32(1.2 + rng.f32() * if rng.u8(..5) == 0 { 14.0 } else { 1.0 }).min(limit + RECOVERY);
        match self {
            Self::Kill => {
                fault.switch_existing(if rng.bool() { Fault::HangReplies } else { Fault::Pass });
                last(AT_WORK);
                server.kill();
                fault.switch(Fault::Refuse);
                last(limit.mul_f32(rng.f32()));
                server.start_again();
            }
            Self::Freeze => {
                let _frozen = Frozen::stop(server);
                last(long);
            }
            Self::Reset | Self::ResetReplies => {
                let is_of_replies = matches!(self, Self::ResetReplies);
                fault.switch_existing(if is_of_replies { Fault::HangReplies } else { Fault::Hang });
                last(AT_WORK);
                fault.switch(Fault::Reset);
            }
            Self::ResetWithinReply => {
                fault.switch_existing(Fault::ResetWithin(rng.usize(1..2_000)));
                last(limit / 4);
            }
            Self::Hang => {
                fault.switch(Fault::Hang);
                last(long);
            }
            Self::HangOld => {
                fault.switch_existing(Fault::Hang);
                last(long);
            }
            Self::HangReplies => {
                fault.switch_existing(Fault::HangReplies);
                last(long);
            }
            Self::Lose => {
                fault.switch_existing(Fault::BlackHole);
                last(long);
            }
        }
    }
}

#[test]
fn writes_run_at_most_once_and_never_late() {
    if is_direct() {
        return;
    }
    let rounds = number("OUTRIGGER_ROUNDS").unwrap_or(ROUNDS);
    let mut rng = fastrand::Rng::with_seed(seed());
    // Each once before any twice, in an order that differs.
    let mut order: Vec<Round> = Vec::new();
    while (order.len() as u64) < rounds {
        let mut all = Round::ALL;
        rng.shuffle(&mut all);
        order.extend(all);
    }
    order.truncate(usize::try_from(rounds).expect("so many rounds nobody waits for"));
    run("at most once", Kind::Redis70, SHORT, &order, &mut rng);
}

#[test]
fn writes_run_at_most_once_with_the_default_limit() {
    if is_direct() {
        return;
    }
    let mut rng = fastrand::Rng::with_seed(seed());
    run("at most once, 4 s", Kind::Valkey91, DEFAULT, &[Round::Freeze, Round::HangOld, Round::Kill], &mut rng);
}

/// All these rounds, one after the other, each once everybody is served again.
fn run(name: &str, kind: Kind, limit: Duration, rounds: &[Round], rng: &mut fastrand::Rng) {
    let mut server = durable_server(kind);
    let mut stage = Stage::before(&server, limit, &WITH_TRANSACTIONS);
    let start = Instant::now();
    for (number, round) in rounds.iter().enumerate() {
        print!("{name}: round {number} at {:.1} s, {round:?}", start.elapsed().as_secs_f32());
        round.run(&mut server, &stage, limit, rng);
        let recovery = stage.end_fault(&format!("{round:?}"), RECOVERY);
        println!(", served again after {recovery:.1?}");
    }
    let histories = stage.judge(name, &server);
    let heard = |reply: &Heard| histories.iter().flat_map(|history| &history.events).any(|event| event.heard == *reply);
    assert!(heard(&Heard::Indeterminate), "nothing was on its way when something failed");
    assert!(heard(&Heard::Unavailable), "nothing was refused");
}
