//! Today's client libraries, unmodified and with their defaults, read while Redis is killed and started again: they raise
//! nothing and never reconnect, and clients that connect meanwhile are served.
//!
//! Those of other languages are driven by the scripts `tests/clients/outage_*`, which count what they see; redis-rs by the
//! tasks below.

use crate::support::{Figures, Kind, PATIENCE, Proxy, Server, dependency, is_direct, wait_until, words};
use redis::aio::{ConnectionLike, ConnectionManager};
use redis::{Client, RedisResult, Value};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How long the server stays away in each round, at least.
const OUTAGES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(200), Duration::from_secs(2)];
/// Replies of either sort that are waited for before the story goes on.
const SOME: u64 = 50;

#[test]
fn redis_py() {
    run_script("PYTHON", "outage_redis_py.py");
}

#[test]
fn ioredis() {
    run_script("NODE", "outage_ioredis.js");
}

#[test]
fn node_redis() {
    run_script("NODE", "outage_node_redis.js");
}

/// What was counted, by name.
type Counts = BTreeMap<String, u64>;

fn run_script(interpreter: &str, name: &str) {
    if is_direct() {
        return;
    }
    let mut server = loaded_server();
    let mut proxy = Proxy::before(&server);
    let mut script = Script::start(interpreter, name, &format!("redis://{}", proxy.address()));
    script.wait_for_more("truths");
    for length in OUTAGES {
        server.kill();
        script.wait_for_more("empties");
        script.ask("new");
        thread::sleep(length);
        server.start_again();
        script.wait_for_more("truths");
    }
    let counts = script.ask("end");
    let count = |name: &str| counts.get(name).copied().unwrap_or_default();
    let mut figures = Figures::of(name);
    counts.iter().for_each(|(name, count)| figures.add(name, count));
    let faults = ["errors", "wrong", "reconnects"].map(count);
    assert_eq!(faults, [0, 0, 0], "errors, wrong values, reconnects:\n{}", script.notes());
    assert!(count("new") >= OUTAGES.len() as u64, "a new client connects in each outage");
    assert_eq!(count("new_empties"), count("new"), "the first read of a new client is answered, and empty");
    proxy.assert_running();
}

/// A server that holds what the scripts read, and holds it again as soon as it is back.
fn loaded_server() -> Server {
    let server = Server::start_with(Kind::Redis70, &["--appendonly", "yes"]);
    let commands = ["SET s value", "HSET h f v", "RPUSH l a b", "SADD t 7", "ZADD z 1.5 m"];
    let replies = server.connect().pipeline(&commands.map(words));
    assert!(replies.iter().all(|reply| reply[0] != b'-'), "{replies:?}");
    server
}

