//! The command table held against what real servers say of their commands: `COMMAND`, and `COMMAND GETKEYS` for where the
//! keys of a request are.
//!
//! Every exception is written out with its reason, and an exception that no server needs any more fails the test too.

use outrigger::command::keys::keys;
use outrigger::command::table::{self, Blocks, Command, Keys, Kind, Origin};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{env, fs, thread};

const REDIS_6_2: &str = "REDIS_6_2";
const REDIS_7_0: &str = "REDIS_7_0";
const VALKEY_9_1: &str = "VALKEY_9_1";
const SERVERS: [&str; 3] = [REDIS_6_2, REDIS_7_0, VALKEY_9_1];

/// Arities of single servers that differ from the table's, which has the most permissive one: (server, command, arity).
/// The later versions take more arguments, unless said otherwise.
const OTHER_ARITIES: &[(&str, &str, i64)] = &[
    (REDIS_6_2, "expire", 3),
    (REDIS_6_2, "expireat", 3),
    (REDIS_6_2, "pexpire", 3),
    (REDIS_6_2, "pexpireat", 3),
    (REDIS_6_2, "xsetid", 3),
    (REDIS_6_2, "zrank", 3),
    (REDIS_6_2, "zrevrank", 3),
    (REDIS_7_0, "cluster|replicate", 3),
    (REDIS_7_0, "command|getkeys", -4),
    (REDIS_7_0, "command|getkeysandflags", -4),
    (REDIS_7_0, "script|debug", 3),
    (REDIS_7_0, "zrank", 3),
    (REDIS_7_0, "zrevrank", 3),
    // Here the earlier one takes more.
    (VALKEY_9_1, "pfdebug", 3),
    (REDIS_7_0, "pfdebug", 3),
];

/// Flags of single servers that are not those of the table's kind: (server, command, flag).
const OTHER_FLAGS: &[(&str, &str, &str)] = &[
    // It has no such flag for any.
    (REDIS_6_2, "blmove", "blocking"),
    (REDIS_6_2, "blpop", "blocking"),
    (REDIS_6_2, "brpop", "blocking"),
    (REDIS_6_2, "brpoplpush", "blocking"),
    (REDIS_6_2, "bzpopmax", "blocking"),
    (REDIS_6_2, "bzpopmin", "blocking"),
    (REDIS_6_2, "wait", "blocking"),
    (REDIS_6_2, "xread", "blocking"),
    (REDIS_6_2, "xreadgroup", "blocking"),
    // It forgot one.
    (REDIS_7_0, "wait", "blocking"),
    // No commands, but what a browser says.
    (REDIS_6_2, "host:", "readonly"),
    (REDIS_6_2, "post", "readonly"),
    // That they run code matters more than that it only reads.
    (REDIS_7_0, "eval_ro", "readonly"),
    (REDIS_7_0, "evalsha_ro", "readonly"),
    (REDIS_7_0, "fcall_ro", "readonly"),
    (VALKEY_9_1, "eval_ro", "readonly"),
    (VALKEY_9_1, "evalsha_ro", "readonly"),
    (VALKEY_9_1, "fcall_ro", "readonly"),
    // They write code, not data.
    (REDIS_7_0, "function|delete", "write"),
    (REDIS_7_0, "function|flush", "write"),
    (REDIS_7_0, "function|load", "write"),
    (REDIS_7_0, "function|restore", "write"),
    (VALKEY_9_1, "function|delete", "write"),
    (VALKEY_9_1, "function|flush", "write"),
    (VALKEY_9_1, "function|load", "write"),
    (VALKEY_9_1, "function|restore", "write"),
];

