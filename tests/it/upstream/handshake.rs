//! Connections that never come to be, and those that nobody uses.

use super::{assert_unavailable, clients_on_one_line, proxy_before, proxy_with, shown};
use crate::support::{Client, Figures, Mood, PATIENCE, Proxy, Scripted, alone, bulk, is_direct, wait_until, words};
use std::thread;
use std::time::{Duration, Instant};

/// What the proxy is given for dial and handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// How much later than that an answer may come, on a busy machine.
const MARGIN: Duration = Duration::from_millis(1_500);

/// The longest that service may take to return once the upstream is well.
const RECOVERY: Duration = Duration::from_secs(5);

/// Dials that may be under way at once.
const DIALS: usize = 2;

/// Redis 5's words.
const NO_HELLO: &str = "-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n";

#[test]
fn a_wrong_password() {
    refused(Mood::Refuses("HELLO", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"));
}

#[test]
fn no_password_where_one_is_asked_for() {
    refused(Mood::Refuses("HELLO", "-NOAUTH HELLO must be called with the client already authenticated\r\n"));
}

#[test]
fn a_user_without_rights() {
    refused(Mood::Refuses("PING", "-NOPERM this user has no permissions to run the 'ping' command\r\n"));
}

#[test]
fn a_server_that_has_too_many_clients() {
    refused(Mood::Full("-ERR max number of clients reached\r\n"));
}

#[test]
fn a_server_that_loads_its_data() {
    refused(Mood::Refuses("PING", "-LOADING Redis is loading the dataset in memory\r\n"));
}

#[test]
fn something_that_is_no_redis() {
    refused(Mood::Full("SSH-2.0-OpenSSH_9.6\r\n"));
}

#[test]
fn an_upstream_that_hangs_up() {
    refused(Mood::HangsUp);
}

#[test]
fn an_upstream_that_says_nothing() {
    refused(Mood::Silent);
}

/// Clients of 16 databases and both protocols are told that the upstream is not available, in time, are kept, and are
/// served once it is well.
fn refused(mood: Mood) {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start_in(mood);
    let mut proxy = proxy_before_in_time(&upstream);
    upstream.echo();
    let mut clients: Vec<_> = (0..16).map(|database| (database, proxy.connect())).collect();
    let slowest = thread::scope(|scope| {
        let waits: Vec<_> =
            clients.iter_mut().map(|(database, client)| scope.spawn(|| is_told_so(client, *database))).collect();
        waits.into_iter().map(|wait| wait.join().expect("every client is told")).max().expect("there are clients")
    });
    let mut figures = Figures::of(&format!("{mood:?}"));
    figures.add("slowest_ms", slowest.as_millis());
    figures.add("dials", upstream.dials());
    upstream.turn(Mood::Well);
    let well = Instant::now();
    for (database, client) in &mut clients {
        let key = format!("key-in-{database}");
        let due = bulk(key.as_bytes());
        wait_until("the client is served", RECOVERY, || {
            let reply = client.ask(&format!("GET {key}"));
            assert!(reply == due || reply.starts_with(b"-UNAVAILABLE "), "{}", shown(&reply));
            reply == due
        });
    }
    figures.add("recovery_ms", well.elapsed().as_millis());
    figures.add("dials_at_once", upstream.most_unfinished());
    assert!(upstream.most_unfinished() <= DIALS, "{} dials at once", upstream.most_unfinished());
    assert!(slowest < CONNECT_TIMEOUT + MARGIN, "a client waited {slowest:?}");
    proxy.assert_running();
}

/// Returns how long the slowest answer took.
fn is_told_so(client: &mut Client, database: u32) -> Duration {
    let start = Instant::now();
    assert_eq!(shown(&client.ask(&format!("SELECT {database}"))), "+OK\\r\\n");
    let (selected, start) = (start.elapsed(), Instant::now());
    assert_unavailable(&client.ask("GET k"));
    let answered = start.elapsed();
    assert_eq!(shown(&client.ask("PING")), "+PONG\\r\\n");
    selected.max(answered)
}

fn proxy_before_in_time(upstream: &Scripted) -> Proxy {
    proxy_with(upstream, &["--connect-timeout", &format!("{}ms", CONNECT_TIMEOUT.as_millis())])
}

#[test]
fn a_server_without_hello_serves_clients_of_resp2() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start_in(Mood::Refuses("HELLO", NO_HELLO));
    upstream.echo();
    let mut proxy = Proxy::toward(&format!("default:secret@{}", upstream.address()), |flags| {
        flags.args(["--workers", "1"]);
    });
    let mut modern = proxy.connect();
    let greeting = modern.ask("HELLO 3");
    for database in 0..8 {
        let mut client = proxy.connect();
        client.select(database);
        assert_eq!(shown(&client.ask("GET k")), "$1\\r\\nk\\r\\n", "database {database}");
        if greeting.starts_with(b"%") {
            // What cannot be had in RESP3 must not cost those who do not want it.
            assert_unavailable(&modern.ask("GET k"));
        }
    }
    proxy.assert_running();
}

#[test]
fn what_one_protocol_cannot_have_costs_the_other_nothing() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start_in(Mood::Refuses("HELLO 3", NO_HELLO));
    let proxy = proxy_before(&upstream);
    // The connection that every proxy makes at start is of RESP3.
    wait_until("the first attempt fails", PATIENCE, || proxy.logged("cannot get an upstream connection") > 0);
    let ([mut client], line) = clients_on_one_line(&mut upstream, &proxy, 2);
    let mut modern = proxy.connect();
    modern.hello3();
    upstream.echo();
    assert_eq!(line.end_and_drain().len(), 0, "nothing was in flight");
    let dials = upstream.dials();
    wait_until("another attempt is made", RECOVERY, || {
        assert_unavailable(&modern.ask("GET k"));
        upstream.dials() > dials
    });
    // The lane of RESP3 has failed while that of RESP2 had no connection.
    assert_eq!(shown(&client.ask("GET k")), "$1\\r\\nk\\r\\n");
}

