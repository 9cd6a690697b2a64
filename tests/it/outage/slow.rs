//! A Redis that is slow rather than gone, under more load than it can carry: what is served is served in time, the rest is
//! refused at once and truthfully, and nothing grows.

use crate::support::{
    Client, Figures, Frame, Noise, Over, Proxy, Spread, alone, bulk, frame_length, is_direct, resident_bytes,
    wait_until, words,
};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What each reply costs the server, which makes one at a time.
const PER_REPLY: Duration = Duration::from_millis(200);
const CLIENTS: usize = 200;
/// Between a refusal and the next request of a client: 2 000 a second in all, where the server carries 5.
const PACE: Duration = Duration::from_millis(100);
/// Clients that are there before the others: no more than can be answered in time.
const FEW: usize = 10;
/// How long those are alone.
const RISE: Duration = Duration::from_secs(4);
/// How long the load of all lasts.
const LOAD: Duration = Duration::from_secs(14);
/// The default of `--request-timeout`.
const DEADLINE: Duration = Duration::from_secs(4);
/// What may be added to it until the client has the answer.
const MARGIN: Duration = Duration::from_millis(250);
/// What 99 of 100 refusals may take, besides what the machine adds.
const REFUSED: Duration = Duration::from_millis(5);
/// From then on memory must not grow.
const WARM: Duration = Duration::from_secs(3);
/// What it may differ by, for the allocator's sake.
const FLAT: u64 = 4 << 20;
/// The default of `--pool-size`.
const POOL: usize = 20;

#[test]
fn alone_a_slow_server_is_not_given_more_than_it_can_answer_in_time() {
    if is_direct() {
        return;
    }
    let _alone = alone();
    // A few clients are what it carries; the others come when it is known to be slow.
    let load = Load::put_on(RISE);
    load.assert_bounds("slow server");
    load.assert_worth();
}

#[test]
fn alone_a_server_that_turns_slow_under_full_load_harms_nothing_but_service() {
    if is_direct() {
        return;
    }
    let _alone = alone();
    // What all clients send in the first moment is more than can be answered in time, and nothing takes it back.
    Load::put_on(Duration::ZERO).assert_bounds("server that turns slow");
}

/// What came of a load.
struct Load {
    seen: Vec<Exchange>,
    noise: Spread,
    start: Instant,
    /// Resident memory of the proxy, in bytes: when the load was steady, and the most after that.
    memory: [u64; 2],
    most_connections: usize,
    dials: usize,
    opened: usize,
}

