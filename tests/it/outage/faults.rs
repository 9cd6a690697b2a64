//! Each fault by itself: whoever asks meanwhile is answered in time, readers without an error, writers with the truth; nobody
//! loses a connection, nobody sees what is not theirs, and full service comes back by itself.

use super::crowd::{Habit, WITH_TRANSACTIONS};
use super::stage::{RECOVERY, Stage, durable_server, last};
use crate::support::{Client, Fault, Kind, PATIENCE, Server, alone, is_direct, wait_until};
use std::time::{Duration, Instant};

/// The time limit of requests.
const LIMIT: Duration = Duration::from_secs(1);

/// How long a fault lasts: longer than any request waits.
const DURATION: Duration = Duration::from_millis(2_500);

/// How long a proxy may keep away from a server that refused its password, and some more.
const RECOVERY_FROM_REFUSAL: Duration = Duration::from_secs(35);

/// Everybody goes through this fault and comes out of it.
fn suffer(name: &str, fault: Fault) {
    suffer_with(name, |stage| stage.fault.switch(fault), RECOVERY);
}

/// The same with a fault that needs more words to begin, and this limit for the return of service.
fn suffer_with(name: &str, begin: impl FnOnce(&Stage), limit: Duration) {
    if is_direct() {
        return;
    }
    let _alone = alone();
    let server = durable_server(Kind::Redis70);
    let mut stage = Stage::with_everybody(&server, LIMIT);
    begin(&stage);
    let start = Instant::now();
    greet(&stage);
    last(DURATION.saturating_sub(start.elapsed()));
    assert!(stage.fault.strikes() > 0, "{name} has not happened");
    stage.end_fault("fault", limit);
    stage.judge(&format!("fault {name}"), &server);
}

/// Clients that come during the fault are let in, and answered as all others are.
fn greet(stage: &Stage) {
    for (hello, null) in [("HELLO 2", "$-1\r\n"), ("HELLO 3", "_\r\n")] {
        let mut client = Client::connect(stage.address());
        assert!(!client.frame(hello).is_error(), "{hello} was refused");
        assert_eq!(client.ask("PING"), b"+PONG\r\n");
        assert_eq!(client.ask("GET missing").escape_ascii().to_string(), null.escape_default().to_string());
    }
}

#[test]
fn alone_refused() {
    suffer("refused", Fault::Refuse);
}

#[test]
fn alone_black_hole() {
    suffer("black hole", Fault::BlackHole);
}

#[test]
fn alone_hang_mid_stream() {
    suffer("hang", Fault::Hang);
}

#[test]
fn alone_reset() {
    suffer("reset", Fault::Reset);
}

#[test]
fn alone_reset_mid_reply() {
    // Few enough bytes for a connection never to get far, and enough for a handshake to succeed now and then.
    for bytes in [20, 600, 5_000] {
        suffer(&format!("reset within {bytes} bytes"), Fault::ResetWithin(bytes));
    }
}

#[test]
fn alone_half_a_reply_then_silence() {
    for bytes in [20, 600, 5_000] {
        suffer(&format!("silent within {bytes} bytes"), Fault::SilentWithin(bytes));
    }
}

#[test]
fn alone_slow_drip() {
    suffer("drip", Fault::Drip { bytes: 1, every: Duration::from_millis(20) });
}

#[test]
fn alone_slow_server() {
    suffer("slow", Fault::Slow(Duration::from_millis(200)));
}

#[test]
fn alone_garbage() {
    suffer("garbage", Fault::Garbage);
}

#[test]
fn alone_accept_then_close() {
    suffer("accept then close", Fault::HangUp);
}

#[test]
fn alone_loading_storm() {
    const LOADING: &str = "-LOADING Redis is loading the dataset in memory";
    suffer("loading, handshake refused", Fault::Answer(LOADING));
    suffer("loading", Fault::AnswerAfterHandshake(LOADING));
}

#[test]
fn alone_wrong_password() {
    let begin = |stage: &Stage| {
        // As after a restart with another password: who was let in before is out.
        stage.fault.switch_new(Fault::WrongPassword);
        stage.fault.switch_existing(Fault::Reset);
    };
    suffer_with("wrong password", begin, RECOVERY_FROM_REFUSAL);
}

/// One client of each protocol, which waits for each reply: then one reply too many is one too many when it comes. In a
/// pipeline, where the next is due already, it is its neighbour's for all that anybody can tell.
#[test]
fn alone_extra_reply() {
    if is_direct() {
        return;
    }
    let _alone = alone();
    let server = durable_server(Kind::Redis70);
    let mut stage = Stage::before(&server, LIMIT, &[Habit::Writes, Habit::Reads]);
    stage.fault.switch(Fault::Extra);
    last(DURATION);
    assert!(stage.fault.strikes() > 0, "no reply was one too many");
    stage.end_fault("fault", RECOVERY);
    stage.judge("fault extra reply", &server);
}

/// Texts of more than what may be held back: their reader may be cut off within one, and everybody else may not.
#[test]
fn alone_large_reply_cut() {
    if is_direct() {
        return;
    }
    let _alone = alone();
    for fault in [Fault::ResetWithin(150_000), Fault::SilentWithin(150_000)] {
        let server = durable_server(Kind::Redis70);
        let habits = [Habit::ReadsLarge, Habit::ReadsLarge, Habit::Writes, Habit::Reads, Habit::Pipelines];
        let mut stage = Stage::before(&server, LIMIT, &habits);
        stage.fault.switch(fault);
        last(DURATION);
        stage.end_fault("fault", RECOVERY);
        stage.judge(&format!("fault large reply, {fault:?}"), &server);
    }
}

/// A failover: the primary becomes a replica and refuses writes, and the name leads to the new primary from then on.
#[test]
fn alone_readonly_flip() {
    if is_direct() {
        return;
    }
    let _alone = alone();
    let old = durable_server(Kind::Redis70);
    let new = durable_server(Kind::Redis70);
    let port = |server: &Server| server.address().split(':').nth(1).expect("an address has a port").to_owned();
    new.connect().ask(&format!("REPLICAOF 127.0.0.1 {}", port(&old)));
    let mut stage = Stage::before(&old, LIMIT, &WITH_TRANSACTIONS);
    wait_until("the replica follows", PATIENCE, || {
        old.info("replication").get("slave0").is_some_and(|replica| replica.contains("state=online"))
    });
    stage.fault.retarget_upon(b"-READONLY", &new.address());
    // Nothing acknowledged is lost: writes wait until the replica has caught up.
    assert_eq!(old.connect().ask(&format!("FAILOVER TO 127.0.0.1 {}", port(&new))), b"+OK\r\n");
    wait_until("the roles have changed", PATIENCE, || {
        new.info("replication").get("role").is_some_and(|role| role == "master")
    });
    stage.recover("failover", RECOVERY);
    stage.judge("fault readonly flip", &new);
}
