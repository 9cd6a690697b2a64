//! redis-cli and redis-benchmark, as people use them: no error, no hang, and the replies that a server would give.

use crate::program::run_to_end;
use crate::support::{Kind, Proxy, Server, dependency};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The longest that any one run may take; most take a second.
const LIMIT: Duration = Duration::from_mins(2);
const PIPED: usize = 1_000_000;
/// Just under the largest request that a shared connection takes.
const BIG: &str = "1000000";
/// Types in what it is told after each prompt on a terminal of its own, and prints what the terminal shows.
///
/// Arguments: `typed line;typed line;…`, then the program and its arguments.
const TERMINAL: &str = r#"
import fcntl, os, pty, re, select, struct, sys, termios

pid, terminal = pty.fork()
if pid == 0:
    # Of a terminal without a size, redis-cli asks where the cursor is, and waits for the answer.
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    os.execvp(sys.argv[2], sys.argv[2:])
shown, lines = b"", sys.argv[1].split(";")
while True:
    if not select.select([terminal], [], [], 20)[0]:
        sys.exit(f"nothing for 20 s after {shown!r}")
    try:
        part = os.read(terminal, 65536)
    except OSError:
        break
    if not part:
        break
    shown += part
    if lines and re.sub(rb"\x1b\[[0-9;]*[A-Za-z]", b"", shown).rstrip().endswith(b">"):
        os.write(terminal, lines.pop(0).encode() + b"\r")
        sys.stdout.buffer.write(shown)
        shown = b""
sys.stdout.buffer.write(shown)
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"#;

/// A server and a proxy before it, with the tools pointed at the proxy.
struct Setting {
    server: Server,
    proxy: Proxy,
}

impl Setting {
    fn new() -> Self {
        let server = Server::start(Kind::Redis70);
        let proxy = Proxy::patient(&server, |_| {});
        Self { server, proxy }
    }

