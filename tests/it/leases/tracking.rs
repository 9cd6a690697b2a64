//! Clients that Redis tells what to forget: that they are never left with what nobody would tell them of.

use super::{PATIENCE, assert_none_is_lost, one_worker};
use crate::support::{Client, Kind, Server, is_direct, others, wait_until, words};

const FORGET_ALL: &[u8] = b">2\r\n$10\r\ninvalidate\r\n_\r\n";

/// Ends the connections that the server knows by these flags; returns how many there were.
fn kill_those_with(server: &Server, flag: char) -> usize {
    let mut control = server.connect();
    let lines = others(&mut control);
    let field = |line: &str, name: &str| {
        line.split(' ').find_map(|field| field.strip_prefix(name)).map(ToOwned::to_owned).unwrap_or_default()
    };
    let meant = lines.iter().filter(|line| field(line, "flags=").contains(flag));
    let ids: Vec<_> = meant.map(|line| field(line, "id=")).collect();
    ids.iter().for_each(|id| assert_eq!(control.ask(&format!("CLIENT KILL ID {id}")), b":1\r\n"));
    ids.len()
}

/// A client that is tracked, and has read a key.
fn tracked(client: &mut Client, options: &str) {
    client.hello3();
    assert_eq!(client.ask(&format!("CLIENT TRACKING ON{options}")), b"+OK\r\n");
    assert_eq!(client.ask("GET seen"), b"$1\r\n1\r\n");
}

#[test]
fn who_loses_its_connection_is_told_to_forget_all_and_tracked_again() {
    if is_direct() {
        return;
    }
    for kind in Kind::ALL {
        let server = Server::start(kind);
        let proxy = one_worker(&server);
        let (mut tracker, mut other) = (proxy.connect(), proxy.connect());
        assert_eq!(other.ask("SET seen 1"), b"+OK\r\n");
        for options in ["", " NOLOOP", " BCAST PREFIX s"] {
            tracked(&mut tracker, options);
            let before = tracker.ask("CLIENT TRACKINGINFO");
            assert_eq!(kill_those_with(&server, 't'), 1);
            assert_eq!(tracker.reply(), FORGET_ALL, "{options}");
            // It is tracked before it reads, whatever it asks first.
            assert_eq!(tracker.ask("GET seen"), b"$1\r\n1\r\n");
            assert_eq!(other.ask("SET seen 1"), b"+OK\r\n");
            assert_eq!(tracker.reply(), b">2\r\n$10\r\ninvalidate\r\n*1\r\n$4\r\nseen\r\n", "{options}");
            assert_eq!(tracker.ask("CLIENT TRACKINGINFO"), before, "{options}");
            assert_eq!(tracker.ask("CLIENT TRACKING OFF"), b"+OK\r\n");
        }
        drop(tracker);
        assert_none_is_lost(&proxy, &server);
    }
}

#[test]
fn a_block_of_who_is_tracked_again_runs_over_the_connection_that_is_told_of() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let (mut tracker, mut other) = (proxy.connect(), proxy.connect());
    assert_eq!(other.ask("SET seen 1"), b"+OK\r\n");
    tracked(&mut tracker, "");
    assert_eq!(kill_those_with(&server, 't'), 1);
    assert_eq!(tracker.reply(), FORGET_ALL);
    assert_eq!(tracker.ask("MULTI"), b"+OK\r\n");
    assert_eq!(tracker.ask("GET seen"), b"+QUEUED\r\n");
    assert_eq!(tracker.ask("EXEC"), b"*1\r\n$1\r\n1\r\n");
    assert_eq!(other.ask("SET seen 2"), b"+OK\r\n");
    assert_eq!(tracker.reply(), b">2\r\n$10\r\ninvalidate\r\n*1\r\n$4\r\nseen\r\n");
    // In the midst of a block it is told as well, and nothing of that block runs.
    assert_eq!(tracker.ask("MULTI"), b"+OK\r\n");
    assert_eq!(tracker.ask("SET seen 3"), b"+QUEUED\r\n");
    assert_eq!(kill_those_with(&server, 't'), 1);
    assert_eq!(tracker.reply(), FORGET_ALL);
    assert!(tracker.ask("EXEC").starts_with(b"-EXECABORT "));
    assert_eq!(tracker.ask("GET seen"), b"$1\r\n2\r\n");
}

#[test]
fn what_cannot_be_tracked_is_not_read_as_if_it_were() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let (mut tracker, mut other) = (proxy.connect(), proxy.connect());
    assert_eq!(other.ask("SET seen 1"), b"+OK\r\n");
    tracked(&mut tracker, "");
    drop(server);
    assert_eq!(tracker.reply(), FORGET_ALL);
    wait_until("reads are answered as by an empty server", PATIENCE, || other.ask("GET seen") == b"$-1\r\n");
    let reply = tracker.ask("GET seen");
    assert!(reply.starts_with(b"-UNAVAILABLE "), "{}", reply.escape_ascii());
}

#[test]
fn who_is_told_over_anothers_connection_is_told_so_through_the_proxy() {
    for kind in Kind::ALL {
        let server = Server::start(kind);
        let proxy = one_worker(&server);
        for lost in [None, Some('t'), Some('P')].into_iter().filter(|lost| !is_direct() || lost.is_none()) {
            let (mut reader, mut hearer, mut other) = (proxy.connect(), proxy.connect(), proxy.connect());
            assert_eq!(other.ask("SET seen 1"), b"+OK\r\n");
            let id = hearer.frame("CLIENT ID").as_text();
            assert_eq!(
                hearer.ask("SUBSCRIBE __redis__:invalidate"),
                b"*3\r\n$9\r\nsubscribe\r\n$20\r\n__redis__:invalidate\r\n:1\r\n"
            );
            assert_eq!(reader.ask(&format!("CLIENT TRACKING ON REDIRECT {id}")), b"+OK\r\n");
            assert_eq!(reader.ask("CLIENT GETREDIR"), format!(":{id}\r\n").as_bytes());
            assert_eq!(reader.ask("GET seen"), b"$1\r\n1\r\n");
            assert_eq!(other.ask("SET seen 2"), b"+OK\r\n");
            assert_eq!(hearer.reply(), b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$4\r\nseen\r\n");
            let Some(flag) = lost else { continue };
            assert_eq!(kill_those_with(&server, flag), 1);
            // What cannot be continued honestly is closed.
            let closed = if flag == 't' { &mut reader } else { &mut hearer };
            assert_eq!(closed.rest_however_closed().expect("the end comes"), b"");
        }
        assert_none_is_lost(&proxy, &server);
    }
}

/// A transaction that is given up takes the connection with it that the server tells of keys.
#[test]
fn who_loses_its_connection_with_a_transaction_is_told_too() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let mut client = proxy.connect();
    client.hello3();
    assert_eq!(client.ask("CLIENT TRACKING ON"), b"+OK\r\n");
    assert_eq!(client.ask("GET k"), b"_\r\n");
    assert_eq!(client.ask("MULTI"), b"+OK\r\n");
    client.send(&words("CLIENT REPLY ON"));
    assert_eq!(client.reply(), b">2\r\n$10\r\ninvalidate\r\n_\r\n");
    assert!(client.reply().starts_with(b"-ERR "));
    assert!(client.ask("EXEC").starts_with(b"-EXECABORT "));
}
