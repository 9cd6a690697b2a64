//! Answers while no server can be asked: reads get the bytes that a real, empty server sends to the same arguments, and
//! nothing else is ever answered as if nothing were there.
//!
//! The requests are in `degraded/reads.txt` and `degraded/others.txt`; the command table says whether any is missing.

use crate::explain::answers;
use crate::support::{Client, Kind as ServerKind, Proxy, Server, is_direct};
use outrigger::command::route::Subscription::{Punsubscribe, Sunsubscribe, Unsubscribe};
use outrigger::command::route::{Route, Transaction, route};
use outrigger::command::table::{self, Command, Kind, Origin, Shape};
use socket2::{Domain, Socket, Type};
use std::collections::BTreeSet;
use std::net::SocketAddr;

const READS: &str = include_str!("degraded/reads.txt");
const OTHERS: &str = include_str!("degraded/others.txt");

/// Reads that none of the servers has, so that only the command reference says what an empty one would reply.
const UNCHECKED: &[&str] = &[
    "arcount",
    "arget",
    "argetrange",
    "argrep",
    "arinfo",
    "arlastitems",
    "arlen",
    "armget",
    "arnext",
    "arop",
    "arscan",
    "digest",
    "sdiffcard",
    "sunioncard",
];

/// Reads of no data: an empty server sends a picture, and each time another.
const NO_DATA: &[&str] = &["lolwut"];

#[test]
fn every_read_of_the_table_is_tried() {
    let tried: BTreeSet<&str> = lines(READS).iter().map(|line| command_of(line).name).collect();
    let needs_a_line = |command: &&Command| match command.origin {
        Origin::Core { .. } | Origin::Valkey { .. } => command.kind == Kind::Read || command.empty != Shape::Error,
        // They get the error, and are tried with plain arguments.
        Origin::Module { .. } => command.empty != Shape::Error,
    };
    let missing: Vec<_> = table::all()
        .iter()
        .filter(needs_a_line)
        .map(|command| command.name)
        .filter(|name| !tried.contains(name))
        .collect();
    assert!(missing.is_empty(), "write a line for each shape of their replies into degraded/reads.txt: {missing:?}");
}