impl Load {
    /// A few clients from the start, and all of them after `rise`.
    fn put_on(rise: Duration) -> Self {
        let slow = Slow::start();
        let mut proxy = Proxy::toward(&slow.address, |flags| {
            flags.args(["--workers", "2"]);
        });
        let clients: Vec<_> = (0..CLIENTS).map(|number| connected(&proxy, number)).collect();
        let (over, ended) = Over::flag();
        slow.costs_us.store(microseconds(PER_REPLY), Relaxed);
        let noise = Noise::listen();
        let first = Instant::now();
        let start = first + rise;
        let pid = proxy.pid().expect("a proxy");
        let (memory, seen) = thread::scope(|scope| {
            let go_on = |(number, mut client)| {
                // One after the other within a pace: in step they would measure how fast the machine wakes them all.
                let step = PACE * u32::try_from(number).expect("small") / u32::try_from(CLIENTS).expect("small");
                let (begin, ended) = (if number < FEW { first } else { start } + step, &ended);
                scope.spawn(move || {
                    thread::sleep(begin.saturating_duration_since(Instant::now()));
                    go_on(&mut client, number, ended)
                })
            };
            let clients: Vec<_> = clients.into_iter().enumerate().map(go_on).collect();
            let end = over;
            let memory = watch_memory(pid, start);
            drop(end);
            let seen = clients.into_iter().flat_map(|client| client.join().expect("every reply is told apart"));
            (memory, seen.collect::<Vec<_>>())
        });
        let noise = noise.heard();
        proxy.assert_running();
        slow.costs_us.store(0, Relaxed);
        let (most_connections, dials) = (slow.most.load(Relaxed), slow.dials.load(Relaxed));
        Self { seen, noise, start, memory, most_connections, dials, opened: proxy.logged(r#""state":"open""#) }
    }
}

/// The memory of a process once the load is steady, and the most that it has from then on.
fn watch_memory(pid: u32, start: Instant) -> [u64; 2] {
    wait_until("the load is steady", LOAD * 2, || Instant::now() > start + WARM);
    let warm = resident_bytes(pid);
    let mut most = warm;
    wait_until("the load is over", LOAD * 2, || {
        most = most.max(resident_bytes(pid));
        Instant::now() > start + LOAD
    });
    [warm, most]
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("it is short")
}

/// A client that has been served while the server was quick.
fn connected(proxy: &Proxy, number: usize) -> Client {
    let mut client = proxy.connect();
    if number.is_multiple_of(2) {
        client.hello3();
    }
    assert_eq!(client.ask("GET k"), bulk(TRUE));
    client
}

/// What a read is told.
const TRUE: &[u8] = b"true";

/// One request and what became of it.
struct Exchange {
    outcome: Outcome,
    /// The error, where one came.
    error: String,
    sent: Instant,
    took: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Served,
    /// A read was answered as from an empty cache.
    Empty,
    /// A write was not sent.
    Unavailable,
    Indeterminate,
    /// Nothing came while the client had patience.
    Unanswered,
}

/// Requests one after the other, every third a write, until the load is over.
fn go_on(client: &mut Client, number: usize, over: &AtomicBool) -> Vec<Exchange> {
    let mut seen = Vec::new();
    for round in number.. {
        if over.load(Relaxed) {
            break;
        }
        let writes = round.is_multiple_of(3);
        let request = words(if writes { "SET k true" } else { "GET k" });
        let sent = Instant::now();
        let reply = client.exchange(&request).ok().flatten();
        let took = sent.elapsed();
        let outcome = reply.as_ref().map_or(Outcome::Unanswered, |reply| outcome(writes, reply));
        let error = reply.filter(|reply| reply[0] == b'-').unwrap_or_default();
        let error = String::from_utf8_lossy(&error).trim_end().to_owned();
        seen.push(Exchange { outcome, error, sent, took });
        match outcome {
            Outcome::Served => {}
            Outcome::Unanswered => break,
            Outcome::Empty | Outcome::Unavailable | Outcome::Indeterminate => thread::sleep(PACE),
        }
    }
    seen
}

fn outcome(writes: bool, reply: &[u8]) -> Outcome {
    match (writes, reply) {
        (true, b"+OK\r\n") => Outcome::Served,
        (true, error) if is_not_sent(error) => Outcome::Unavailable,
        (true, error) if error.starts_with(b"-INDETERMINATE ") => Outcome::Indeterminate,
        (false, b"$4\r\ntrue\r\n") => Outcome::Served,
        (false, b"$-1\r\n" | b"_\r\n") => Outcome::Empty,
        _ => panic!("a {} got {}", if writes { "write" } else { "read" }, reply.escape_ascii()),
    }
}

fn is_not_sent(error: &[u8]) -> bool {
    error.starts_with(b"-UNAVAILABLE ") && error.ends_with(b", command not sent\r\n")
}

impl Load {
    fn of(&self, outcome: Outcome) -> impl Iterator<Item = &Exchange> {
        self.seen.iter().filter(move |one| one.outcome == outcome)
    }

    fn served(&self) -> Spread {
        self.of(Outcome::Served).map(|one| one.took).collect()
    }

    /// How long refusals took.
    fn refused(&self) -> Spread {
        let refused = self.of(Outcome::Empty).chain(self.of(Outcome::Unavailable));
        refused.filter(|one| !is_late(one)).map(|one| one.took).collect()
    }

    /// What was sent and had no answer in time.
    fn late(&self) -> usize {
        self.of(Outcome::Empty).filter(|one| is_late(one)).chain(self.of(Outcome::Indeterminate)).count()
    }

    /// The errors that came, and how many of each.
    fn errors(&self) -> BTreeMap<&str, usize> {
        let mut errors = BTreeMap::new();
        let told = self.seen.iter().map(|one| one.error.as_str()).filter(|error| !error.is_empty());
        told.for_each(|error| *errors.entry(error).or_default() += 1);
        errors
    }

    /// What must hold whatever the server does.
    fn assert_bounds(&self, name: &str) {
        let [warm, most] = self.memory;
        let longest = self.seen.iter().map(|one| one.took).max().unwrap_or_default();
        let mut figures = Figures::of(name);
        figures.add("answers", self.seen.len());
        figures.add("served", self.served().shown());
        figures.add("refused", self.refused().shown());
        figures.add("noise", self.noise.shown());
        figures.add("indeterminate", self.of(Outcome::Indeterminate).count());
        figures.add("sent_and_late", self.late());
        figures.add("errors", format!("{:?}", self.errors()));
        figures.add("resident_kib_at_3_s", warm / 1024);
        figures.add("most_kib_after", most / 1024);
        figures.add("most_upstream_connections", self.most_connections);
        figures.add("dials", self.dials);
        figures.add("opened", self.opened);
        assert_eq!(self.of(Outcome::Unanswered).count(), 0, "clients wait for an answer, or were disconnected");
        assert!(longest <= DEADLINE + MARGIN, "an answer took {longest:?}");
        assert!(most <= warm + FLAT, "{warm} bytes grew to {most}");
        assert!(self.most_connections <= POOL, "{} upstream connections", self.most_connections);
    }

    /// That the server goes on doing what it can, for those who get the answer, and hardly any of its work is in vain.
    fn assert_worth(&self) {
        let (served, refused, indeterminate) = (self.served(), self.refused(), self.of(Outcome::Indeterminate).count());
        let under_load = self.of(Outcome::Served).filter(|one| one.sent > self.start).count();
        let carried = usize::try_from(LOAD.as_millis() / PER_REPLY.as_millis()).expect("small");
        assert!(refused.count() > served.count(), "there was no overload: {} refused", refused.count());
        let at_once = refused.median() < REFUSED / 2 && refused.p99() < REFUSED + self.noise.p99();
        assert!(at_once, "refused: {}; an echo: {}", refused.shown(), self.noise.shown());
        assert!(indeterminate * 10 <= served.count(), "{indeterminate} indeterminate, {} served", served.count());
        assert!(under_load * 2 >= carried, "{under_load} served where the server carries {carried}");
        assert!(self.late() * 10 <= served.count(), "{} sent and late, {} served", self.late(), served.count());
        assert_eq!(self.opened, 0, "the breaker opened: slow is not gone");
        let errors = self.errors();
        let others =
            errors.keys().filter(|error| !error.contains("overloaded") && !error.starts_with("-INDETERMINATE"));
        assert_eq!(others.count(), 0, "what is refused is refused as overload: {errors:?}");
    }
}

/// Whether a read that came back empty was sent and had no answer in time, rather than refused.
fn is_late(exchange: &Exchange) -> bool {
    exchange.took > DEADLINE / 2
}

/// A server that makes one reply at a time, in the order of arrival, over all its connections.
struct Slow {
    address: String,
    /// What each reply costs.
    costs_us: Arc<AtomicU64>,
    dials: Arc<AtomicUsize>,
    /// The most connections that were open at once.
    most: Arc<AtomicUsize>,
}

/// A request, and where its reply goes.
type Job = (Vec<Vec<u8>>, Arc<Mutex<TcpStream>>);

impl Slow {
    /// Listens on a free port of 127.0.0.1, and is quick at first. Its threads go with the test's process.
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (costs_us, dials, most) = <(Arc<AtomicU64>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let (sender, jobs) = channel();
        let (costs, counted) = (Arc::clone(&costs_us), [Arc::clone(&dials), Arc::clone(&most)]);
        thread::spawn(move || serve(&jobs, &costs));
        thread::spawn(move || accept(&listener, &sender, &counted));
        Self { address, costs_us, dials, most }
    }
}

/// The one thread that makes replies.
fn serve(jobs: &Receiver<Job>, costs_us: &AtomicU64) {
    for (request, stream) in jobs {
        thread::sleep(Duration::from_micros(costs_us.load(Relaxed)));
        // Whoever has left needs no reply; that it was made all the same is what a slow server does.
        let _ = stream.lock().expect("no holder panics").write_all(&reply(&request));
    }
}

fn accept(listener: &TcpListener, jobs: &Sender<Job>, [dials, most]: &[Arc<AtomicUsize>; 2]) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming().map_while(Result::ok) {
        dials.fetch_add(1, Relaxed);
        most.fetch_max(open.fetch_add(1, Relaxed) + 1, Relaxed);
        let (jobs, open) = (jobs.clone(), Arc::clone(&open));
        thread::spawn(move || {
            // An error is an end like any other.
            let _ = receive(stream, &jobs);
            open.fetch_sub(1, Relaxed);
        });
    }
}

/// Hands on each request as it arrives.
fn receive(mut stream: TcpStream, jobs: &Sender<Job>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let replies = Arc::new(Mutex::new(stream.try_clone()?));
    let (mut unread, mut room) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        while let Some(length) = (!unread.is_empty()).then(|| frame_length(&unread)).flatten() {
            let request = Frame::whole(&unread[..length]).items.into_iter().map(|word| word.text).collect();
            unread.drain(..length);
            if jobs.send((request, Arc::clone(&replies))).is_err() {
                return Ok(());
            }
        }
        match stream.read(&mut room)? {
            0 => return Ok(()),
            count => unread.extend_from_slice(&room[..count]),
        }
    }
}

