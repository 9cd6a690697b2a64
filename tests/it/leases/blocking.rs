//! Commands that wait for what other clients do.

use super::{BLOCKING, PATIENCE, assert_none_is_lost, blocked, one_worker, wait_until_blocked, watching};
use crate::support::{Client, Kind, Proxy, Scripted, Server, is_direct, wait_until, words};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// Within this after a client has left, nothing is taken for it any more.
const GHOST: Duration = Duration::from_millis(50);

#[test]
fn what_is_served_at_once_later_or_never_is_answered_as_directly() {
    let conversations: [(&str, &str, &str); 8] = [
        ("BLPOP q 0", "RPUSH q a", "*2\r\n$1\r\nq\r\n$1\r\na\r\n"),
        ("BRPOPLPUSH q r 0", "RPUSH q a", "$1\r\na\r\n"),
        ("BLMOVE q r LEFT LEFT 0", "RPUSH q a", "$1\r\na\r\n"),
        ("BZPOPMIN z 0", "ZADD z 1 m", "*3\r\n$1\r\nz\r\n$1\r\nm\r\n$1\r\n1\r\n"),
        (
            "XREAD BLOCK 0 STREAMS s $",
            "XADD s 1-1 f v",
            "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n",
        ),
        ("BLPOP never 0.05", "", "*-1\r\n"),
        ("XREAD BLOCK 50 STREAMS never $", "", "*-1\r\n"),
        ("BLPOP q x", "", "-ERR timeout is not a float or out of range\r\n"),
    ];
    for kind in Kind::ALL {
        let server = Server::start(kind);
        let proxy = one_worker(&server);
        let (mut client, mut other) = (proxy.connect(), server.connect());
        for (request, serves, reply) in conversations {
            client.send(&words(request));
            // What stands behind it comes behind it.
            client.send(&words("PING"));
            client.send(&words("GET k"));
            if !serves.is_empty() {
                wait_until_blocked(&server, 1);
                other.ask(serves);
            }
            let got = client.reply();
            assert_eq!(
                got.escape_ascii().to_string(),
                reply.as_bytes().escape_ascii().to_string(),
                "{request} on {}",
                kind.name()
            );
            assert_eq!(client.reply(), b"+PONG\r\n");
            assert_eq!(client.reply(), b"$-1\r\n");
        }
        assert_none_is_lost(&proxy, &server);
    }
}

/// Two may block and a third waits, so the first is to make room; but it has its answer before the server comes to that, and
/// then another connection, when the old one ends.
#[test]
fn who_has_another_connection_by_now_does_not_lose_it_with_the_old_one() {
    if is_direct() {
        return;
    }
    let mut server = Scripted::start();
    let proxy = Proxy::toward(&server.address(), |flags| {
        flags.args(["--workers", "1", "--pool-size", "5"]);
    });
    let [mut first, mut second, mut third] = std::array::from_fn(|_| proxy.connect());
    // The lanes have a connection, which the server is asked over to end a wait.
    let mut lane = server.line(3);
    first.send(&words("BLPOP a 0"));
    let mut old = server.line(2);
    old.expect("BLPOP a 0");
    second.send(&words("BLPOP b 0"));
    let mut held = server.line(2);
    held.expect("BLPOP b 0");
    third.send(&words("BLPOP c 0"));
    let release = lane.request();
    assert_eq!(release[..2], [b"CLIENT".to_vec(), b"UNBLOCK".to_vec()], "{release:?}");

    old.say(b"*2\r\n$1\r\na\r\n$1\r\n1\r\n");
    assert_eq!(first.reply(), b"*2\r\n$1\r\na\r\n$1\r\n1\r\n");
    first.send(&words("WATCH k"));
    let mut new = server.line(2);
    new.expect("WATCH k");
    new.say(b"+OK\r\n");
    assert_eq!(first.reply(), b"+OK\r\n");
    old.reset();
    wait_until("that is noticed", PATIENCE, || proxy.logged("lost a leased upstream connection") == 1);
    first.send(&words("GET k"));
    new.expect("GET k");
    new.say(b"$-1\r\n");
    assert_eq!(first.reply(), b"$-1\r\n");
}

