//! Clients that only read: whatever happens to Redis, each reply is the true value or what an empty Redis would say. No
//! error, no disconnect, no one else's value.

use crate::support::{Client, Figures, Kind, Proxy, Server, is_direct, wait_until, words};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

const CLIENTS: usize = 50;
/// How many requests those that pipeline have under way.
const BATCH: usize = 12;
/// Between two requests, or batches, of one client: fifty that never rest would only measure this machine.
const PACE: Duration = Duration::from_millis(2);
/// How soon every client must have true values again. `time` has the bounds that are promised.
const RECOVERY: Duration = Duration::from_secs(10);
/// The longest that any read may take: the deadline, and a second, since other tests run beside these. `time` has the bound
/// that is promised.
const LONGEST: Duration = Duration::from_secs(5);
/// Faults that are kept to be shown; the others are counted.
const SHOWN: usize = 5;

#[test]
fn readers_see_no_error_while_the_server_is_killed_and_started_again() {
    if is_direct() {
        return;
    }
    // What is kept on disk is served as soon as the server accepts.
    let mut server = Server::start_with(Kind::Redis70, &["--appendonly", "yes"]);
    let mut proxy = two_workers(&server);
    with_readers(&server.address(), &proxy, "kill -9", |readers| {
        let pauses = [0, 300, 0, 1_500, 0, 0].map(Duration::from_millis);
        for pause in pauses {
            let before = readers.empties();
            server.kill();
            if !pause.is_zero() {
                readers.wait("every client has an empty answer", |reader, now| now.empties > before[reader]);
                thread::sleep(pause);
            }
            server.start_again();
            readers.wait_for_true_values();
        }
    });
    proxy.assert_running();
}

#[test]
fn readers_see_no_error_when_all_upstream_connections_are_killed() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Valkey91);
    let mut proxy = two_workers(&server);
    with_readers(&server.address(), &proxy, "CLIENT KILL", |readers| {
        let mut admin = server.connect();
        for _ in 0..30 {
            assert_ne!(admin.ask("CLIENT KILL TYPE normal"), b":0\r\n", "there was nobody to kill");
            readers.wait_for_true_values();
        }
    });
    proxy.assert_running();
}

#[test]
fn readers_see_no_error_while_the_server_stands_still() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let mut proxy = two_workers(&server);
    with_readers(&server.address(), &proxy, "SIGSTOP", |readers| {
        let before = readers.empties();
        server.freeze();
        readers.wait("every client has an empty answer", |reader, now| now.empties > before[reader]);
        server.thaw();
        readers.wait_for_true_values();
    });
    proxy.assert_running();
}

fn two_workers(server: &Server) -> Proxy {
    Proxy::start(server, |flags| {
        flags.args(["--workers", "2"]);
    })
}

/// Lets all clients read while `story` goes on; fails if any saw what a reader must not see.
fn with_readers(server: &str, proxy: &Proxy, name: &str, story: impl FnOnce(&Readers)) {
    let questions = questions(server);
    let readers = Readers { seen: (0..CLIENTS).map(|_| Seen::default()).collect(), ..Readers::default() };
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for (number, (own, seen)) in questions.iter().zip(&readers.seen).enumerate() {
            let mut client = proxy.connect();
            if protocol(number) == 3 {
                client.hello3();
            }
            let batch = if number % 4 < 2 { BATCH } else { 1 };
            let (over, readers) = (&over, &readers);
            scope.spawn(move || readers.read_on(&mut client, own, batch, &Place { number, seen, over }));
        }
        let ended = End(&over);
        readers.wait_for_true_values();
        story(&readers);
        drop(ended);
    });
    readers.report(name);
}

/// Raises the flag also if the story fails, so that no reader goes on for ever.
struct End<'flag>(&'flag AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// What all clients saw.
#[derive(Default)]
struct Readers {
    seen: Vec<Seen>,
    /// The longest that it took until all had true values again.
    slowest_return_us: AtomicU64,
    faults: AtomicU64,
    shown: Mutex<Vec<String>>,
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    truths: AtomicU64,
    empties: AtomicU64,
    longest_us: AtomicU64,
}

