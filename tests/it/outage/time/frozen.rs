//! A server that stands still accepts and acknowledges, and answers nobody: the outage that costs most.

use super::{EMPTY, SIDE_BY_SIDE, TRUE, assert_empty, assert_not_sent, repeat, server_with_value, timed};
use crate::support::{Client, Figures, Noise, Over, Proxy, Spread, alone, is_direct, wait_until};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// The longest that a request may wait, besides what the machine adds: the deadline, and a quarter of a second.
const LONGEST: Duration = Duration::from_millis(4_250);
/// What 99 of 100 requests may take once those that waited are answered, besides what the machine adds.
const THEN: Duration = Duration::from_millis(5);
/// Service must be back this soon after the server goes on, usually.
const BACK_MEDIAN: Duration = Duration::from_millis(300);
/// The same, always, besides what the machine adds.
const BACK_WORST: Duration = Duration::from_secs(1);
/// And this soon in every lane of every worker: there is one connection in the first second.
const ALL_BACK: Duration = Duration::from_secs(2);
const CLIENTS: usize = 50;
/// The clients, out of those, that write.
const WRITERS: usize = 10;
/// Between two requests of one client.
const PACE: Duration = Duration::from_millis(10);
/// For how long degraded answers are watched.
const WATCHED: Duration = Duration::from_millis(1_500);

#[test]
fn alone_a_frozen_server_keeps_fifty_clients_waiting_only_up_to_the_deadline() {
    if is_direct() {
        return;
    }
    let _alone = alone();
    let noise = Noise::listen();
    let runs = repeat(1, |_| fifty_clients());
    let noise = noise.heard();
    let waited: Spread = runs.iter().flat_map(|run| run.waited.iter().copied()).collect();
    let then: Spread = runs.iter().flat_map(|run| run.then.iter().copied()).collect();
    let back: Spread = runs.iter().map(|run| run.back).collect();
    let all_back: Spread = runs.iter().map(|run| run.all_back).collect();
    let mut figures = Figures::of("frozen server, 50 clients");
    figures.add("waited", waited.shown());
    figures.add("then", then.shown());
    figures.add("noise", noise.shown());
    figures.add("back", back.shown());
    figures.add("all_back", all_back.shown());
    assert!(all_back.worst() <= ALL_BACK + noise.worst(), "all are served again: {}", all_back.shown());
    assert!(waited.count() >= runs.len() * CLIENTS, "every client was waiting or came later");
    assert!(
        waited.worst() < LONGEST + noise.worst(),
        "waiting clients: {}; an echo: {}",
        waited.shown(),
        noise.shown()
    );
    assert!(then.p99() < THEN + noise.p99(), "from then on: {}; an echo: {}", then.shown(), noise.shown());
    assert!(
        back.median() <= BACK_MEDIAN && back.worst() <= BACK_WORST + noise.worst(),
        "served again: {}",
        back.shown()
    );
}

/// How long things took in one freeze.
struct Freeze {
    /// Requests that were waiting when the server froze, or came before all those had their answers.
    waited: Vec<Duration>,
    /// Requests after that, while the server still stood.
    then: Vec<Duration>,
    /// From its going on until the first true value.
    back: Duration,
    /// The same until every reader had one.
    all_back: Duration,
}

/// One request.
struct Exchange {
    client: usize,
    sent: Instant,
    answered: Instant,
    served: bool,
}

fn fifty_clients() -> Freeze {
    let server = server_with_value();
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--workers", "2"]);
    });
    let seen = Mutex::new(Vec::new());
    let (over, ended) = Over::flag();
    let moments = thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (mut client, seen, ended) = (proxy.connect(), &seen, &ended);
            scope.spawn(move || go_on(&mut client, number, seen, ended));
        }
        let end = over;
        wait_for_each(&seen, "is served", 0..CLIENTS, |exchange| exchange.served);
        server.freeze();
        let frozen = Instant::now();
        wait_for_each(&seen, "has an answer", 0..CLIENTS, |exchange| !exchange.served && exchange.answered > frozen);
        let answered = Instant::now();
        // What is measured is what comes in this time.
        thread::sleep(WATCHED);
        let thawed = Instant::now();
        server.thaw();
        let served = |exchange: &Exchange| exchange.served && exchange.answered > thawed;
        wait_for_each(&seen, "is served again", WRITERS..CLIENTS, served);
        drop(end);
        [frozen, answered, thawed]
    });
    measured(&seen.into_inner().expect("no client panicked"), moments)
}