#[test]
fn who_leaves_while_it_waits_takes_nothing() {
    for kind in [Kind::Redis70, Kind::Valkey91] {
        let server = Server::start(kind);
        let proxy = one_worker(&server);
        let mut other = server.connect();
        for round in 0..60 {
            let mut client = proxy.connect();
            client.send(&words("BLPOP ghost 0"));
            if round % 3 == 0 {
                // Its leaving must be seen behind what it has sent already.
                client.send(&words("GET k").repeat(100));
            }
            wait_until_blocked(&server, 1);
            match round % 2 {
                0 => drop(client),
                _ => client.reset(),
            }
            let left = Instant::now();
            wait_until("nobody is blocked", PATIENCE, || blocked(&server) == 0);
            assert!(left.elapsed() < GHOST * 20, "{:?}", left.elapsed());
            assert_eq!(other.ask("RPUSH ghost 1"), b":1\r\n", "round {round} on {}", kind.name());
            assert_eq!(other.ask("DEL ghost"), b":1\r\n");
        }
        assert_none_is_lost(&proxy, &server);
    }
}

#[test]
fn a_hundred_workers_share_a_few_connections_and_no_job_is_lost() {
    const WORKERS: usize = 100;
    const JOBS: usize = 3000;
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for number in 0..WORKERS {
            let (done, mut client) = (&done, proxy.connect());
            scope.spawn(move || {
                if number % 2 == 1 {
                    client.hello3();
                }
                loop {
                    // Half of them ask again and again.
                    let timeout = if number % 4 < 2 { "0" } else { "1.5" };
                    let job = client.frame(&format!("BRPOP jobs:{} jobs {timeout}", number % 10));
                    let Some(job) = job.items.get(1) else { continue };
                    if job.text == b"stop" {
                        return;
                    }
                    done.lock().expect("not poisoned").push(job.as_text());
                }
            });
        }
        if !is_direct() {
            wait_until_blocked(&server, BLOCKING);
        }
        // Transactions have their reserve meanwhile.
        drop(watching(&proxy, 4));
        let mut producer = proxy.connect();
        for job in 0..JOBS {
            // Most lists have no worker that is blocked on them just now.
            let list = if job % 3 == 0 { "jobs".to_owned() } else { format!("jobs:{}", job % 10) };
            assert_eq!(producer.ask(&format!("LPUSH {list} {job}")).first(), Some(&b':'));
        }
        wait_until("all jobs are done", PATIENCE * 2, || done.lock().expect("not poisoned").len() >= JOBS);
        for number in 0..WORKERS {
            producer.ask(&format!("LPUSH jobs:{} stop", number % 10));
        }
    });
    let mut done = done.into_inner().expect("not poisoned");
    done.sort_unstable();
    done.dedup();
    assert_eq!(done.len(), JOBS, "each job is done once");
    assert_none_is_lost(&proxy, &server);
}

#[test]
fn who_waits_for_a_connection_is_answered_in_its_own_time() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let mut waiting: Vec<Client> = (0..3 * BLOCKING).map(|_| proxy.connect()).collect();
    let start = Instant::now();
    for client in &mut waiting {
        client.send(&words("BLPOP never 3"));
    }
    for client in &mut waiting {
        assert_eq!(client.reply(), b"*-1\r\n");
    }
    // However often they took turns.
    let took = start.elapsed();
    assert!((Duration::from_millis(2700)..Duration::from_secs(5)).contains(&took), "{took:?}");
    assert_none_is_lost(&proxy, &server);
}