/// A running script; ended when dropped.
struct Script {
    child: Child,
    commands: ChildStdin,
    answers: Receiver<String>,
    /// What it wrote that is no answer: errors, mostly.
    notes: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn start(interpreter: &str, name: &str, url: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
        let mut command = Command::new(dependency(interpreter));
        command.arg(path).arg(url).env("PYTHONDONTWRITEBYTECODE", "1").env("NODE_PATH", dependency("NODE_PATH"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let commands = child.stdin.take().expect("stdin is piped");
        let output = child.stdout.take().expect("stdout is piped");
        let (sender, answers) = channel();
        let notes = Arc::default();
        let kept = Arc::clone(&notes);
        thread::spawn(move || sort(output, &sender, &kept));
        Self { child, commands, answers, notes }
    }

    /// Gives a command and takes its answer.
    fn ask(&mut self, command: &str) -> Counts {
        writeln!(self.commands, "{command}")
            .unwrap_or_else(|error| panic!("the script ended ({error}):\n{}", self.notes()));
        let answer = self.answers.recv_timeout(PATIENCE);
        let answer = answer.unwrap_or_else(|_| panic!("the script does not answer {command}:\n{}", self.notes()));
        numbers(&answer)
    }

    /// Waits until it has seen some more replies of this sort.
    fn wait_for_more(&mut self, sort: &str) {
        let count = |script: &mut Self| script.ask("count").get(sort).copied().unwrap_or_default();
        let before = count(self);
        wait_until(&format!("there are more {sort}"), PATIENCE, || count(self) >= before + SOME);
    }

    fn notes(&self) -> String {
        let notes = self.notes.lock().expect("no holder panics");
        format!("{} lines, the first:\n{}", notes.len(), notes[..notes.len().min(10)].join("\n"))
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the script wrote {}", self.notes());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Hands on the lines that are objects and keeps the others.
fn sort(output: ChildStdout, answers: &Sender<String>, notes: &Mutex<Vec<String>>) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        if line.starts_with('{') {
            let _ = answers.send(line);
        } else {
            notes.lock().expect("no holder panics").push(line);
        }
    }
}

/// The members of a flat JSON object of numbers.
fn numbers(object: &str) -> Counts {
    let members = object.trim_matches(['{', '}']).split(',').filter(|member| !member.trim().is_empty());
    let pair = |member: &str| {
        let (name, number) = member.split_once(':').unwrap_or_else(|| panic!("no member: {object}"));
        let number = number.trim().parse().unwrap_or_else(|_| panic!("{name} is no number: {object}"));
        (name.trim().trim_matches('"').to_owned(), number)
    };
    members.map(pair).collect()
}

#[test]
fn redis_rs() {
    if is_direct() {
        return;
    }
    let mut server = loaded_server();
    let mut proxy = Proxy::before(&server);
    let seen = Seen { url: format!("redis://{}", proxy.address()), ..Seen::default() };
    thread::scope(|scope| {
        let ended = End(&seen.over);
        let start = || READERS.iter().for_each(|reader| drop(scope.spawn(|| reader(&seen))));
        start();
        seen.wait_for_more(&seen.truths);
        for (length, round) in OUTAGES.into_iter().zip(1..) {
            server.kill();
            seen.wait_for_more(&seen.empties);
            start();
            let due = READERS.len() as u64 * round;
            wait_until("new clients have their first reply", PATIENCE, || seen.new_empties.load(Relaxed) >= due);
            thread::sleep(length);
            server.start_again();
            seen.wait_for_more(&seen.truths);
        }
        drop(ended);
    });
    let mut figures = Figures::of("redis-rs");
    let counts = [("truths", &seen.truths), ("empties", &seen.empties), ("new_empties", &seen.new_empties)];
    counts.into_iter().for_each(|(name, count)| figures.add(name, count.load(Relaxed)));
    let faults = seen.faults.lock().expect("no reader panics");
    assert!(faults.is_empty(), "{} faults, the first: {:?}", faults.len(), &faults[..faults.len().min(10)]);
    proxy.assert_running();
}

/// The kinds of connection that the library has.
const READERS: [fn(&Seen); 3] = [synchronous, multiplexed, managed];

/// What all readers of redis-rs saw.
#[derive(Default)]
struct Seen {
    url: String,
    truths: AtomicU64,
    empties: AtomicU64,
    /// Clients whose first reply was empty.
    new_empties: AtomicU64,
    faults: Mutex<Vec<String>>,
    over: AtomicBool,
}

/// Raises the flag also if the story fails, so that no reader goes on for ever.
struct End<'flag>(&'flag AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

impl Seen {
    fn client(&self) -> Client {
        Client::open(self.url.as_str()).expect("the URL is right")
    }

    fn fault(&self, what: String) {
        self.faults.lock().expect("no reader panics").push(what);
    }

    /// Counts what came to the read of this number.
    fn judge(&self, number: usize, reply: RedisResult<Value>) {
        let (request, truth, empty) = &reads()[number % reads().len()];
        match reply {
            Ok(value) if value == *truth => drop(self.truths.fetch_add(1, Relaxed)),
            Ok(value) if value == *empty => {
                self.empties.fetch_add(1, Relaxed);
                if number == 0 {
                    self.new_empties.fetch_add(1, Relaxed);
                }
            }
            other => self.fault(format!("{request} -> {other:?}")),
        }
    }

    fn wait_for_more(&self, count: &AtomicU64) {
        let before = count.load(Relaxed);
        wait_until("there are more such replies", PATIENCE, || count.load(Relaxed) >= before + SOME);
    }
}

/// Requests, what they give while Redis serves, and what they give when it is empty.
fn reads() -> [(&'static str, Value, Value); 4] {
    let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
    [
        ("GET s", bulk("value"), Value::Nil),
        ("MGET s none", Value::Array(vec![bulk("value"), Value::Nil]), Value::Array(vec![Value::Nil; 2])),
        ("LRANGE l 0 -1", Value::Array(vec![bulk("a"), bulk("b")]), Value::Array(Vec::new())),
        ("EXISTS s none", Value::Int(1), Value::Int(0)),
    ]
}

/// The request of this number.
fn request(number: usize) -> redis::Cmd {
    let mut words = reads()[number % reads().len()].0.split(' ');
    let mut command = redis::cmd(words.next().expect("a command has a name"));
    command.arg(words.collect::<Vec<_>>());
    command
}

fn synchronous(seen: &Seen) {
    let mut connection = match seen.client().get_connection() {
        Ok(connection) => connection,
        Err(error) => return seen.fault(format!("cannot connect: {error}")),
    };
    let id = |connection: &mut redis::Connection| redis::cmd("CLIENT").arg("ID").query::<i64>(connection);
    let before = id(&mut connection);
    for number in 0.. {
        if seen.over.load(Relaxed) {
            break;
        }
        seen.judge(number, request(number).query(&mut connection));
        thread::sleep(Duration::from_millis(2));
    }
    assert_same(seen, &before, &id(&mut connection));
}

fn multiplexed(seen: &Seen) {
    runtime().block_on(async {
        match seen.client().get_multiplexed_async_connection().await {
            Ok(connection) => read_on(connection, seen).await,
            Err(error) => seen.fault(format!("cannot connect: {error}")),
        }
    });
}

fn managed(seen: &Seen) {
    runtime().block_on(async {
        match ConnectionManager::new(seen.client()).await {
            Ok(connection) => read_on(connection, seen).await,
            Err(error) => seen.fault(format!("cannot connect: {error}")),
        }
    });
}

async fn read_on(mut connection: impl ConnectionLike, seen: &Seen) {
    let before = id(&mut connection).await;
    for number in 0.. {
        if seen.over.load(Relaxed) {
            break;
        }
        seen.judge(number, request(number).query_async(&mut connection).await);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_same(seen, &before, &id(&mut connection).await);
}

async fn id(connection: &mut impl ConnectionLike) -> RedisResult<i64> {
    redis::cmd("CLIENT").arg("ID").query_async(connection).await
}

/// The proxy names each connection once: another name would mean that the library has reconnected.
fn assert_same(seen: &Seen, before: &RedisResult<i64>, after: &RedisResult<i64>) {
    match (before, after) {
        (Ok(before), Ok(after)) if before == after => {}
        ids => seen.fault(format!("the connection was replaced: {ids:?}")),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made")
}