/// One client's place among the others.
struct Place<'story> {
    number: usize,
    seen: &'story Seen,
    over: &'story AtomicBool,
}

/// The counts of one client at one moment.
#[derive(Clone, Copy)]
struct Counts {
    truths: u64,
    empties: u64,
}

impl Readers {
    /// Reads, `batch` requests at a time, until the story is over or the connection is.
    fn read_on(&self, client: &mut Client, questions: &[Question], batch: usize, place: &Place<'_>) {
        let mut coming = questions.iter().cycle();
        while !place.over.load(Relaxed) {
            let asked: Vec<_> = coming.by_ref().take(batch).collect();
            let start = Instant::now();
            let requests = asked.iter().flat_map(|question| question.request.iter().copied());
            if let Err(error) = client.try_send(&requests.collect::<Vec<_>>()) {
                return self.fault(place.number, &format!("cannot send: {error}"));
            }
            for question in asked {
                match client.try_reply() {
                    Ok(Some(reply)) => self.judge(place, question, &reply),
                    Ok(None) => return self.fault(place.number, "disconnected"),
                    Err(error) => return self.fault(place.number, &format!("no reply: {error}")),
                }
            }
            place.seen.longest_us.fetch_max(microseconds(start.elapsed()), Relaxed);
            thread::sleep(PACE);
        }
    }

    fn judge(&self, place: &Place<'_>, question: &Question, reply: &[u8]) {
        if reply == question.truth {
            place.seen.truths.fetch_add(1, Relaxed);
        } else if reply == question.empty {
            place.seen.empties.fetch_add(1, Relaxed);
        } else {
            self.fault(place.number, &format!("{} -> {}", question.text, reply.escape_ascii()));
        }
    }

    fn fault(&self, client: usize, what: &str) {
        self.faults.fetch_add(1, Relaxed);
        let mut shown = self.shown.lock().expect("no holder panics");
        if shown.len() < SHOWN {
            shown.push(format!("client {client}: {what}"));
        }
    }

    fn counts(&self) -> Vec<Counts> {
        let of = |seen: &Seen| Counts { truths: seen.truths.load(Relaxed), empties: seen.empties.load(Relaxed) };
        self.seen.iter().map(of).collect()
    }

    fn empties(&self) -> Vec<u64> {
        self.counts().iter().map(|counts| counts.empties).collect()
    }

    /// Waits until `condition` holds for every client; ends the test at the first fault.
    fn wait(&self, what: &str, condition: impl Fn(usize, Counts) -> bool) {
        wait_until(what, RECOVERY, || {
            self.assert_faultless();
            self.counts().into_iter().enumerate().all(|(number, counts)| condition(number, counts))
        });
    }

    /// Waits until each client has had true values from now on: more than were on their way already.
    fn wait_for_true_values(&self) {
        let before = self.counts();
        let due = u64::try_from(BATCH).expect("small");
        let start = Instant::now();
        self.wait("every client has true values", |number, now| now.truths > before[number].truths + due);
        self.slowest_return_us.fetch_max(microseconds(start.elapsed()), Relaxed);
    }

    fn assert_faultless(&self) {
        let shown = self.shown.lock().expect("no holder panics").join("\n");
        assert_eq!(self.faults.load(Relaxed), 0, "faults, where there must be none:\n{shown}");
    }