    /// `tool` with the proxy's address and `arguments`.
    fn tool(&self, tool: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(dependency(tool));
        command.args(at(self.proxy.address())).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs redis-cli, which must succeed, and returns what it wrote.
    fn cli(&self, arguments: &[&str]) -> String {
        succeed(&mut self.tool("REDIS_CLI", arguments))
    }

    /// Runs redis-benchmark and fails on any error it prints; it exits with 0 all the same.
    fn benchmark(&mut self, arguments: &[&str]) -> String {
        let output = succeed(self.tool("REDIS_BENCHMARK", &["-q"]).args(arguments));
        for sign in ["rror", "ERR", "WARN", "WRONGTYPE", "closed"] {
            assert!(!output.contains(sign), "redis-benchmark {arguments:?} wrote {sign:?}:\n{output}");
        }
        self.proxy.assert_running();
        output
    }
}

#[test]
fn redis_cli_answers_one_command_at_a_time() {
    let setting = Setting::new();
    let direct = Server::start(Kind::Redis70);
    for protocol in [&[][..], &["-3"], &["-3", "-n", "3"], &["--json"], &["--no-raw"]] {
        for words in [
            "SET key value",
            "GET key",
            "HSET h a 1 b 2",
            "HGETALL h",
            "ZADD z 1.5 m",
            "ZRANGE z 0 -1 WITHSCORES",
            "INCR key",
            "PING",
            "DEL key h z",
        ] {
            let arguments: Vec<_> = protocol.iter().copied().chain(words.split(' ')).collect();
            let expected = succeed(Command::new(dependency("REDIS_CLI")).args(at(&direct.address())).args(&arguments));
            assert_eq!(setting.cli(&arguments), expected, "redis-cli {arguments:?}");
        }
    }
}

#[test]
fn redis_cli_works_on_a_terminal() {
    let setting = Setting::new();
    let prompt = format!("{}> ", setting.proxy.address());
    for protocol in [&[][..], &["-3"]] {
        let shown =
            on_terminal("SET key value;GET key;SELECT 2;DBSIZE;NONSENSE;QUIT", &setting.tool("REDIS_CLI", protocol));
        for expected in [&prompt, "OK\r\n", "\"value\"\r\n", "[2]> ", "(integer) 0\r\n", "(error) ERR unknown command"]
        {
            assert!(shown.contains(expected), "redis-cli {protocol:?} did not show {expected:?} in {shown:?}");
        }
    }
}

#[test]
fn redis_cli_pipes_a_million_commands() {
    let setting = Setting::new();
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let path = directory.path().join("commands");
    write_commands(&path, PIPED);
    let mut command = setting.tool("REDIS_CLI", &["--pipe"]);
    let output = succeed(command.stdin(File::open(&path).expect("the commands were written")));
    assert!(output.contains(&format!("errors: 0, replies: {PIPED}")), "{output}");
    assert_eq!(setting.cli(&["DBSIZE"]).trim(), PIPED.to_string());
    assert_eq!(setting.cli(&["GET", "key:999999"]).trim(), "value 999999");
}

#[test]
fn redis_cli_walks_the_keyspace() {
    let setting = Setting::new();
    let mut client = setting.server.connect();
    for i in 0..2_000 {
        client.frame(&format!("SET key:{i} {}", "v".repeat(i % 100 + 1)));
    }
    client.frame("RPUSH list a b c");
    client.frame("HSET hash a 1 b 2");
    let mut scanned: Vec<_> = setting.cli(&["--scan", "--pattern", "key:*"]).lines().map(ToOwned::to_owned).collect();
    scanned.sort_unstable();
    scanned.dedup();
    assert_eq!(scanned.len(), 2_000, "--scan finds each key");
    let report = setting.cli(&["--bigkeys"]);
    for expected in [
        "Sampled 2002 keys in the keyspace",
        "Biggest   list found '\"list\"' has 3 items",
        "Biggest   hash found '\"hash\"' has 2 fields",
        "2000 strings with 101000 bytes",
    ] {
        assert!(report.contains(expected), "--bigkeys did not report {expected:?}:\n{report}");
    }
}

#[test]
fn redis_benchmark_runs_its_default_tests() {
    let mut setting = Setting::new();
    for protocol in [&[][..], &["-3"]] {
        let output = setting.benchmark(&[protocol, &["-n", "5000"]].concat());
        for test in [
            "PING_INLINE",
            "PING_MBULK",
            "SET",
            "GET",
            "INCR",
            "LPUSH",
            "RPOP",
            "SADD",
            "HSET",
            "SPOP",
            "ZADD",
            "ZPOPMIN",
            "LRANGE_600",
            "MSET (10 keys)",
        ] {
            assert!(
                output.contains(&format!("{test}: ")) || output.contains(&format!("{test} (")),
                "no result of {test}:\n{output}"
            );
        }
    }
}

#[test]
fn redis_benchmark_pipelines() {
    let mut setting = Setting::new();
    for (depth, requests) in [("1", "5000"), ("16", "50000"), ("100", "100000")] {
        for protocol in [&[][..], &["-3"]] {
            setting.benchmark(
                &[protocol, &["-P", depth, "-n", requests, "-t", "ping,set,get,incr,lpush,lpop,sadd,hset,zadd,mset"]]
                    .concat(),
            );
        }
    }
}

#[test]
fn redis_benchmark_with_one_client_and_with_many() {
    let mut setting = Setting::new();
    for (clients, requests) in [("1", "1000"), ("50", "10000"), ("500", "10000")] {
        for (protocol, depth) in [(&[][..], "1"), (&["-3"], "1"), (&[], "16"), (&["-3"], "16")] {
            setting.benchmark(
                &[
                    protocol,
                    &["-c", clients, "-P", depth, "-n", requests, "-r", "1000", "-t", "ping,set,get,incr,hset"],
                ]
                .concat(),
            );
        }
    }
}

#[test]
fn redis_benchmark_with_small_and_large_values() {
    let mut setting = Setting::new();
    for (size, requests) in [("64", "20000"), ("16384", "5000"), (BIG, "300")] {
        for protocol in [&[][..], &["-3"]] {
            setting.benchmark(&[protocol, &["-d", size, "-n", requests, "-t", "set,get"]].concat());
        }
    }
    setting.benchmark(&["-d", BIG, "-n", "320", "-P", "16", "-t", "set,get"]);
    assert_eq!(setting.cli(&["STRLEN", "key:__rand_int__"]).trim(), BIG, "the last value was stored whole");
}

/// `-h HOST -p PORT`
fn at(address: &str) -> [&str; 4] {
    let (host, port) = address.split_once(':').expect("an address has a port");
    ["-h", host, "-p", port]
}

fn succeed(command: &mut Command) -> String {
    let (status, output) = run_to_end(command, LIMIT);
    assert!(status.success(), "{command:?}, {status}:\n{output}");
    output
}

/// What `program` shows on a terminal where `lines` are typed.
fn on_terminal(lines: &str, program: &Command) -> String {
    let mut command = Command::new(dependency("PYTHON"));
    command.args(["-c", TERMINAL, lines]).arg(program.get_program()).args(program.get_args());
    // Otherwise redis-cli reads and writes the history of whoever runs the tests.
    command.env("REDISCLI_HISTFILE", "/dev/null").env("TERM", "xterm");
    succeed(&mut command)
}

/// `SET key:N "value N"` as RESP arrays, which is what `--pipe` sends on unchanged.
fn write_commands(path: &Path, count: usize) {
    let mut file = BufWriter::new(File::create(path).expect("the commands can be kept"));
    for i in 0..count {
        let (key, value) = (format!("key:{i}"), format!("value {i}"));
        write!(file, "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n{value}\r\n", key.len(), value.len())
            .expect("the commands can be kept");
    }
    file.flush().expect("the commands can be kept");
    assert!(fs::metadata(path).is_ok_and(|file| file.len() > 0), "the commands are there");
}