#[test]
fn the_handshake_is_one_step_at_a_time_and_may_come_in_pieces() {
    if is_direct() {
        return;
    }
    let mut upstream = Scripted::start();
    let proxy = proxy_before(&upstream);
    let mut client = proxy.connect();
    client.select(3);
    client.send(&words("GET k"));
    let mut line = upstream.line(2);
    assert_eq!(line.database(), 3);
    line.expect("GET k");
    line.say(b"$1\r\nv\r\n");
    assert_eq!(shown(&client.reply()), "$1\\r\\nv\\r\\n");
}

#[test]
fn surplus_in_the_handshake_is_a_refusal() {
    refused(Mood::Refuses("PING", "+PONG\r\n+surplus\r\n"));
}

#[test]
fn alone_idle_connections_are_asked_ping() {
    if is_direct() {
        return;
    }
    let _alone = alone();
    let mut upstream = Scripted::start();
    let proxy = proxy_before(&upstream);
    let ([mut client, mut other], mut line) = clients_on_one_line(&mut upstream, &proxy, 2);
    let idle_since = Instant::now();
    let asked = line.next().expect("the connection is kept");
    let idle = idle_since.elapsed();
    assert_eq!(asked, [b"PING".to_vec()]);
    assert!(idle > Duration::from_secs(9) && idle < Duration::from_secs(12), "asked after {idle:?}");
    client.send(&words("GET k"));
    line.expect("GET k");
    line.say(b"+PONG\r\n$1\r\nv\r\n");
    assert_eq!(shown(&client.reply()), "$1\\r\\nv\\r\\n");
    other.send(&words("GET k"));
    line.expect("GET k");
    line.say(b"+other\r\n");
    assert_eq!(shown(&other.reply()), "+other\\r\\n");
    assert!(idle < PATIENCE);
}