#[test]
fn the_table_has_the_replies_of_an_empty_server() {
    let oracle = Oracle::start();
    let mut unchecked = BTreeSet::new();
    let mut wrong = Vec::new();
    for line in lines(READS) {
        let told = answers(&line.split(' ').collect::<Vec<_>>());
        match oracle.replies(line) {
            None => {
                unchecked.insert(command_of(line).name);
            }
            Some(replies) => {
                let expected = replies.map(|replies| replies.map(|reply| reply.escape_ascii().to_string()));
                if told != expected {
                    wrong.push(format!("{line}: {told:?}, but the server {expected:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "not as an empty server replies:\n  {}", wrong.join("\n  "));
    assert_eq!(unchecked, UNCHECKED.iter().copied().collect(), "which reads no server has");
}

#[test]
fn reads_are_answered_as_by_an_empty_server() {
    if is_direct() {
        return;
    }
    let oracle = Oracle::start();
    let gone = Gone::new();
    let proxy = gone.proxy(&[]);
    for (protocol, mut client) in both_protocols(&proxy) {
        for line in lines(READS) {
            let reply = client.ask(line);
            match oracle.replies(line) {
                Some(Some(replies)) => {
                    let expected = &replies[protocol];
                    assert_eq!(reply.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{line}");
                }
                Some(None) => assert_unavailable(&reply, line),
                // That it is what the table has is all that can be said.
                None => match answers(&line.split(' ').collect::<Vec<_>>()) {
                    Some(told) => assert_eq!(reply.escape_ascii().to_string(), told[protocol], "{line}"),
                    None => assert_unavailable(&reply, line),
                },
            }
        }
    }
}

#[test]
fn nothing_else_is_answered_as_if_nothing_were_there() {
    if is_direct() {
        return;
    }
    let gone = Gone::new();
    let proxy = gone.proxy(&[]);
    for line in table::all().iter().filter_map(plain_request) {
        judge(&proxy, &line);
    }
    for line in lines(OTHERS) {
        judge(&proxy, line);
    }
}

#[test]
fn info_is_answered_so_that_clients_get_ready() {
    if is_direct() {
        return;
    }
    let gone = Gone::new();
    let proxy = gone.proxy(&["--degrade-reads", "error"]);
    for (protocol, mut client) in both_protocols(&proxy) {
        let info = client.frame("INFO");
        assert_eq!(info.kind, [b'$', b'='][protocol], "{info:?}");
        for line in ["redis_version:", "loading:0\r\n", "role:master\r\n", "redis_mode:standalone\r\n"] {
            assert!(info.as_text().contains(line), "{line} is not in {info:?}");
        }
    }
}

#[test]
fn reads_are_limited_to_values_if_wanted() {
    if is_direct() {
        return;
    }
    let gone = Gone::new();
    let proxy = gone.proxy(&["--degrade-reads", "values"]);
    let mut client = proxy.connect();
    assert_eq!(client.ask("GET k"), b"$-1\r\n");
    assert_eq!(client.ask("MGET a b"), b"*2\r\n$-1\r\n$-1\r\n");
    assert_eq!(client.ask("HGET h f"), b"$-1\r\n");
    assert_eq!(client.ask("HMGET h f"), b"*1\r\n$-1\r\n");
    for line in
        lines(READS).into_iter().filter(|line| !["get", "mget", "hget", "hmget"].contains(&command_of(line).name))
    {
        assert_unavailable(&client.ask(line), line);
    }
}

#[test]
fn reads_get_the_error_if_wanted() {
    if is_direct() {
        return;
    }
    let gone = Gone::new();
    let proxy = gone.proxy(&["--degrade-reads", "error"]);
    let mut client = proxy.connect();
    for line in lines(READS) {
        assert_unavailable(&client.ask(line), line);
    }
    assert_eq!(client.ask("PING"), b"+PONG\r\n");
}

#[test]
fn plain_writes_are_dropped_if_wanted() {
    if is_direct() {
        return;
    }
    let gone = Gone::new();
    let proxy = gone.proxy(&["--degrade-writes", "drop"]);
    let mut client = proxy.connect();
    for line in
        ["SET k v", "SET k v EX 10", "SET k v PX 10", "SET k v KEEPTTL", "SETEX k 9 v", "PSETEX k 9 v", "MSET a 1 b 2"]
    {
        assert_eq!(client.ask(line), b"+OK\r\n", "{line}");
    }
    for line in [
        "SET k v NX",
        "SET k v XX EX 9",
        "SET k v GET",
        "SETNX k v",
        "MSETNX a 1",
        "GETSET k v",
        "HSET h f v",
        "INCR k",
        "DEL k",
        "EXPIRE k 9",
    ] {
        assert_unavailable(&client.ask(line), line);
    }
    assert_eq!(client.ask("GET k"), b"$-1\r\n");
}

#[test]
fn strict_keys_always_get_the_error() {
    if is_direct() {
        return;
    }
    let gone = Gone::new();
    let flags = ["--degrade-writes", "drop", "--strict-prefix", "session:", "--strict-prefix", "lock:"];
    let proxy = gone.proxy(&flags);
    let mut client = proxy.connect();
    for line in [
        "GET session:1",
        "MGET a lock:1",
        "EXISTS a b session:9",
        "SET lock:1 v",
        "MSET a 1 session:2 v",
        "KEYS *",
        "SCAN 0",
        "DBSIZE",
        "RANDOMKEY",
    ] {
        assert_unavailable(&client.ask(line), line);
    }
    assert_eq!(client.ask("GET cache:1"), b"$-1\r\n");
    assert_eq!(client.ask("SET cache:1 v"), b"+OK\r\n");
}

/// Sends a request that must get the error, or what it is always answered here, on a connection of its own.
fn judge(proxy: &Proxy, line: &str) {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    let route = route(table::find(words[0]), || words.iter().copied());
    let reply = proxy.connect().ask(line);
    match (route, line) {
        (Route::Shared { .. }, "info") => assert_eq!(reply[0], b'$', "{line}"),
        // The one last seen, and there was none.
        (Route::Shared { .. }, _) => assert_unavailable(&reply, line),
        (Route::Local(_) | Route::Transaction(Transaction::Multi | Transaction::Unwatch), _) => {}
        // Who hears nothing can always stop.
        (Route::Subscription(Unsubscribe | Punsubscribe | Sunsubscribe), _) => {
            assert!(reply.starts_with(b"*3\r\n"), "{line}: {}", reply.escape_ascii());
        }
        (Route::Subscription(_), _) => assert_unavailable(&reply, line),
        (Route::Leased(_) | Route::Control | Route::Refused | Route::Transaction(_), _) => {
            assert_eq!(reply[0], b'-', "{line}: {}", reply.escape_ascii());
        }
    }
}

fn assert_unavailable(reply: &[u8], line: &str) {
    let text = String::from_utf8_lossy(reply);
    assert!(text.starts_with("-UNAVAILABLE ") && text.ends_with(", command not sent\r\n"), "{line}: {text}");
}

/// As few arguments as a command takes, unless it is one of those that are tried as reads.
fn plain_request(command: &'static Command) -> Option<String> {
    let is_tried_as_read =
        command.kind == Kind::Read && !matches!(command.origin, Origin::Module { .. }) || command.empty != Shape::Error;
    // Of these the proxy knows that a browser sent them, and hangs up.
    let is_http = ["post", "host:"].contains(&command.name);
    if is_tried_as_read || is_http || command.is_container() && command.name != "command" {
        return None;
    }
    let name = command.name.replace('|', " ");
    let given = name.split(' ').count();
    let count = usize::from(command.arity.unsigned_abs());
    // A 1 passes for a key, a count, a time, a number of keys.
    Some(format!("{name}{}", " 1".repeat(count - given)))
}

fn lines(text: &'static str) -> Vec<&'static str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

fn command_of(line: &str) -> &'static Command {
    table::of_request(line.split(' ').map(str::as_bytes)).unwrap_or_else(|| panic!("not in the table: {line}"))
}

fn both_protocols(proxy: &Proxy) -> [(usize, Client); 2] {
    let mut resp3 = proxy.connect();
    resp3.hello3();
    [(0, proxy.connect()), (1, resp3)]
}

/// An address where nobody listens, and nobody else will as long as this lives.
struct Gone {
    address: SocketAddr,
    _socket: Socket,
}

impl Gone {
    fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("some port is free");
        let address = socket.local_addr().expect("it is bound").as_socket().expect("an address of IPv4");
        Self { address, _socket: socket }
    }

    fn proxy(&self, flags: &[&str]) -> Proxy {
        Proxy::toward(&self.address.to_string(), |command| {
            command.args(flags);
        })
    }
}

/// Empty servers, asked in this order: the first that knows a command is right.
struct Oracle(Vec<Server>);

impl Oracle {
    fn start() -> Self {
        Self([ServerKind::Valkey91, ServerKind::Redis70, ServerKind::Redis62].map(Server::start).into())
    }

    /// What an empty server replies in RESP2 and RESP3; inside none if that is an error or not about data; outside none if
    /// no server knows the command.
    fn replies(&self, line: &str) -> Option<Option<[Vec<u8>; 2]>> {
        let (name, _) = line.split_once(' ').unwrap_or((line, ""));
        let server = self.0.iter().find(|server| {
            let listed = server.connect().frame(&format!("COMMAND INFO {name}"));
            listed.items.first().is_some_and(|entry| !entry.items.is_empty())
        })?;
        let (mut resp2, mut resp3) = (server.connect(), server.connect());
        resp3.hello3();
        let replies = [resp2.ask(line), resp3.ask(line)];
        assert_eq!(resp2.ask("DBSIZE"), b":0\r\n", "{line} has stored something");
        let is_answer = replies.iter().all(|reply| reply[0] != b'-') && !NO_DATA.contains(&command_of(line).name);
        Some(is_answer.then_some(replies))
    }
}
