//! The proxy as its users have it: a process, known by its flags, its sockets and its log.

use super::{Client, PATIENCE, Server, http, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, thread};

/// How many of the last lines of the log a failing test shows.
const LINES_SHOWN: usize = 40;

/// A running proxy; ended when dropped.
///
/// With `OUTRIGGER_BIN=direct` there is none and clients talk to the server itself: a way to try the tests themselves.
pub struct Proxy {
    addresses: Vec<String>,
    child: Option<Child>,
    log: Log,
}

type Log = Arc<Mutex<Vec<String>>>;

/// How a proxy that refused to start ended.
#[derive(Debug)]
pub struct Refusal {
    /// Its exit status.
    pub status: ExitStatus,
    /// All it wrote to stderr.
    pub log: String,
}

impl Proxy {
    /// Starts a proxy before `server`, listening on a free port of 127.0.0.1.
    pub fn before(server: &Server) -> Self {
        Self::start(server, |_| {})
    }

    /// The same with more flags. A `--listen` among them replaces the default one.
    pub fn start(server: &Server, options: impl FnOnce(&mut Command)) -> Self {
        if is_direct() {
            return Self { addresses: vec![server.address()], child: None, log: Log::default() };
        }
        Self::toward(&server.address(), options)
    }

    /// The same for a test of what happens, however long it takes: the whole machine may stand still for seconds. Flags
    /// among `options` go before.
    pub fn patient(server: &Server, options: impl FnOnce(&mut Command)) -> Self {
        Self::start(server, |flags| {
            be_patient(flags);
            options(flags);
        })
    }

    /// The same, where the proxy may refuse its flags.
    pub fn try_start(server: &Server, options: impl FnOnce(&mut Command)) -> Result<Self, Refusal> {
        Self::try_toward(&server.address(), options)
    }

    /// Starts a proxy before whatever listens at `address`, which may begin with `user:password@`.
    pub fn toward(address: &str, options: impl FnOnce(&mut Command)) -> Self {
        Self::try_toward(address, options)
            .unwrap_or_else(|refusal| panic!("the proxy did not start, {}:\n{}", refusal.status, refusal.log))
    }