/// Requests of all commands whose keys move, with what could be mistaken for a key or an option, and of a few others.
const SAMPLES: &[&str] = &[
    "EVAL script 2 a b c",
    "EVALSHA 0123 1 a b c",
    "EVAL_RO script 2 a b c",
    "EVALSHA_RO 0123 1 a b",
    "FCALL f 2 a b c",
    "FCALL_RO f 1 a b c",
    "LMPOP 2 a b LEFT",
    "BLMPOP 0 2 a b LEFT COUNT 3",
    "ZMPOP 2 a b MIN",
    "BZMPOP 0 1 a MAX",
    "SINTERCARD 2 a b LIMIT 3",
    "ZINTERCARD 2 a b",
    "ZUNION 2 a b WITHSCORES",
    "ZINTER 2 a b WEIGHTS 1 2",
    "ZDIFF 2 a b",
    "ZUNIONSTORE d 2 a b WEIGHTS 1 2",
    "ZINTERSTORE d 3 a b c AGGREGATE MAX",
    "ZDIFFSTORE d 2 a b",
    "MSETEX 2 a 1 b 2 EX 9",
    "XREAD STREAMS a b 0 0",
    "XREAD COUNT 2 BLOCK 0 STREAMS a b c 0 0 0",
    "XREADGROUP GROUP g c STREAMS a b > >",
    "xreadgroup group streams block count 1 block 0 noack streams streams >",
    "SORT a",
    "SORT a BY w_* LIMIT 0 5 GET # GET o_* ASC ALPHA STORE d",
    "SORT a GET STORE STORE d",
    "SORT_RO a BY w_* GET #",
    "GEORADIUS a 1 2 3 km",
    "GEORADIUS a 1 2 3 km WITHCOORD COUNT 3 STORE d",
    "GEORADIUSBYMEMBER a m 3 km STOREDIST d",
    "GEORADIUS_RO a 1 2 3 km",
    "MIGRATE h 1 a 0 9",
    "MIGRATE h 1 a 0 9 COPY REPLACE AUTH p",
    "MIGRATE h 1 '' 0 9 AUTH2 u p KEYS a b c",
    "STRALGO LCS KEYS a b",
    "MEMORY USAGE a SAMPLES 3",
    "OBJECT ENCODING a",
    "XINFO STREAM a FULL",
    "XGROUP CREATE a g 0 MKSTREAM",
    "BITOP AND d a b",
    "BLPOP a b c 0",
    "MSET a 1 b 2",
    "LMOVE a b LEFT RIGHT",
    "SPUBLISH c m",
    "PUBLISH c m",
    "GET a",
];

#[test]
fn every_command_of_a_server_is_in_the_table() {
    let mut other_arities = BTreeSet::new();
    for server in SERVERS {
        for listed in Server::start(server).commands() {
            let command = in_table(&listed.name).unwrap_or_else(|| panic!("{server} has {}", listed.name));
            let listed_here = (server, command.name, listed.arity);
            if OTHER_ARITIES.contains(&listed_here) {
                assert!(at_least_as_permissive(command.arity, listed.arity), "{listed_here:?}");
                other_arities.insert(listed_here);
            } else {
                assert_eq!(listed.arity, i64::from(command.arity), "arity of {} on {server}", command.name);
            }
        }
    }
    assert_eq!(other_arities, OTHER_ARITIES.iter().copied().collect(), "exceptions that are none");
}

#[test]
fn keys_are_announced_where_the_table_has_them() {
    for server in SERVERS {
        for listed in Server::start(server).commands() {
            let command = in_table(&listed.name).expect("checked elsewhere");
            // 6.2 knows no subcommands, and announces for the whole what holds for most of them.
            let of_subcommands = server == REDIS_6_2 && ["object", "xgroup", "xinfo"].contains(&command.name);
            let expected = if of_subcommands { (2, 2, 1) } else { announced(command.keys) };
            assert_eq!(listed.keys, expected, "keys of {} on {server}", command.name);
            let movable = !matches!(command.keys, Keys::None | Keys::Range { .. } | Keys::Hashed { .. });
            // SORT_RO is called so for its patterns, MEMORY of 6.2 for its one subcommand that has a key.
            let only_called_so = command.name == "sort_ro" || command.name == "memory" && server == REDIS_6_2;
            assert_eq!(listed.has("movablekeys"), movable || only_called_so, "{} on {server}", command.name);
        }
    }
}

