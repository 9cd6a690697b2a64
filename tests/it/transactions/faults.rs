//! Transactions whose connection or server fails: what was not sent wholly has not run and is sent again, what was is never
//! sent twice, and a reply that does not belong there ends the connection.

use super::shown;
use crate::support::{
    Client, Line, Mood, PATIENCE, Proxy, Scripted, be_patient, command, is_direct, wait_until, words,
};
use std::time::{Duration, Instant};
use std::{fs, thread};

/// A transaction that writes, as it is to arrive.
const BLOCK: [&str; 4] = ["MULTI", "SET k v", "INCR n", "EXEC"];

/// What a server says to it.
const DONE: &[u8] = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n:1\r\n";

/// What its client then has.
const TOLD: &str = "*2\\r\\n+OK\\r\\n:1\\r\\n";

const ABORTED: &str = "-EXECABORT Transaction discarded because of previous errors.\r\n";

const LOADING: &str = "-LOADING Redis is loading the dataset in memory\r\n";

const READONLY: &str = "-READONLY You can't write against a read only replica.\r\n";

const NOPERM: &str = "-NOPERM this user has no permissions to run the 'multi' command\r\n";

/// An upstream, a proxy before it with one worker, and clients whose requests all come over the line. The lane of RESP3 has a
/// connection too, so that the loss of this one does not look like the loss of the server.
struct Scene {
    upstream: Scripted,
    proxy: Proxy,
    client: Client,
    other: Client,
    line: Line,
}

impl Scene {
    fn set() -> Self {
        Self::set_with(&[])
    }

    fn set_with(more: &[&str]) -> Self {
        let mut upstream = Scripted::start();
        let proxy = Proxy::toward(&upstream.address(), |flags| {
            be_patient(flags);
            flags.args(["--workers", "1"]).args(more);
        });
        let mut elsewhere = proxy.connect();
        elsewhere.hello3();
        elsewhere.send(&words("GET ready"));
        upstream.line(3).echo_on();
        assert_eq!(elsewhere.reply(), b"$5\r\nready\r\n");
        let (mut client, mut other) = (proxy.connect(), proxy.connect());
        client.send(&words("GET ready"));
        let mut line = upstream.line(2);
        answer(&mut client, &mut line);
        // Until the proxy knows how quick a server is, it is not given many requests at once.
        for _ in 0..10 {
            for client in [&mut client, &mut other] {
                client.send(&words("GET ready"));
                answer(client, &mut line);
            }
        }
        Self { upstream, proxy, client, other, line }
    }

    /// The client begins a transaction and ends it; upstream has it all.
    fn send_block(&mut self) {
        begin(&mut self.client);
        expect_block(&mut self.line);
    }

    /// The other client is served, over the line that is left or over a new one.
    fn assert_other_served(mut self) {
        self.upstream.echo();
        wait_until("the other client is served", PATIENCE, || self.other.ask("GET after") == b"$5\r\nafter\r\n");
    }
}

fn answer(client: &mut Client, line: &mut Line) {
    line.expect("GET ready");
    line.say(b"+ready\r\n");
    assert_eq!(client.reply(), b"+ready\r\n");
}

fn begin(client: &mut Client) {
    client.send(&BLOCK.map(words).concat());
    assert_eq!(client.reply(), b"+OK\r\n");
    assert_eq!(client.reply(), b"+QUEUED\r\n");
    assert_eq!(client.reply(), b"+QUEUED\r\n");
}

fn expect_block(line: &mut Line) {
    BLOCK.iter().for_each(|request| line.expect_next(request));
}

fn assert_indeterminate(reply: &[u8]) {
    assert!(reply.starts_with(b"-INDETERMINATE "), "{}", shown(reply));
}

#[test]
fn only_the_reply_to_exec_is_shown_however_the_replies_come() {
    if is_direct() {
        return;
    }
    for size in [1, 4, 7, 1_000] {
        let mut scene = Scene::set_with(&["--request-timeout", "20s"]);
        scene.other.send(&words("GET before"));
        scene.line.expect("GET before");
        scene.send_block();
        scene.other.send(&words("GET behind"));
        scene.line.expect("GET behind");
        let replies = [b"+before\r\n", DONE, b"+behind\r\n"].concat();
        scene.line.say_in_pieces(replies.chunks(size));
        assert_eq!(shown(&scene.client.reply()), TOLD);
        assert_eq!([scene.other.reply(), scene.other.reply()].concat(), b"+before\r\n+behind\r\n");
        // An idle transaction client is at rest.
        scene.send_block();
        scene.line.say(DONE);
        assert_eq!(shown(&scene.client.reply()), TOLD);
    }
}