#[test]
fn what_is_lost_while_it_waits_is_told_and_the_client_goes_on() {
    if is_direct() {
        return;
    }
    let mut server = Server::start(Kind::Redis70);
    let proxy = Proxy::before(&server);
    let mut clients: Vec<Client> = (0..5).map(|_| proxy.connect()).collect();
    for client in &mut clients {
        client.send(&words("BLPOP q 0"));
    }
    wait_until_blocked(&server, clients.len());
    server.kill();
    for client in &mut clients {
        let reply = client.reply();
        assert!(reply.starts_with(b"-INDETERMINATE "), "{}", reply.escape_ascii());
    }
    wait_until("it is known that Redis is gone", PATIENCE, || {
        clients[0].ask("BLPOP q 0").starts_with(b"-UNAVAILABLE ")
    });
    server.start_again();
    wait_until("it is back", PATIENCE, || clients[0].ask("RPUSH q 1 2 3 4 5").first() == Some(&b':'));
    for client in &mut clients {
        wait_until("each is served", PATIENCE, || client.ask("BLPOP q 1").starts_with(b"*2\r\n"));
    }
    assert_none_is_lost(&proxy, &server);
}

#[test]
fn who_waits_for_a_lease_to_block_on_is_unblocked_like_anybody() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--workers", "2"]);
    });
    // Lanes of a second worker have two of the pool's connections more.
    let most = BLOCKING - 2;
    let mut blocked: Vec<_> = (0..most).map(|_| proxy.connect()).collect();
    blocked.iter_mut().for_each(|client| client.send(b"BLPOP never 0\r\n"));
    wait_until_blocked(&server, most);
    let mut control = proxy.connect();
    let mut late = proxy.connect();
    let id = late.frame("CLIENT ID").as_text();
    for (how, expected) in [
        ("", b"*-1\r\n".as_slice()),
        (" TIMEOUT", b"*-1\r\n"),
        (" ERROR", b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n"),
    ] {
        assert_eq!(control.ask(&format!("CLIENT UNBLOCK {id}{how}")), b":0\r\n");
        late.send(b"BLPOP never 0\r\n");
        wait_until("it waits", PATIENCE, || control.ask(&format!("CLIENT UNBLOCK {id}{how}")) == b":1\r\n");
        assert_eq!(late.reply(), expected);
        assert_eq!(late.ask("PING"), b"+PONG\r\n");
    }
    drop(blocked);
    wait_until_blocked(&server, 0);
}

/// What follows a blocked command may end its client too.
#[test]
fn who_breaks_the_protocol_while_it_waits_takes_nothing() {
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let mut other = server.connect();
    for _ in 0..5 {
        let mut client = proxy.connect();
        client.send(&[words("BLPOP ghost 0"), b"*x\r\n".to_vec()].concat());
        client.wait_until_read();
        if !is_direct() {
            wait_until("nobody is blocked", PATIENCE, || blocked(&server) == 0);
            assert_eq!(other.ask("RPUSH ghost 1"), b":1\r\n");
            assert_eq!(other.ask("DEL ghost"), b":1\r\n");
        }
    }
    assert_none_is_lost(&proxy, &server);
}

/// While others wait for its connection, who reads a stream from now on keeps it: asked again, it would miss something.
#[test]
fn who_reads_a_stream_from_now_on_misses_nothing() {
    if is_direct() {
        return;
    }
    const READERS: usize = 8;
    let server = Server::start(Kind::Redis70);
    let proxy = one_worker(&server);
    let mut readers: Vec<Client> = (0..READERS).map(|_| proxy.connect()).collect();
    readers.iter_mut().for_each(|reader| reader.send(&words("XREAD BLOCK 0 STREAMS s $")));
    wait_until_blocked(&server, READERS);
    let mut poppers: Vec<Client> = (0..2 * BLOCKING).map(|_| proxy.connect()).collect();
    for (number, popper) in poppers.iter_mut().enumerate() {
        popper.send(&words(&format!("BLPOP l-{number} 0")));
    }
    let mut other = proxy.connect();
    // All of them have their turn.
    for (number, popper) in poppers.iter_mut().enumerate() {
        assert_eq!(other.ask(&format!("RPUSH l-{number} x")), b":1\r\n");
        assert!(popper.reply().ends_with(b"$1\r\nx\r\n"));
    }
    assert!(other.ask("XADD s * f v").starts_with(b"$"));
    readers.iter_mut().for_each(|reader| assert!(reader.reply().ends_with(b"$1\r\nf\r\n$1\r\nv\r\n")));
}