#[test]
fn keys_of_requests_are_those_the_server_finds() {
    let samples: Vec<Vec<String>> =
        SAMPLES.iter().map(|sample| sample.split(' ').map(|word| word.trim_matches('\'').into()).collect()).collect();
    let mut compared = BTreeSet::new();
    for name in SERVERS {
        let mut server = Server::start(name);
        let listed: BTreeMap<String, i64> =
            server.commands().into_iter().map(|listed| (listed.name, listed.arity)).collect();
        for request in samples.iter().cloned().chain(table::all().iter().flat_map(plain_requests)) {
            if !is_accepted(&request, &listed) {
                continue;
            }
            let Some(mut theirs) = server.keys_of(&request) else { continue };
            let mut ours = found_here(&request);
            // In which order they come the servers do not agree on.
            theirs.sort();
            ours.sort();
            assert_eq!(ours, theirs, "{request:?} on {name}");
            compared.insert(request);
        }
    }
    assert!(compared.len() > 600, "only {} requests", compared.len());
    for sample in &samples {
        assert!(compared.contains(sample), "no server knows {sample:?}");
    }
}

/// Whether a server lists the command of a request, or its container where it lists no subcommands (as 6.2), and takes so
/// many arguments.
fn is_accepted(request: &[String], listed: &BTreeMap<String, i64>) -> bool {
    let name = of_request(request).name;
    let count = i64::try_from(request.len()).expect("a small number");
    let container = name.split('|').next().expect("a part");
    let only_containers = !listed.keys().any(|name| name.contains('|'));
    let arity = listed.get(if only_containers { container } else { name });
    arity.is_some_and(|&arity| if arity < 0 { count >= -arity } else { count == arity })
}

#[test]
fn kinds_agree_with_the_servers_flags() {
    let mut differences = BTreeSet::new();
    for server in SERVERS {
        for listed in Server::start(server).commands() {
            let command = in_table(&listed.name).expect("checked elsewhere");
            // What the flags of a container say differs between servers; its subcommands have their own since 7.0.
            if command.is_container() {
                continue;
            }
            for (flag, expected) in flags(command) {
                if listed.has(flag) != expected {
                    differences.insert((server, command.name, flag));
                }
            }
        }
    }
    assert_eq!(differences, OTHER_FLAGS.iter().copied().collect());
}

/// The flags that a server should set for a command, and those that it should not.
fn flags(command: &Command) -> [(&'static str, bool); 4] {
    let is_help = command.subcommand() == Some("help");
    let waits_for_replicas = matches!(command.name, "wait" | "waitaof");
    [
        ("blocking", command.blocks != Blocks::Never),
        ("pubsub", command.kind == Kind::PubSub && !is_help),
        ("readonly", command.kind == Kind::Read && !is_help),
        ("write", command.kind == Kind::Write || command.kind == Kind::Blocking && !waits_for_replicas),
    ]
}

#[test]
fn nothing_that_changes_data_is_repeatable() {
    for server in SERVERS {
        for listed in Server::start(server).commands() {
            let command = in_table(&listed.name).expect("checked elsewhere");
            assert!(!(listed.has("write") && command.repeatable), "{}", command.name);
        }
    }
}

#[test]
fn every_entry_is_a_servers_or_says_where_it_comes_from() {
    let lists: BTreeMap<&str, BTreeSet<String>> = SERVERS
        .map(|server| (server, Server::start(server).commands().into_iter().map(|listed| listed.name).collect()))
        .into();
    for command in table::all() {
        let listed = lists.values().any(|list| list.contains(command.name));
        let explained = match command.origin {
            Origin::Core { since } => version(since) > [7, 0, i32::MAX],
            Origin::Valkey { since } => version(since) > [9, 1, i32::MAX],
            Origin::Module { .. } => true,
        };
        assert_ne!(listed, explained && !lists[VALKEY_9_1].contains(command.name), "{}", command.name);
        if let Origin::Valkey { .. } = command.origin {
            assert!(
                lists[VALKEY_9_1].contains(command.name) && !lists[REDIS_7_0].contains(command.name),
                "{}",
                command.name
            );
        }
    }
}

/// A command by the name that a list gives it.
fn in_table(name: &str) -> Option<&'static Command> {
    match name.split_once('|') {
        Some((container, subcommand)) => table::find_sub(table::find(container.as_bytes())?, subcommand.as_bytes()),
        None => table::find(name.as_bytes()),
    }
}

