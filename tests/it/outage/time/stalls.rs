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
/// A stall that comes so near to the default of `--request-timeout` is another test's: those who wait are told so.
const TOO_LONG: Duration = Duration::from_millis(3_700);
/// How often a stall of the right length is tried for where it depends on the machine's speed.
const TRIES: usize = 3;
/// What the key `k` holds.
const TRUE: &[u8] = b"$4\r\ntrue\r\n";

#[test]
fn alone_a_long_script_trips_nothing() {
    let script = "local t = redis.call('TIME') local function since() local n = redis.call('TIME') \
                  return (n[1] - t[1]) * 1000 + (n[2] - t[2]) / 1000 end while since() < 3000 do end return 'done'";
    let stall = stalled("script", &Server::start(Kind::Redis70), |proxy| {
        let reply = proxy.connect().call(&[b"EVAL", script.as_bytes(), b"0"]);
        assert_eq!(reply, b"$4\r\ndone\r\n");
    });
    stall.judge();
}

#[test]
fn alone_a_sleeping_server_trips_nothing() {
    let server = server_with_debug();
    let stall = stalled("DEBUG SLEEP", &server, |_| {
        assert_eq!(server.connect().ask("DEBUG SLEEP 3"), b"+OK\r\n");
    });
    stall.judge();
}

#[test]
fn alone_a_paused_server_trips_nothing() {
    let server = Server::start(Kind::Redis70);
    let stall = stalled("CLIENT PAUSE WRITE", &server, |proxy| {
        assert_eq!(server.connect().ask("CLIENT PAUSE 3000 WRITE"), b"+OK\r\n");
        // It waits until the pause is over.
        assert_eq!(proxy.connect().ask("SET other v"), b"+OK\r\n");
    });
    stall.judge();
}

#[test]
fn alone_a_long_keys_trips_nothing() {
    let request = command(&["KEYS", "*aaaaaaaaaaaaaaaaab"]);
    for _ in 0..TRIES {
        let server = server_with_debug();
        make_slow(&mut server.connect(), &request);
        let stall = stalled("KEYS", &server, |proxy| {
            let mut client = proxy.connect();
            client.send(&request);
            assert_eq!(client.reply(), b"*0\r\n");
        });
        // The machine may have less time for us than a moment ago; then it was no stall of three seconds.
        if stall.took < TOO_LONG {
            return stall.judge();
        }
    }
    panic!("this machine is too uneven to make a KEYS of three seconds");
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

/// What came of a stall.
#[derive(Default)]
struct Stall {
    took: Duration,
    /// The longest waits of readers and of writers.
    longest: [Duration; 2],
    /// Replies that should not have come.
    wrong: Vec<String>,
    opened: usize,
}

impl Stall {
    fn judge(self) {
        if is_direct() {
            return;
        }
        assert!(self.wrong.is_empty(), "in a stall of {:?}: {}", self.took, self.wrong.join("; "));
        assert!(self.longest[1] >= STALL, "the longest write took {:?}: that was no stall", self.longest[1]);
        assert_eq!(self.opened, 0, "the breaker opened");
    }
}

/// Lets clients read and write while the server stalls.
fn stalled(name: &str, server: &Server, stall: impl FnOnce(&Proxy)) -> Stall {
    if is_direct() {
        return Stall::default();
    }
    let _alone = alone();
    assert_eq!(server.connect().ask("SET k true"), b"+OK\r\n");
    let mut proxy = Proxy::start(server, |flags| {
        flags.args(["--workers", "2"]);
    });
    let (over, ended) = Over::flag();
    let served = AtomicUsize::new(0);
    let (took, ends) = thread::scope(|scope| {
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
        let began = Instant::now();
        stall(&proxy);
        let took = began.elapsed();
        drop(end);
        let ends = clients.into_iter().map(|client| client.join().expect("a client does not panic"));
        (took, ends.collect::<Vec<_>>())
    });
    let (readers, writers) = ends.split_at(READERS);
    let worst = |of: &[Result<Duration, String>]| of.iter().flatten().max().copied().unwrap_or_default();
    let longest = [worst(readers), worst(writers)];
    let mut figures = Figures::of(&format!("stall, {name}"));
    figures.add("took_ms", took.as_millis());
    figures.add("longest_read_ms", longest[0].as_millis());
    figures.add("longest_write_ms", longest[1].as_millis());
    proxy.assert_running();
    let wrong = ends.into_iter().filter_map(Result::err).collect();
    Stall { took, longest, wrong, opened: proxy.logged(r#""state":"open""#) }
}

/// Requests one after the other, the first clients' reads, the others' increments; the longest wait, or the first reply that
/// is not right.
fn go_on(client: &mut Client, number: usize, over: &AtomicBool) -> Result<Duration, String> {
    let mut longest = Duration::ZERO;
    for round in 1.. {
        if over.load(Relaxed) {
            break;
        }
        let start = Instant::now();
        let (request, right) = if number < READERS {
            ("GET k".to_owned(), TRUE.to_vec())
        } else {
            (format!("INCR n{number}"), format!(":{round}\r\n").into_bytes())
        };
        let reply = client.ask(&request);
        if reply != right {
            return Err(format!("{request}, round {round}, got {}", reply.escape_ascii()));
        }
        longest = longest.max(start.elapsed());
        thread::sleep(PACE);
    }
    Ok(longest)
}