fn reply(request: &[Vec<u8>]) -> Vec<u8> {
    let words: Vec<_> = request.iter().map(|word| String::from_utf8_lossy(word)).collect();
    match words.iter().map(AsRef::as_ref).collect::<Vec<_>>().as_slice() {
        ["HELLO", protocol, ..] => greeting(protocol),
        ["PING"] => b"+PONG\r\n".to_vec(),
        ["GET", ..] => bulk(TRUE),
        ["CLIENT", "INFO"] => b"-ERR unknown subcommand\r\n".to_vec(),
        ["CLIENT", "ID" | "KILL", ..] => b":1\r\n".to_vec(),
        ["CLIENT" | "SELECT" | "AUTH" | "SET", ..] => b"+OK\r\n".to_vec(),
        _ => b"-ERR unknown command\r\n".to_vec(),
    }
}

fn greeting(protocol: &str) -> Vec<u8> {
    let head = if protocol == "3" { "%7" } else { "*14" };
    let texts = [("server", "redis"), ("version", "7.0.15"), ("mode", "standalone"), ("role", "master")];
    let texts = texts.iter().flat_map(|(name, text)| [bulk(name.as_bytes()), bulk(text.as_bytes())]);
    let numbers = format!("$5\r\nproto\r\n:{protocol}\r\n$2\r\nid\r\n:1\r\n$7\r\nmodules\r\n*0\r\n");
    [format!("{head}\r\n").into_bytes(), texts.collect::<Vec<_>>().concat(), numbers.into_bytes()].concat()
}