    fn try_toward(address: &str, options: impl FnOnce(&mut Command)) -> Result<Self, Refusal> {
        let mut command = Command::new(binary());
        command.args(["--upstream", &format!("redis://{address}"), "--log-format", "json"]);
        options(&mut command);
        if listeners(&command) == 0 {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        if !has_http(&command) {
            command.args(["--http", "127.0.0.1:0"]);
        }
        let due = listeners(&command);
        let mut child =
            command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the proxy's binary can be run");
        let log = Log::default();
        let (sender, bound) = channel();
        let stderr = child.stderr.take().expect("stderr is piped");
        let kept = Arc::clone(&log);
        thread::spawn(move || drain(stderr, &kept, &sender));
        let addresses = wait_for_listeners(&bound, due);
        if addresses.len() == due {
            return Ok(Self { addresses, child: Some(child), log });
        }
        let status = status_of(&mut child);
        let log = text_of(&log, usize::MAX);
        Err(Refusal { status, log })
    }

    /// The first address that it listens on.
    pub fn address(&self) -> &str {
        &self.addresses[0]
    }

    /// All addresses that it listens on, in the order of its log.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The address of its HTTP port.
    pub fn http(&self) -> String {
        let mut address = None;
        wait_until("the HTTP port is open", PATIENCE, || {
            address = address_of(&self.log, "http listening");
            address.is_some()
        });
        address.expect("it was just found")
    }

    /// The value of a series of `/metrics` as it is named there, labels in alphabetical order: `outrigger_x_total{a="b"}`.
    pub fn metric(&self, series: &str) -> Option<f64> {
        http::value(&http::get(&self.http(), "/metrics").body, series)
    }

    /// A connection to the first address.
    pub fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// The process, unless the tests run without a proxy.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Sends it a signal.
    pub fn tell(&self, signal: Signal) {
        // Before that it listens already, but has not begun.
        wait_until("it has started", PATIENCE, || self.logged(r#""message":"started""#) == 1);
        let child = self.child.as_ref().expect("there is a proxy");
        kill_process(Pid::from_child(child), signal).expect("the proxy is ours");
    }

    /// Waits until it ends by itself; returns how.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("there is a proxy");
        let mut status = None;
        wait_until("the proxy ends", PATIENCE * 2, || {
            status = child.try_wait().expect("the proxy can be waited for");
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// How many lines of the log so far contain `text`.
    pub fn logged(&self, text: &str) -> usize {
        self.log.lock().expect("no holder panics").iter().filter(|line| line.contains(text)).count()
    }

    /// The first line of the log that contains `text`.
    pub fn line(&self, text: &str) -> serde_json::Value {
        let log = self.log.lock().expect("no holder panics");
        let line = log.iter().find(|line| line.contains(text)).unwrap_or_else(|| panic!("nothing says {text}"));
        serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"))
    }

    /// Fails the test if the proxy has ended.
    pub fn assert_running(&mut self) {
        if let Some(child) = &mut self.child {
            let status = child.try_wait().expect("the proxy can be waited for");
            assert!(status.is_none(), "the proxy ended: {status:?}");
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the proxy's log ends so:\n{}", text_of(&self.log, LINES_SHOWN));
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Gives requests and handshakes more time than a machine can stand still, and so every rate, silence and repeat that is
/// judged by it.
pub fn be_patient(flags: &mut Command) {
    flags.env("OUTRIGGER_REQUEST_TIMEOUT", "60s");
    flags.env("OUTRIGGER_SLOW_REQUEST_TIMEOUT", "120s");
    flags.env("OUTRIGGER_CONNECT_TIMEOUT", "20s");
}

/// Whether the tests are to run without a proxy.
pub fn is_direct() -> bool {
    env::var_os("OUTRIGGER_BIN").is_some_and(|value| value == "direct")
}

fn binary() -> String {
    env::var("OUTRIGGER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_outrigger").to_owned())
}

fn listeners(command: &Command) -> usize {
    command.get_args().filter(|argument| *argument == "--listen" || *argument == "--listen-strict").count()
}

fn has_http(command: &Command) -> bool {
    command.get_args().any(|argument| argument == "--http")
}

/// Keeps every line and hands on the addresses of listeners, until the process ends.
fn drain(stderr: ChildStderr, log: &Log, bound: &Sender<String>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let address = address_in(&line, "listening");
        log.lock().expect("no holder panics").push(line);
        address.into_iter().for_each(|address| drop(bound.send(address)));
    }
}

/// The address in a line of the log with this message.
fn address_in(line: &str, message: &str) -> Option<String> {
    let is_so = line.contains(&format!(r#""message":"{message}""#));
    let address = line.split(r#""address":""#).nth(1)?.split('"').next()?;
    is_so.then(|| address.to_owned())
}

fn address_of(log: &Log, message: &str) -> Option<String> {
    log.lock().expect("no holder panics").iter().find_map(|line| address_in(line, message))
}

/// The addresses of `due` listeners; fewer if the process ended or took too long.
fn wait_for_listeners(bound: &Receiver<String>, due: usize) -> Vec<String> {
    let mut addresses = Vec::new();
    while addresses.len() < due {
        match bound.recv_timeout(PATIENCE) {
            Ok(address) => addresses.push(address),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    addresses
}

/// How a process that did not come to listen ended; one that hangs is killed.
fn status_of(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        if let Some(status) = child.try_wait().expect("the proxy can be waited for") {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().expect("the proxy is ours to kill");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn text_of(log: &Log, last: usize) -> String {
    let lines = log.lock().expect("no holder panics");
    lines[lines.len().saturating_sub(last)..].join("\n")
}