fn at_least_as_permissive(ours: i8, theirs: i64) -> bool {
    let ours = i64::from(ours);
    ours == theirs || ours < 0 && ours.abs() <= theirs.abs()
}

/// First key, last key and step, as `COMMAND` would put it; what moves with the arguments counts only in part or not at all.
fn announced(keys: Keys) -> (i64, i64, i64) {
    match keys {
        Keys::None | Keys::Numkeys { .. } | Keys::Stralgo | Keys::Streams => (0, 0, 0),
        Keys::GeoRadius | Keys::Sort | Keys::StoreNumkeys => (1, 1, 1),
        Keys::Hashed { last } => (1, last.into(), 1),
        Keys::Migrate => (3, 3, 1),
        Keys::Range { first, last, step } => (first.into(), last.into(), step.into()),
    }
}

/// Requests of a command whose keys don't move: as few arguments as it takes, and some more.
fn plain_requests(command: &'static Command) -> impl Iterator<Item = Vec<String>> {
    let plain = matches!(command.keys, Keys::None | Keys::Range { .. } | Keys::Hashed { .. });
    let least = usize::from(command.arity.unsigned_abs());
    let counts = if command.arity < 0 { vec![least, least + 1, least + 6] } else { vec![least] };
    // `COMMAND GETKEYS` takes no request of one word.
    counts.into_iter().filter(move |&count| plain && !command.is_container() && count > 1).map(|count| {
        let name = command.name.split('|').map(str::to_owned);
        name.chain((0..).map(|number| format!("argument{number}"))).take(count).collect()
    })
}

fn of_request(request: &[String]) -> &'static Command {
    let command = table::find(request[0].as_bytes()).expect("a known command");
    request.get(1).and_then(|word| table::find_sub(command, word.as_bytes())).unwrap_or(command)
}

fn found_here(request: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let args = request.iter().map(String::as_bytes);
    keys(of_request(request), args, |key| found.push(String::from_utf8_lossy(key).into_owned()));
    found
}

fn version(text: &str) -> [i32; 3] {
    let parts: Vec<i32> = text.split('.').map(|part| part.parse().expect("a number")).collect();
    parts.try_into().expect("three numbers")
}

/// What a server says of one of its commands.
struct Listed {
    name: String,
    arity: i64,
    flags: Vec<String>,
    keys: (i64, i64, i64),
}

impl Listed {
    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|other| other == flag)
    }
}

