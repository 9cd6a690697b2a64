//! A server that is busy for three seconds is no outage: everybody waits, everybody gets what is true, and nothing trips.

use crate::support::{Client, Figures, Kind, Over, PATIENCE, Proxy, Server, alone, command, is_direct, wait_until};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

const READERS: usize = 20;
const WRITERS: usize = 4;
/// Between two requests of one client.
const PACE: Duration = Duration::from_millis(5);
/// Somebody must have waited so long, or there was no stall.
const STALL: Duration = Duration::from_millis(1_500);
/// What the key `k` holds.
const TRUE: &[u8] = b"$4\r\ntrue\r\n";

#[test]
fn alone_a_long_script_trips_nothing() {
    let script = "local t = redis.call('TIME') local function since() local n = redis.call('TIME') \
                  return (n[1] - t[1]) * 1000 + (n[2] - t[2]) / 1000 end while since() < 3000 do end return 'done'";
    stalled("script", &Server::start(Kind::Redis70), |proxy| {
        let reply = proxy.connect().call(&[b"EVAL", script.as_bytes(), b"0"]);
        assert_eq!(reply, b"$4\r\ndone\r\n");
    });
}

#[test]
fn alone_a_sleeping_server_trips_nothing() {
    let server = server_with_debug();
    stalled("DEBUG SLEEP", &server, |_| {
        assert_eq!(server.connect().ask("DEBUG SLEEP 3"), b"+OK\r\n");
    });
}

#[test]
fn alone_a_paused_server_trips_nothing() {
    let server = Server::start(Kind::Redis70);
    stalled("CLIENT PAUSE WRITE", &server, |proxy| {
        assert_eq!(server.connect().ask("CLIENT PAUSE 3000 WRITE"), b"+OK\r\n");
        // It waits until the pause is over.
        assert_eq!(proxy.connect().ask("SET other v"), b"+OK\r\n");
    });
}

#[test]
fn alone_a_long_keys_trips_nothing() {
    let server = server_with_debug();
    let request = command(&["KEYS", "*aaaaaaaaaaaaaaaaab"]);
    make_slow(&mut server.connect(), &request);
    stalled("KEYS", &server, |proxy| {
        let mut client = proxy.connect();
        client.send(&request);
        assert_eq!(client.reply(), b"*0\r\n");
    });
}

fn server_with_debug() -> Server {
    Server::start_with(Kind::Redis70, &["--enable-debug-command", "yes"])
}

/// Fills the server with keys that are slow to match, until this request takes almost three seconds.
fn make_slow(admin: &mut Client, request: &[u8]) {
    let prefix = "a".repeat(60);
    let (mut keys, mut took) = (0, 0);
    while took < 2_500 {
        // As many as should do, by the last attempt; no more than three times as many as there are.
        keys = (keys * 2_900 / took.max(1)).clamp(100_000, (keys * 3).max(100_000));
        assert_eq!(admin.ask(&format!("DEBUG POPULATE {keys} {prefix} 1")), b"+OK\r\n");
        let start = Instant::now();
        assert_eq!(admin.exchange(request).expect("the server answers"), Some(b"*0\r\n".to_vec()));
        took = start.elapsed().as_millis();
    }
}

/// Lets clients read and write while the server stalls.
fn stalled(name: &str, server: &Server, stall: impl FnOnce(&Proxy)) {
    if is_direct() {
        return;
    }
    let _alone = alone();
    assert_eq!(server.connect().ask("SET k true"), b"+OK\r\n");
    let mut proxy = Proxy::start(server, |flags| {
        flags.args(["--workers", "2"]);
    });
    let (over, ended) = Over::flag();
    let served = AtomicUsize::new(0);
    let longest = thread::scope(|scope| {
        let start = |number| {
            let (mut client, ended, served) = (proxy.connect(), &ended, &served);
            scope.spawn(move || {
                assert_eq!(client.ask("GET k"), TRUE);
                served.fetch_add(1, Relaxed);
                go_on(&mut client, number, ended)
            })
        };
        let clients: Vec<_> = (0..READERS + WRITERS).map(start).collect();
        let end = over;
        wait_until("all are served", PATIENCE, || served.load(Relaxed) == clients.len());
        stall(&proxy);
        drop(end);
        clients.into_iter().map(|client| client.join().expect("every reply is right")).collect::<Vec<_>>()
    });
    let (readers, writers) = longest.split_at(READERS);
    let worst = |of: &[Duration]| of.iter().max().copied().unwrap_or_default();
    let mut figures = Figures::of(&format!("stall, {name}"));
    figures.add("longest_read_ms", worst(readers).as_millis());
    figures.add("longest_write_ms", worst(writers).as_millis());
    assert!(worst(writers) >= STALL, "the longest write took {:?}: that was no stall", worst(writers));
    assert_eq!(proxy.logged(r#""state":"open""#), 0, "the breaker opened");
    proxy.assert_running();
}

/// Requests one after the other, the first clients' reads, the others' increments; the longest wait.
fn go_on(client: &mut Client, number: usize, over: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    for round in 1.. {
        if over.load(Relaxed) {
            break;
        }
        let start = Instant::now();
        if number < READERS {
            let reply = client.ask("GET k");
            assert!(reply == TRUE, "a read got {}", reply.escape_ascii());
        } else {
            let reply = client.ask(&format!("INCR n{number}"));
            assert!(reply == format!(":{round}\r\n").as_bytes(), "increment {round} got {}", reply.escape_ascii());
        }
        longest = longest.max(start.elapsed());
        thread::sleep(PACE);
    }
    longest
}
