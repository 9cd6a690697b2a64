//! Order under fire: many clients with random pipelines, some of whom vanish, and every reply must be the right one.
//!
//! `OUTRIGGER_ORDER_COMMANDS` says how many commands are sent in all, `OUTRIGGER_ORDER_SEED` repeats the choices of a run
//! (not its timing).

mod speaker;

use crate::support::{Figures, Kind, Proxy, Server, command, frame_length, words};
use speaker::{Due, Speaker};
use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::time::timeout;

/// How many clients there are at any time.
const CLIENTS: u64 = 200;
/// The longest that one pipeline may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// One pipeline in so many is the last of its connection.
const LAST_ONE_IN: usize = 12;

#[test]
fn every_reply_is_the_right_one_under_fire_on_one_worker() {
    fire("1", number("OUTRIGGER_ORDER_COMMANDS", 1_000_000));
}

#[test]
fn every_reply_is_the_right_one_under_fire_on_two_workers() {
    fire("2", number("OUTRIGGER_ORDER_COMMANDS", 1_000_000) / 5);
}

#[test]
fn databases_and_protocols_used_at_once_never_mix() {
    const ROUNDS: usize = 50;
    let server = Server::start(Kind::Valkey91);
    let proxy = Proxy::patient(&server, |_| {});
    std::thread::scope(|scope| {
        for number in 0..32 {
            let proxy = &proxy;
            scope.spawn(move || one_of_many(proxy, number / 2, number % 2 == 1, ROUNDS));
        }
    });
}

/// One client of one database and protocol, whose keys have the names that all others use.
fn one_of_many(proxy: &Proxy, database: u32, resp3: bool, rounds: usize) {
    let mut client = proxy.connect();
    if resp3 {
        client.hello3();
    }
    client.select(database);
    let owner = format!("database {database}");
    client.call(&[b"SET", b"owner", owner.as_bytes()]);
    client.call(&[b"HSET", b"hash", b"owner", owner.as_bytes()]);
    let text = format!("${}\r\n{owner}\r\n", owner.len());
    let (map, null) = if resp3 { ("%1", "_\r\n") } else { ("*2", "$-1\r\n") };
    let hash = format!("{map}\r\n$5\r\nowner\r\n{text}");
    let round = [words("GET owner"), words("HGETALL hash"), words("GET missing"), command(&["ECHO", &owner])];
    let due = [&text, &hash, null, &text].map(str::as_bytes).concat();
    for _ in 0..rounds {
        let requests: Vec<_> = round.iter().cycle().take(400).cloned().collect();
        assert!(client.pipeline(&requests).concat() == due.repeat(100), "{owner} in RESP3: {resp3}: another's reply");
    }
}

/// What all clients of a run share.
struct Fire {
    address: String,
    left: AtomicU64,
    checked: AtomicU64,
    lives: AtomicU64,
    vanished: AtomicU64,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// All replies are read, then FIN.
    Polite,
    /// FIN while replies are due.
    Closed,
    /// RST while replies are due.
    Reset,
}

