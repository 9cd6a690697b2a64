//! Connections that never come to be, and those that nobody uses.

use super::{
    assert_served, assert_unavailable, clients_on_one_line, clients_on_the_line, nil, proxy_before, proxy_with, shown,
};
use crate::support::{Client, Figures, Mood, PATIENCE, Proxy, Scripted, alone, bulk, is_direct, wait_until, words};
use std::thread;
use std::time::{Duration, Instant};

/// What the proxy is given for dial and handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// How much later than that an answer may come, on a busy machine.
const MARGIN: Duration = Duration::from_millis(1_500);

/// The longest that service may take to return once the upstream is well.
const RECOVERY: Duration = Duration::from_secs(5);

/// The same where a password was refused: the next try is 30 s later, give or take a tenth.
const RECOVERY_FROM_PASSWORD: Duration = Duration::from_secs(36);

/// Dials that may be under way at once.
const DIALS: usize = 2;

/// Redis 5's words.
const NO_HELLO: &str = "-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n";

#[test]
fn a_wrong_password() {
    let mood = Mood::Refuses("HELLO", "-WRONGPASS invalid username-password pair or user is disabled.\r\n");
    refused_for(mood, RECOVERY_FROM_PASSWORD);
}

#[test]
fn no_password_where_one_is_asked_for() {
    let mood = Mood::Refuses("HELLO", "-NOAUTH HELLO must be called with the client already authenticated\r\n");
    refused_for(mood, RECOVERY_FROM_PASSWORD);
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

/// One reply too many shifts all that follow: the first client would get the reply to the last question.
#[test]
fn a_step_that_gets_the_reply_to_another() {
    refused(Mood::Refuses("HELLO", "$5\r\nextra\r\n"));
    refused(Mood::Refuses("PING", "+OK\r\n"));
    refused(Mood::Refuses("CLIENT", "+OK\r\n"));
}

#[test]
fn an_upstream_that_hangs_up() {
    refused(Mood::HangsUp);
}

#[test]
fn an_upstream_that_says_nothing() {
    refused(Mood::Silent);
}

fn refused(mood: Mood) {
    refused_for(mood, RECOVERY);
}

/// Clients of 16 databases are answered in time, as if the server were empty or by an error that is true, are kept, and are
/// served within `recovery` once it is well.
fn refused_for(mood: Mood, recovery: Duration) {
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
    if recovery == RECOVERY_FROM_PASSWORD {
        assert_eq!(upstream.dials(), 1, "tries may be counted");
    }
    upstream.turn(Mood::Well);
    let well = Instant::now();
    for (database, client) in &mut clients {
        let key = format!("key-in-{database}");
        let due = bulk(key.as_bytes());
        wait_until("the client is served", recovery, || {
            let reply = client.ask(&format!("GET {key}"));
            assert!(reply == due || shown(&reply) == nil(2), "{}", shown(&reply));
            reply == due
        });
    }
    assert_served(clients.iter_mut().map(|(_, client)| client));
    figures.add("recovery_ms", well.elapsed().as_millis());
    figures.add("dials_at_once", upstream.most_unfinished());
    assert!(upstream.most_unfinished() <= DIALS, "{} dials at once", upstream.most_unfinished());
    assert!(slowest < CONNECT_TIMEOUT + MARGIN, "a client waited {slowest:?}");
    proxy.assert_running();
}

/// Returns how long the slowest answer took.
fn is_told_so(client: &mut Client, database: u32) -> Duration {
    let mut slowest = Duration::ZERO;
    let mut ask = |request: &str| {
        let start = Instant::now();
        let reply = client.ask(request);
        slowest = slowest.max(start.elapsed());
        reply
    };
    assert_eq!(shown(&ask(&format!("SELECT {database}"))), "+OK\\r\\n");
    assert_eq!(shown(&ask("GET k")), nil(2));
    assert_unavailable(&ask("INCR n"));
    assert_eq!(shown(&ask("PING")), "+PONG\\r\\n");
    slowest
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
            assert_eq!(shown(&modern.ask("GET k")), nil(3));
            assert_unavailable(&modern.ask("INCR n"));
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
    let ([mut client], line) = clients_on_the_line(&mut upstream, &proxy, 2);
    // Another of RESP2 has its connection in another database, so that the server does not seem to be gone.
    let mut other = proxy.connect();
    other.send(&[words("SELECT 1"), words("GET k")].concat());
    upstream.line(2).echo_on();
    assert_eq!(shown(&other.reply()), "+OK\\r\\n");
    assert_eq!(shown(&other.reply()), "$1\\r\\nk\\r\\n");
    let mut modern = proxy.connect();
    modern.hello3();
    upstream.echo();
    assert_eq!(line.end_and_drain().len(), 0, "nothing was in flight");
    let dials = upstream.dials();
    wait_until("another attempt is made", RECOVERY, || {
        assert_eq!(shown(&modern.ask("GET k")), nil(3));
        assert_unavailable(&modern.ask("INCR n"));
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
    client.send(&[words("SELECT 3"), words("GET k")].concat());
    let mut line = upstream.line(2);
    line.expect("GET k");
    assert_eq!(line.database(), 3);
    line.say(b"$1\r\nv\r\n");
    assert_eq!(shown(&client.reply()), "+OK\\r\\n");
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
