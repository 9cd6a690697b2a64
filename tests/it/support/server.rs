//! Real servers: each in a directory of its own, on a port of its own, without persistence.

use super::{Client, PATIENCE, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use std::{env, fs, process};
use tempfile::TempDir;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// redis-server 6.2
    Redis62,
    /// redis-server 7.0
    Redis70,
    /// valkey-server 9.1
    Valkey91,
}

impl Kind {
    /// Every server that the tests run against, oldest first.
    pub const ALL: [Self; 3] = [Self::Redis62, Self::Redis70, Self::Valkey91];

    /// The version, for a person.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redis62 => "redis 6.2",
            Self::Redis70 => "redis 7.0",
            Self::Valkey91 => "valkey 9.1",
        }
    }

    /// Path of the server's binary.
    pub fn binary(self) -> PathBuf {
        dependency(match self {
            Self::Redis62 => "REDIS_6_2",
            Self::Redis70 => "REDIS_7_0",
            Self::Valkey91 => "VALKEY_9_1",
        })
    }
}

/// The value of `name` in the environment or in `target/test-deps/env`; its absence is a failure, not a skip.
pub fn dependency(name: &str) -> PathBuf {
    if let Some(value) = env::var_os(name) {
        return value.into();
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-deps/env");
    let text = fs::read_to_string(&file).unwrap_or_default();
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    match found {
        Some(value) => value.trim_matches('"').into(),
        None => panic!("{name} is neither in the environment nor in {}: run tests/install", file.display()),
    }
}

/// A running server; ended when dropped.
pub struct Server {
    kind: Kind,
    port: u16,
    directory: TempDir,
    options: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Starts a server with its defaults and waits until it answers.
    pub fn start(kind: Kind) -> Self {
        Self::start_with(kind, &[])
    }

    /// The same with more options, as `["--maxmemory", "1gb"]`.
    pub fn start_with(kind: Kind, options: &[&str]) -> Self {
        let options = options.iter().map(ToString::to_string).collect();
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut server = Self { kind, port: 0, directory, options, child: None };
        while server.child.is_none() {
            server.port = free_port();
            server.try_start();
        }
        server
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A connection that bypasses the proxy.
    pub fn connect(&self) -> Client {
        Client::connect(&self.address())
    }

    /// Ends the server at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the server is ours to kill");
            child.wait().expect("the server can be waited for");
        }
    }

    /// Stops the server where it is: the kernel goes on accepting and acknowledging for it, and nobody is answered.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        wait_until("the server stands still", PATIENCE, || self.state() == Some('T'));
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the server is running");
        kill_process(Pid::from_child(child), signal).expect("the server is ours");
    }

    /// What the system says it does: `S` sleeps, `R` runs, `T` stands still.
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.as_ref()?.id())).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Starts the server again, on the same port, with nothing stored (unless it was told to keep a log: `--appendonly`).
    pub fn start_again(&mut self) {
        self.kill();
        self.try_start();
        assert!(self.child.is_some(), "{} did not come back on port {}", self.kind.name(), self.port);
    }

    /// Waits until the server runs a script and answers nobody.
    pub fn wait_until_busy(&self) {
        let mut admin = self.connect();
        admin.set_patience(Duration::from_millis(200)).expect("a time limit can be set");
        wait_until("the script runs", Duration::from_secs(4), || admin.exchange(b"PING\r\n").is_err());
    }

    /// What `INFO section` says, by field.
    pub fn info(&self, section: &str) -> BTreeMap<String, String> {
        read_info(&mut self.connect(), section)
    }

    /// One number out of `INFO section`.
    pub fn info_number(&self, section: &str, field: &str) -> u64 {
        let info = self.info(section);
        let text = info.get(field).unwrap_or_else(|| panic!("INFO {section} has no {field}"));
        text.parse().unwrap_or_else(|_| panic!("{field} is no number: {text}"))
    }

    /// Leaves `child` empty if the server ended by itself: its port was taken in the meantime.
    fn try_start(&mut self) {
        let log = self.directory.path().join("log");
        let child = Command::new(self.kind.binary())
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--protected-mode", "no"])
            .args(["--save", "", "--appendonly", "no", "--tcp-backlog", "4096", "--dir"])
            .arg(self.directory.path())
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(fs::File::create(log).expect("the log can be made"))
            .stderr(Stdio::null())
            .spawn();
        let child = child.unwrap_or_else(|error| {
            panic!("{} does not start ({error}): run tests/install", self.kind.binary().display())
        });
        let pid = child.id();
        // Ours from now on, so that it is ended even if it never answers.
        self.child = Some(child);
        wait_until("the server answers PING", PATIENCE, || self.has_ended() || self.answers_as(pid));
    }

    /// Whether the server has ended by itself; forgets it then.
    fn has_ended(&mut self) -> bool {
        let ended = |child: &mut Child| child.try_wait().expect("the server can be waited for").is_some();
        if self.child.as_mut().is_some_and(ended) {
            self.child = None;
        }
        self.child.is_none()
    }

    fn password(&self) -> Option<&str> {
        let option = self.options.iter().position(|option| option == "--requirepass")?;
        self.options.get(option + 1).map(String::as_str)
    }

    /// Whether the process that answers on our port is the one that we started.
    fn answers_as(&self, pid: u32) -> bool {
        let Ok(mut client) = Client::try_connect(&self.address()) else { return false };
        if let Some(password) = self.password() {
            client.ask(&format!("AUTH {password}"));
        }
        let Ok(Some(pong)) = client.exchange(b"PING\r\n") else { return false };
        pong == b"+PONG\r\n" && read_info(&mut client, "server").get("process_id") == Some(&pid.to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What `INFO section` says, by field, over a connection that is there already.
pub fn read_info(client: &mut Client, section: &str) -> BTreeMap<String, String> {
    let text = client.frame(&format!("INFO {section}")).as_text();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The lines of `CLIENT LIST` but for that of `client` itself.
pub fn others(client: &mut Client) -> Vec<String> {
    let me = format!("id={} ", client.frame("CLIENT ID").as_text());
    let text = client.frame("CLIENT LIST").as_text();
    text.lines().filter(|line| !line.starts_with(&me)).map(ToOwned::to_owned).collect()
}

/// A port nobody listens on, below those that the system gives to outgoing connections, so that it stays ours while its
/// server is down.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(process::id() % 300).expect("below 300") * 64;
    loop {
        let port = 12_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