/// What a socket's buffer may hold of what was sent and not read, in bytes.
fn kernel_takes() -> usize {
    let sizes = fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").expect("the system says so");
    sizes.split_whitespace().last().and_then(|size| size.parse().ok()).expect("three sizes")
}

/// Nothing has run while the last byte of EXEC is not written, though the server has answered what came before it.
#[test]
fn a_transaction_cut_before_its_last_byte_is_sent_again() {
    if is_direct() {
        return;
    }
    // Together this is more than the kernel takes, and no more than may be in flight.
    const FILLINGS: usize = 4;
    let (filling, value) = (vec![b'f'; 975_000], vec![b'v'; 1_000_000]);
    if kernel_takes() > FILLINGS * filling.len() + value.len() / 2 {
        println!("not tried: the kernel takes {} bytes that nobody reads", kernel_takes());
        return;
    }
    for answers_at_once in [true, false] {
        let mut scene = Scene::set();
        let block = [words("MULTI"), command(&[b"SET".as_slice(), b"k", &value]), words("EXEC")].concat();
        let other = &mut scene.other;
        thread::scope(|scope| {
            let filling = command(&[b"SET".as_slice(), b"filling", &filling]).repeat(FILLINGS);
            scope.spawn(move || other.send(&filling));
            scene.line.expect_start(b"*3\r\n$3\r\nSET\r\n$7\r\nfilling\r\n");
        });
        scene.other.wait_until_read();
        scene.client.send(&block);
        assert_eq!([scene.client.reply(), scene.client.reply()].concat(), b"+OK\r\n+QUEUED\r\n");
        if answers_at_once {
            scene.line.say(&b"+OK\r\n".repeat(FILLINGS + 1));
            (0..FILLINGS).for_each(|_| assert_eq!(scene.other.reply(), b"+OK\r\n"));
        }
        scene.line.reset();
        let mut second = scene.upstream.line(2);
        let mut request = second.next().expect("something comes");
        while request.first().is_some_and(|name| name != b"MULTI") {
            // The other's write was cut too, or is kept from running late.
            let reply: &[u8] = if request[0] == b"CLIENT" { b":0\r\n" } else { b"+OK\r\n" };
            second.say(reply);
            request = second.next().expect("the transaction comes");
        }
        assert!(second.next().is_some_and(|request| request[2] == value), "the transaction arrived damaged");
        second.expect_next("EXEC");
        second.say(b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
        assert_eq!(shown(&scene.client.reply()), "*1\\r\\n+OK\\r\\n");
    }
}

#[test]
fn a_transaction_that_was_sent_is_never_sent_again() {
    if is_direct() {
        return;
    }
    for said in [&b""[..], b"+OK\r\n", b"+OK\r\n+QUEUED\r\n+QUEUED\r\n", &DONE[..DONE.len() - 3]] {
        for resets in [true, false] {
            let mut scene = Scene::set();
            scene.send_block();
            scene.line.say(said);
            let fence = scene.line.end_of_it();
            if resets {
                scene.line.reset();
            } else {
                drop(scene.line);
            }
            assert_indeterminate(&scene.client.reply());
            scene.client.send(&words("GET next"));
            let mut second = scene.upstream.line(2);
            second.expect_next(&fence);
            second.expect_next("GET next");
            second.say(b":0\r\n+next\r\n");
            assert_eq!(scene.client.reply(), b"+next\r\n");
        }
    }
}

/// Reads that wait on the same connection are not harmed, and are not taken for those of the transaction.
#[test]
fn a_reply_that_does_not_belong_there_ends_the_connection() {
    if is_direct() {
        return;
    }
    for said in [
        &b"+QUEUED\r\n"[..],
        b"$2\r\nOK\r\n",
        b"+OK\r\n+OK\r\n",
        b"+OK\r\n$-1\r\n",
        b"+OK\r\n:1\r\n",
        b"+OK\r\n+QUEUED\r\n*0\r\n",
        b"+OK\r\n*-1\r\n",
        // MULTI is refused, and what follows runs by itself.
        b"-NOPERM this user has no permissions to run the 'multi' command\r\n",
        b"-BUSY Redis is busy running a script.\r\n+OK\r\n",
    ] {
        let mut scene = Scene::set();
        scene.send_block();
        scene.other.send(&words("GET mine"));
        scene.line.expect("GET mine");
        scene.line.say(said);
        assert_indeterminate(&scene.client.reply());
        scene.line.wait_for_end();
        let mut second = scene.upstream.line(2);
        let fence_or_read = second.next().expect("the read is asked again");
        if fence_or_read[0] == b"CLIENT" {
            second.say(b":0\r\n");
            second.expect_next("GET mine");
        }
        second.say(b"+mine\r\n");
        assert_eq!(scene.other.reply(), b"+mine\r\n");
    }
    // Nothing that comes before EXEC's reply is long.
    let mut scene = Scene::set();
    scene.send_block();
    scene.line.say(&[b"+OK\r\n$1000000\r\n".to_vec(), vec![b'x'; 100_000]].concat());
    assert_indeterminate(&scene.client.reply());
    scene.line.wait_for_end();
    scene.assert_other_served();
}

#[test]
fn a_server_that_cannot_serve_has_not_run_it() {
    if is_direct() {
        return;
    }
    let because = "-EXECABORT Transaction discarded because of: BUSY Redis is busy running a script.\r\n";
    for replies in [
        ["+OK\r\n", LOADING, LOADING, ABORTED],
        ["+OK\r\n", "+QUEUED\r\n", LOADING, ABORTED],
        ["+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n", because],
        ["-BUSY script\r\n", "-BUSY script\r\n", "-BUSY script\r\n", "-BUSY script\r\n"],
        ["-BUSY script\r\n", "-BUSY script\r\n", "-BUSY script\r\n", "-ERR EXEC without MULTI\r\n"],
    ] {
        let mut scene = Scene::set();
        scene.send_block();
        scene.line.say(replies.concat().as_bytes());
        let reply = scene.client.reply();
        assert_eq!(shown(&reply), "-UNAVAILABLE upstream cannot serve now, command not run\\r\\n", "{replies:?}");
        // The connection is in step: nobody need dial.
        scene.other.send(&words("GET mine"));
        scene.line.expect("GET mine");
        scene.line.say(b"+mine\r\n");
        assert_eq!(scene.other.reply(), b"+mine\r\n");
    }
}

#[test]
fn other_refusals_are_the_clients() {
    if is_direct() {
        return;
    }
    let oom = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";
    let because = "-EXECABORT Transaction discarded because of: OOM command not allowed.\r\n";
    for (replies, told) in [
        (["+OK\r\n", oom, "+QUEUED\r\n", ABORTED], ABORTED),
        (["+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n", because], because),
        (["+OK\r\n", "-MOVED 1 a:1\r\n", "+QUEUED\r\n", ABORTED], ABORTED),
        (["+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n", "-MOVED 1 a:1\r\n"], "-MOVED 1 a:1\r\n"),
        // What is inside EXEC's reply is never taken for a refusal.
        (
            ["+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n", "*2\r\n-BUSY x\r\n-READONLY x\r\n"],
            "*2\r\n-BUSY x\r\n-READONLY x\r\n",
        ),
        (["+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n", "*-1\r\n"], "*-1\r\n"),
    ] {
        let mut scene = Scene::set();
        scene.send_block();
        scene.line.say(replies.concat().as_bytes());
        assert_eq!(shown(&scene.client.reply()), shown(told.as_bytes()));
        scene.other.send(&words("GET mine"));
        scene.line.expect("GET mine");
        scene.line.say(b"+mine\r\n");
        assert_eq!(scene.other.reply(), b"+mine\r\n");
    }
}

/// Before Redis 6.2 such a refusal leaves the transaction open: what came behind would be queued in it.
#[test]
fn an_exec_refused_in_other_words_ends_the_connection() {
    if is_direct() {
        return;
    }
    let mut scene = Scene::set();
    scene.send_block();
    scene.line.say(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n-NOPERM this user has no permissions to run the 'exec' command\r\n");
    assert!(scene.client.reply().starts_with(b"-NOPERM "));
    scene.line.wait_for_end();
    scene.assert_other_served();
}

#[test]
fn a_transaction_that_a_replica_refused_runs_on_the_new_primary() {
    if is_direct() {
        return;
    }
    let because = "-EXECABORT Transaction discarded because of: READONLY You can't write against a replica.\r\n";
    for replies in [["+OK\r\n", READONLY, READONLY, ABORTED], ["+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n", because]] {
        let mut scene = Scene::set();
        scene.send_block();
        scene.line.say(replies.concat().as_bytes());
        let mut second = scene.upstream.line(2);
        expect_block(&mut second);
        second.say(DONE);
        assert_eq!(shown(&scene.client.reply()), TOLD);
        // The primary that says so too is believed.
        begin(&mut scene.client);
        expect_block(&mut second);
        second.say(replies.concat().as_bytes());
        assert_eq!(shown(&scene.client.reply()), shown(replies[3].as_bytes()));
    }
}

/// Every connection that is made after a loss finds out anew.
#[test]
fn a_right_that_was_taken_away_is_noticed_at_the_next_handshake() {
    if is_direct() {
        return;
    }
    let mut scene = Scene::set();
    scene.upstream.turn(Mood::Refuses("MULTI", NOPERM));
    drop(scene.line);
    scene.client.send(&[words("GET again")].concat());
    let mut second = scene.upstream.line(2);
    second.expect_next("GET again");
    second.say(b"+again\r\n");
    assert_eq!(scene.client.reply(), b"+again\r\n");
    begin(&mut scene.client);
    let due = NOPERM.replacen('-', "-EXECABORT Transaction discarded because of: ", 1);
    assert_eq!(shown(&scene.client.reply()), shown(due.as_bytes()));
    scene.client.send(&words("GET after"));
    second.expect_next("GET after");
}

#[test]
fn a_transaction_past_its_deadline_may_have_run_and_its_replies_are_dropped() {
    if is_direct() {
        return;
    }
    let mut scene = Scene::set_with(&["--request-timeout", "700ms"]);
    scene.send_block();
    // The server is slow and goes on answering, so that the connection stays in service.
    let mut bytes = DONE.chunks(1);
    thread::scope(|scope| {
        let answered = scope.spawn(|| scene.client.reply());
        let mut due = Instant::now();
        wait_until("the client is answered", PATIENCE, || {
            if Instant::now() >= due {
                scene.line.say(bytes.next().expect("the deadline is before the last byte"));
                due += Duration::from_millis(50);
            }
            answered.is_finished()
        });
        assert_indeterminate(&answered.join().expect("it is answered"));
    });
    bytes.for_each(|byte| scene.line.say(byte));
    scene.client.send(&words("GET later"));
    scene.line.expect("GET later");
    scene.line.say(b"+later\r\n");
    assert_eq!(scene.client.reply(), b"+later\r\n");
}

#[test]
fn a_client_that_leaves_takes_nothing_from_its_neighbours() {
    if is_direct() {
        return;
    }
    let mut scene = Scene::set();
    scene.send_block();
    scene.other.send(&words("GET mine"));
    scene.line.expect("GET mine");
    drop(scene.client);
    assert_eq!(scene.proxy.connect().ask("PING"), b"+PONG\r\n");
    scene.line.say(&[DONE, b"+mine\r\n"].concat());
    assert_eq!(scene.other.reply(), b"+mine\r\n");
}

/// While Redis is being tried out again a transaction is refused: nobody would know what became of it if the trial failed.
#[test]
fn a_transaction_is_no_trial() {
    if is_direct() {
        return;
    }
    let mut scene = Scene::set();
    scene.upstream.turn(Mood::HangsUp);
    drop(scene.line);
    wait_until("the breaker is open", PATIENCE, || {
        assert_eq!(scene.client.ask("GET k"), b"$-1\r\n");
        scene.proxy.logged(r#""state":"open""#) > 0
    });
    // Nothing is said on the connection that is made now, so that every trial is under way.
    scene.upstream.turn(Mood::Well);
    wait_until("Redis can be reached", PATIENCE, || scene.proxy.logged(r#""state":"half_open""#) > 0);
    begin(&mut scene.client);
    assert_eq!(shown(&scene.client.reply()), "-UNAVAILABLE circuit open, command not sent\\r\\n");
    scene.upstream.echo();
    wait_until("Redis serves again", PATIENCE, || scene.client.ask("GET k") == b"$1\r\nk\r\n");
}