fn fire(workers: &str, commands: u64) {
    let seed = number("OUTRIGGER_ORDER_SEED", fastrand::u64(..));
    println!("OUTRIGGER_ORDER_SEED={seed}");
    let server = Server::start(Kind::Redis70);
    let mut proxy = Proxy::patient(&server, |flags| {
        flags.args(["--workers", workers]);
    });
    let start = Instant::now();
    let fire = Arc::new(Fire {
        address: proxy.address().to_owned(),
        left: AtomicU64::new(commands),
        checked: AtomicU64::new(0),
        lives: AtomicU64::new(0),
        vanished: AtomicU64::new(0),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be built");
    runtime.block_on(all_clients(&fire, seed));
    proxy.assert_running();
    let mut figures = Figures::of(&format!("order under fire, {workers} worker(s)"));
    figures.add("commands", commands);
    figures.add("checked", fire.checked.load(Relaxed));
    figures.add("connections", fire.lives.load(Relaxed));
    figures.add("vanished", fire.vanished.load(Relaxed));
    figures.add("seconds", format!("{:.1}", start.elapsed().as_secs_f64()));
    figures.add("upstream", server.info_number("stats", "total_connections_received"));
}

async fn all_clients(fire: &Arc<Fire>, seed: u64) {
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(one_client(Arc::clone(fire), number, fastrand::Rng::with_seed(seed.wrapping_add(number))));
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("no client fails");
    }
}

/// One connection after the other, each with keys of its own, until all commands are spent.
async fn one_client(fire: Arc<Fire>, number: u64, mut rng: fastrand::Rng) {
    for life in 0.. {
        if fire.left.load(Relaxed) == 0 {
            return;
        }
        fire.lives.fetch_add(1, Relaxed);
        let mut speaker = Speaker::new(format!("c{number}.{life}"), rng.fork());
        let mut stream = TcpStream::connect(&fire.address).await.expect("the proxy accepts");
        stream.set_nodelay(true).expect("a TCP socket");
        match one_life(&fire, &mut speaker, &mut stream, &mut rng).await {
            Ending::Polite => {}
            Ending::Closed => drop(stream),
            Ending::Reset => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a TCP socket"),
        }
    }
}

async fn one_life(fire: &Fire, speaker: &mut Speaker, stream: &mut TcpStream, rng: &mut fastrand::Rng) -> Ending {
    let mut received = Vec::new();
    loop {
        let wanted = if rng.usize(..10) == 0 { rng.u64(1..=400) } else { rng.u64(1..=24) };
        let commands = take(&fire.left, wanted);
        if commands == 0 {
            return Ending::Polite;
        }
        (0..commands).for_each(|_| speaker.say_something());
        let (requests, due) = speaker.pipeline();
        let last = rng.usize(..LAST_ONE_IN) == 0;
        let ending = [Ending::Polite, Ending::Closed, Ending::Reset][rng.usize(..3)];
        if last && !matches!(ending, Ending::Polite) {
            vanish_within(fire, stream, &requests, rng).await;
            return ending;
        }
        let done = timeout(PATIENCE, exchange(stream, &mut received, &requests, &due, rng.bool())).await;
        done.unwrap_or_else(|_| panic!("{} waited {PATIENCE:?} for {} replies", speaker.name(), due.len()));
        fire.checked.fetch_add(commands, Relaxed);
        if last {
            return Ending::Polite;
        }
    }
}

/// Sends some of the requests, perhaps all, perhaps up to the middle of one, and reads nothing.
async fn vanish_within(fire: &Fire, stream: &mut TcpStream, requests: &[u8], rng: &mut fastrand::Rng) {
    fire.vanished.fetch_add(1, Relaxed);
    let sent = if rng.bool() { requests.len() } else { rng.usize(..=requests.len()) };
    timeout(PATIENCE, stream.write_all(&requests[..sent]))
        .await
        .expect("the proxy reads on")
        .expect("the proxy has not closed");
}

/// Sends a pipeline and checks its replies: either all is written before anything is read, as many clients do, or both at once.
async fn exchange(stream: &mut TcpStream, received: &mut Vec<u8>, requests: &[u8], due: &[Due], write_first: bool) {
    let (mut reader, mut writer) = stream.split();
    if write_first {
        writer.write_all(requests).await.expect("the proxy has not closed");
        check(&mut reader, received, due).await;
    } else {
        let (written, ()) = tokio::join!(writer.write_all(requests), check(&mut reader, received, due));
        written.expect("the proxy has not closed");
    }
}

async fn check(reader: &mut ReadHalf<'_>, received: &mut Vec<u8>, due: &[Due]) {
    let mut taken = 0;
    for (number, due) in due.iter().enumerate() {
        let length = loop {
            if let Some(length) = frame_length(&received[taken..]) {
                break length;
            }
            received.drain(..taken);
            taken = 0;
            received.reserve(64 * 1024);
            let read = reader.read_buf(received).await.expect("the proxy has not reset");
            assert!(read > 0, "closed instead of reply {number}, {due}");
        };
        let reply = &received[taken..taken + length];
        assert!(due.is(reply), "reply {number} is {}, due was {due}", reply[..reply.len().min(300)].escape_ascii());
        taken += length;
    }
    received.drain(..taken);
    assert!(received.is_empty(), "a reply that nobody asked for: {}", received.escape_ascii());
}

/// Takes up to `wanted` off what is left.
fn take(left: &AtomicU64, wanted: u64) -> u64 {
    let before = left.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(wanted)));
    before.map_or(0, |before| before.min(wanted))
}

fn number(variable: &str, otherwise: u64) -> u64 {
    env::var(variable)
        .map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}
