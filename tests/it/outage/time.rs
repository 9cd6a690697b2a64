//! How long clients wait: for the answer when Redis cannot serve, and for service when it is back.
//!
//! `OUTRIGGER_REPEATS` is how often each measurement is made (5). Repetitions that mostly wait run side by side.

mod back;
mod frozen;
mod stalls;

use crate::support::{
    Client, Figures, Kind, Noise, PATIENCE, Proxy, Server, Spread, alone, is_direct, wait_until, words,
};
use std::env;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// The answer to a client whose connection to Redis was lost, or refused, comes at once: within this, besides what the
/// machine adds.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Requests sent after the one that met the loss.
const NEXT: usize = 20;
/// Repetitions that run side by side, at most.
const SIDE_BY_SIDE: usize = 10;

#[test]
fn alone_a_killed_server_leaves_nobody_waiting() {
    if is_direct() {
        return;
    }
    let _alone = alone();
    let noise = Noise::listen();
    let runs = repeat(1, |_| killed_with_requests_in_flight());
    let at_once = AT_ONCE + noise.heard().worst();
    let in_flight: Spread = runs.iter().flat_map(|run| run.in_flight).collect();
    let next: Spread = runs.iter().flat_map(|run| run.next.iter().copied()).collect();
    let mut figures = Figures::of("killed server");
    figures.add("in_flight", in_flight.shown());
    figures.add("next", next.shown());
    assert!(in_flight.worst() < at_once, "requests in flight: {}", in_flight.shown());
    assert!(next.worst() < at_once, "requests after them: {}", next.shown());
}

/// How long answers took.
struct Killed {
    /// Of a read and a write that Redis had received, from the kill on.
    in_flight: [Duration; 2],
    next: Vec<Duration>,
}

fn killed_with_requests_in_flight() -> Killed {
    let mut server = server_with_value();
    let proxy = Proxy::before(&server);
    let (mut reader, mut writer) = (proxy.connect(), proxy.connect());
    assert_eq!(reader.ask("GET k"), TRUE);
    assert_eq!(writer.ask("INCR n"), b":1\r\n");
    server.freeze();
    let requests = [words("GET k"), words("INCR n")];
    reader.send(&requests[0]);
    writer.send(&requests[1]);
    let sent = requests.concat().len();
    wait_until("the requests are with the server", PATIENCE, || received_unread(&server) >= sent);
    let killed = Instant::now();
    server.kill();
    assert_empty(&reader.reply());
    let read = killed.elapsed();
    let reply = writer.reply();
    assert!(reply.starts_with(b"-INDETERMINATE "), "{}", reply.escape_ascii());
    let in_flight = [read, killed.elapsed()];
    let mut next = Vec::new();
    for _ in 0..NEXT {
        let (reply, took) = timed(|| reader.ask("GET k"));
        assert_empty(&reply);
        next.push(took);
        let (reply, took) = timed(|| writer.ask("INCR n"));
        assert_not_sent(&reply);
        next.push(took);
    }
    Killed { in_flight, next }
}

/// Bytes that the kernel holds for the server and the server has not read.
fn received_unread(server: &Server) -> usize {
    let address = server.address();
    let port: u16 = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("an address ends with a port");
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the system lists its connections");
    let local = format!(":{port:04X}");
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let held = rows.filter(|row| row.len() > 4 && row[1].ends_with(&local) && row[3] == "01");
    held.filter_map(|row| usize::from_str_radix(row[4].split_once(':')?.1, 16).ok()).sum()
}

/// What the key `k` holds.
const TRUE: &[u8] = b"$4\r\ntrue\r\n";
/// What an empty server says of it.
const EMPTY: &[u8] = b"$-1\r\n";

/// A server that holds the key `k`, and holds it again as soon as it accepts after a restart.
fn server_with_value() -> Server {
    let server = Server::start_with(Kind::Redis70, &["--appendonly", "yes", "--appendfsync", "no"]);
    assert_eq!(server.connect().ask("SET k true"), b"+OK\r\n");
    server
}

fn assert_empty(reply: &[u8]) {
    assert!(reply == EMPTY, "a read got {}", reply.escape_ascii());
}

fn assert_not_sent(reply: &[u8]) {
    let told = reply.starts_with(b"-UNAVAILABLE ") && reply.ends_with(b", command not sent\r\n");
    assert!(told, "{}", reply.escape_ascii());
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = work();
    (done, start.elapsed())
}

/// How often each measurement is made.
fn repeats() -> usize {
    let told = env::var("OUTRIGGER_REPEATS").ok();
    told.map_or(5, |text| text.parse().expect("OUTRIGGER_REPEATS is a number"))
}

/// Makes a measurement as often as told, so many at once, and gives what each found. It is handed its number.
fn repeat<T: Send>(at_once: usize, measure: impl Fn(usize) -> T + Sync) -> Vec<T> {
    several(repeats(), at_once, measure)
}

/// The same, so many times.
fn several<T: Send>(count: usize, at_once: usize, measure: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(number) = Some(next.fetch_add(1, Relaxed)).filter(|number| *number < count) {
            let one = measure(number);
            found.lock().expect("no holder panics").push(one);
        }
    };
    thread::scope(|scope| (0..at_once.min(count)).for_each(|_| drop(scope.spawn(work))));
    found.into_inner().expect("no holder panics")
}

/// When the server first answers a PING of ours. To be called before it starts.
fn first_pong(address: &str) -> Instant {
    let mut answered = Instant::now();
    wait_until("the server accepts", PATIENCE, || {
        answered = Instant::now();
        let pong = Client::try_connect(address).and_then(|mut client| client.exchange(b"PING\r\n"));
        pong.is_ok_and(|reply| reply.is_some_and(|reply| reply == b"+PONG\r\n"))
    });
    answered
}

/// When this client first has the true value; until then its answers are empty.
fn first_true(client: &mut Client) -> Instant {
    wait_until("the client has the true value", PATIENCE, || {
        let reply = client.ask("GET k");
        assert!(reply == TRUE || reply == EMPTY, "{}", reply.escape_ascii());
        reply == TRUE
    });
    Instant::now()
}

/// Starts the server again; how long after it accepts the client is served.
fn served_after_return(server: &mut Server, client: &mut Client) -> Duration {
    let address = server.address();
    thread::scope(|scope| {
        let accepted = scope.spawn(|| first_pong(&address));
        let served = scope.spawn(|| first_true(client));
        server.start_again();
        let accepted = accepted.join().expect("the server answers");
        served.join().expect("the client is served").saturating_duration_since(accepted)
    })
}