    fn report(&self, name: &str) {
        self.assert_faultless();
        let counts = self.counts();
        let longest = self.seen.iter().map(|seen| seen.longest_us.load(Relaxed)).max().unwrap_or_default();
        let longest = Duration::from_micros(longest);
        let mut figures = Figures::of(&format!("readers, {name}"));
        figures.add("true", counts.iter().map(|counts| counts.truths).sum::<u64>());
        figures.add("empty", counts.iter().map(|counts| counts.empties).sum::<u64>());
        figures.add("longest_ms", longest.as_millis());
        figures.add("slowest_return_ms", self.slowest_return_us.load(Relaxed) / 1000);
        assert!(longest < LONGEST, "a read took {longest:?}");
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("no test takes so long")
}

/// A request and its two answers.
struct Question {
    text: String,
    request: Vec<u8>,
    truth: Vec<u8>,
    /// What a server says that stores nothing.
    empty: Vec<u8>,
}

/// What each client will ask, with the answers of the server itself: before it stored anything, and after.
fn questions(server: &str) -> Vec<Vec<Question>> {
    let mut admins = [2, 3].map(|protocol| {
        let mut admin = Client::connect(server);
        if protocol == 3 {
            admin.hello3();
        }
        admin
    });
    let mut ask = |number: usize| {
        let requests: Vec<_> = reads(number).iter().map(|text| words(text)).collect();
        admins[usize::from(protocol(number) == 3)].pipeline(&requests)
    };
    let empty: Vec<_> = (0..CLIENTS).map(&mut ask).collect();
    let mut loader = Client::connect(server);
    for reply in (0..CLIENTS).flat_map(|number| loader.pipeline(&writes(number))) {
        assert_ne!(reply[0], b'-', "{}", reply.escape_ascii());
    }
    let truth: Vec<_> = (0..CLIENTS).map(&mut ask).collect();
    let answers = empty.into_iter().zip(truth).enumerate();
    answers.map(|(number, (empty, truth))| paired(number, empty, truth)).collect()
}

fn paired(number: usize, empty: Vec<Vec<u8>>, truth: Vec<Vec<u8>>) -> Vec<Question> {
    let answers = empty.into_iter().zip(truth);
    let questions = reads(number).into_iter().zip(answers).map(|(text, (empty, truth))| {
        assert_ne!(truth, empty, "{text} says nothing");
        assert!(truth[0] != b'-' && empty[0] != b'-', "{text} is refused");
        Question { request: words(&text), text, truth, empty }
    });
    questions.collect()
}

/// Half of the clients speak RESP3; each protocol has clients that pipeline and clients that do not.
const fn protocol(client: usize) -> u8 {
    if client.is_multiple_of(2) { 2 } else { 3 }
}

/// Reads whose answers name their client, so that another's would be noticed. None depends on an order that a server
/// chooses anew at each start.
fn reads(client: usize) -> Vec<String> {
    let commands = [
        "GET s",
        "MGET s none n",
        "HGETALL h",
        "LRANGE l 0 -1",
        "EXISTS s h none",
        "HGET h a",
        "HMGET h a none b",
        "GETRANGE s 0 3",
        "STRLEN s",
        "HLEN h",
        "HKEYS h",
        "LLEN l",
        "LINDEX l 0",
        "SMEMBERS i",
        "SISMEMBER i 7",
        "SMISMEMBER i 7 8",
        "SCARD i",
        "ZRANGE z 0 -1 WITHSCORES",
        "ZSCORE z b",
        "ZMSCORE z a none",
        "ZCARD z",
        "XRANGE x - +",
        "XLEN x",
        "TYPE h",
        "PTTL s",
        "GETBIT s 1",
        "SSCAN i 0",
    ];
    let mut requests: Vec<_> = commands.iter().map(|text| with_own_keys(text, client)).collect();
    requests.push("DBSIZE".to_owned());
    requests
}

/// What those reads find.
fn writes(client: usize) -> Vec<Vec<u8>> {
    let commands = [
        "SET s value-of-ID",
        "SET n ID",
        "HSET h a a-of-ID b b-of-ID",
        "RPUSH l one-of-ID two-of-ID",
        "SADD i 7 ID",
        "ZADD z 1 a 2.5 b ID c",
        "XADD x 1-1 field ID",
    ];
    commands.iter().map(|text| words(&with_own_keys(text, client))).collect()
}

/// Names of one letter and `none` become keys of this client, `ID` a number that is its own; fields and members stay.
fn with_own_keys(text: &str, client: usize) -> String {
    let several = text.starts_with("MGET") || text.starts_with("EXISTS");
    let mut words = text.split(' ').enumerate().map(|(place, word)| match word {
        "ID" => (1_000 + client).to_string(),
        key if place == 1 || (several && place > 1) => format!("{key}:{client}"),
        other => other.replace("ID", &(1_000 + client).to_string()),
    });
    let command = words.next().unwrap_or_default();
    words.fold(command, |text, word| text + " " + &word)
}