/// A server of its own for a test, on a unix socket; ended when dropped.
struct Server {
    child: Child,
    directory: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Server {
    fn start(variable: &str) -> Self {
        let directory =
            env::temp_dir().join(format!("outrigger-{}-{:?}-{variable}", process::id(), thread::current().id()));
        fs::create_dir_all(&directory).expect("a directory can be made");
        let socket = directory.join("socket");
        let mut child = process::Command::new(dependency(variable))
            .args(["--port", "0", "--save", "", "--daemonize", "no", "--logfile", ""])
            .args(["--dir", &directory.to_string_lossy(), "--unixsocket", &socket.to_string_lossy()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the server can be started");
        wait_until_ready(&mut child);
        let stream = UnixStream::connect(&socket).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit can be set");
        Self { child, directory, stream: BufReader::new(stream) }
    }

    /// All commands, subcommands after their container.
    fn commands(&mut self) -> Vec<Listed> {
        let mut listed = Vec::new();
        for entry in self.ask(&["COMMAND"]).items() {
            let mut entry = entry.items();
            let subcommands = if entry.len() > 9 { entry.remove(9).items() } else { Vec::new() };
            for entry in [entry].into_iter().chain(subcommands.into_iter().map(Reply::items)) {
                let mut entry = entry.into_iter();
                let mut next = || entry.next().expect("a whole entry");
                listed.push(Listed {
                    name: next().text(),
                    arity: next().number(),
                    flags: next().items().into_iter().map(Reply::text).collect(),
                    keys: (next().number(), next().number(), next().number()),
                });
            }
        }
        assert!(listed.len() > 200, "only {} commands", listed.len());
        listed
    }

    /// The keys that the server finds in a request; none at all if it misses one, as `PFMERGE a` the sources.
    fn keys_of(&mut self, request: &[String]) -> Option<Vec<String>> {
        let mut question = vec!["COMMAND", "GETKEYS"];
        question.extend(request.iter().map(String::as_str));
        match self.ask(&question) {
            Reply::Error(error) if error.contains("no key arguments") => Some(Vec::new()),
            Reply::Error(error) if error.contains("Invalid arguments") => None,
            Reply::Error(error) => panic!("{request:?}: {error}"),
            reply => Some(reply.items().into_iter().map(Reply::text).collect()),
        }
    }

    fn ask(&mut self, words: &[&str]) -> Reply {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.get_mut().write_all(request.as_bytes()).expect("the server reads");
        Reply::read(&mut self.stream)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Neither failing matters any more, and a panic here would hide the one that led here.
        let _ = self.child.kill().and_then(|()| self.child.wait());
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Waits for the line in which a server says that it listens. Its log is read to the end, so that it never waits for us.
fn wait_until_ready(child: &mut Child) {
    let log = BufReader::new(child.stdout.take().expect("a pipe"));
    let (ready, is_ready) = mpsc::channel();
    thread::spawn(move || {
        for line in log.lines().map_while(Result::ok) {
            if line.to_lowercase().contains("ready to accept connections") {
                // The other end has left if it waited too long.
                let _ = ready.send(());
            }
        }
    });
    is_ready.recv_timeout(Duration::from_secs(20)).expect("the server gets ready");
}

/// The path of a server, from the environment or from what `tests/install` wrote.
fn dependency(variable: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-deps/env");
    let from_file = || {
        let lines = fs::read_to_string(&file).ok()?;
        lines.lines().find_map(|line| Some(line.strip_prefix(variable)?.strip_prefix('=')?.to_owned()))
    };
    env::var(variable).ok().or_else(from_file).unwrap_or_else(|| panic!("no {variable} in {file:?}: run tests/install"))
}

/// A reply in RESP2.
#[derive(Debug)]
enum Reply {
    Array(Vec<Self>),
    Error(String),
    Number(i64),
    Text(String),
}

impl Reply {
    fn read(stream: &mut impl BufRead) -> Self {
        let mut line = String::new();
        stream.read_line(&mut line).expect("a line");
        let (kind, rest) = line.trim_end().split_at(1);
        match kind {
            "+" => Self::Text(rest.to_owned()),
            "-" => Self::Error(rest.to_owned()),
            ":" => Self::Number(rest.parse().expect("a number")),
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().expect("a length") + 2];
                stream.read_exact(&mut bytes).expect("a whole string");
                bytes.truncate(bytes.len() - 2);
                Self::Text(String::from_utf8(bytes).expect("text"))
            }
            "*" => Self::Array((0..rest.parse().expect("a length")).map(|_| Self::read(stream)).collect()),
            _ => panic!("no reply: {line:?}"),
        }
    }

    fn items(self) -> Vec<Self> {
        let Self::Array(items) = self else { panic!("no array: {self:?}") };
        items
    }

    fn number(self) -> i64 {
        let Self::Number(number) = self else { panic!("no number: {self:?}") };
        number
    }

    fn text(self) -> String {
        let Self::Text(text) = self else { panic!("no text: {self:?}") };
        text
    }
}