fn measured(seen: &[Exchange], [frozen, answered, thawed]: [Instant; 3]) -> Freeze {
    let took = |exchange: &Exchange| exchange.answered - exchange.sent;
    let waited = seen.iter().filter(|one| one.answered > frozen && one.sent < answered).map(took).collect();
    let then = seen.iter().filter(|one| one.sent >= answered && one.answered < thawed).map(took).collect();
    let served = |one: &&Exchange| one.client >= WRITERS && one.served && one.answered > thawed;
    let mut firsts = [None; CLIENTS];
    for one in seen.iter().filter(served) {
        let first = firsts[one.client].get_or_insert(one.answered);
        *first = one.answered.min(*first);
    }
    let firsts: Spread = firsts.iter().flatten().map(|first| *first - thawed).collect();
    let back = seen.iter().filter(served).map(|one| one.answered - thawed).min().unwrap_or_default();
    Freeze { waited, then, back, all_back: firsts.worst() }
}

/// Waits until each of these clients has had such an exchange.
fn wait_for_each(
    seen: &Mutex<Vec<Exchange>>,
    what: &str,
    clients: std::ops::Range<usize>,
    is_such: impl Fn(&Exchange) -> bool,
) {
    wait_until(&format!("every client {what}"), Duration::from_secs(12), || {
        let seen = seen.lock().expect("no client panicked");
        let mut have = [false; CLIENTS];
        seen.iter().filter(|one| is_such(one)).for_each(|one| have[one.client] = true);
        have[clients.clone()].iter().all(|has| *has)
    });
}

/// Requests one after the other: the first clients write, the others read.
fn go_on(client: &mut Client, number: usize, seen: &Mutex<Vec<Exchange>>, over: &AtomicBool) {
    let request = if number < WRITERS { format!("INCR n{number}") } else { "GET k".to_owned() };
    while !over.load(Relaxed) {
        let sent = Instant::now();
        let reply = client.ask(&request);
        let answered = Instant::now();
        let served = match reply[0] {
            b':' => true,
            b'-' if number < WRITERS => {
                let told = reply.starts_with(b"-INDETERMINATE ") || reply.starts_with(b"-UNAVAILABLE ");
                assert!(told, "{}", reply.escape_ascii());
                false
            }
            _ => {
                assert!(reply == TRUE || reply == EMPTY, "{}", reply.escape_ascii());
                reply == TRUE
            }
        };
        seen.lock().expect("no client panicked").push(Exchange { client: number, sent, answered, served });
        thread::sleep(PACE);
    }
}

/// Between two requests of the client that comes seldom.
const SELDOM: Duration = Duration::from_secs(3);

#[test]
fn alone_a_frozen_server_keeps_a_client_that_comes_seldom_waiting_once() {
    if is_direct() {
        return;
    }
    let _alone = alone();
    let noise = Noise::listen();
    let runs = repeat(SIDE_BY_SIDE, |_| one_client());
    let noise = noise.heard();
    let waited: Spread = runs.iter().map(|run| run.waited[0]).collect();
    let then: Spread = runs.iter().flat_map(|run| run.then.iter().copied()).collect();
    let back: Spread = runs.iter().map(|run| run.back).collect();
    let mut figures = Figures::of("frozen server, one client");
    figures.add("waited", waited.shown());
    figures.add("then", then.shown());
    figures.add("noise", noise.shown());
    figures.add("back", back.shown());
    assert!(
        waited.worst() < LONGEST + noise.worst(),
        "the request that waited: {}; an echo: {}",
        waited.shown(),
        noise.shown()
    );
    assert!(then.p99() < THEN + noise.p99(), "from then on: {}; an echo: {}", then.shown(), noise.shown());
    assert!(
        back.median() <= BACK_MEDIAN && back.worst() <= BACK_WORST + noise.worst(),
        "served again: {}",
        back.shown()
    );
}

/// One worker, and one client that asks every three seconds.
fn one_client() -> Freeze {
    let server = server_with_value();
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--workers", "1"]);
    });
    let mut client = proxy.connect();
    assert_eq!(client.ask("GET k"), TRUE);
    server.freeze();
    thread::sleep(SELDOM);
    let mut due = Instant::now() + SELDOM;
    let (reply, waited) = timed(|| client.ask("GET k"));
    assert_empty(&reply);
    let mut then = Vec::new();
    for request in ["GET k", "INCR n", "GET k"] {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        due = Instant::now() + SELDOM;
        let (reply, took) = timed(|| client.ask(request));
        match request {
            "GET k" => assert_empty(&reply),
            _ => assert_not_sent(&reply),
        }
        then.push(took);
    }
    let thawed = Instant::now();
    server.thaw();
    let back = super::first_true(&mut client) - thawed;
    Freeze { waited: vec![waited], then, back, all_back: back }
}
