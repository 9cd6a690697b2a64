//! Redis known by a name: it moves, has several addresses, or cannot be found for a while.

use super::network::in_own_network;
use super::resolver::Resolver;
use crate::support::{Client, Figures, Kind, PATIENCE, Proxy, is_direct, wait_until};
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const NAME: &str = "redis.test";
/// One for all servers of a test, which differ in their addresses.
const PORT: u16 = 6390;
const A: Ipv4Addr = Ipv4Addr::new(127, 2, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(127, 2, 0, 2);
const NOBODY: Ipv4Addr = Ipv4Addr::new(127, 2, 0, 3);

/// A name may be asked for once in this time.
const BETWEEN_QUESTIONS: Duration = Duration::from_secs(5);
/// What our watch may be wrong by.
const INEXACT: Duration = Duration::from_millis(50);
/// How soon a server must be found whose address is known: backoff, dial, and the first trials.
const FOUND: Duration = Duration::from_secs(2);
/// The longest that a request may take while no server can be found.
const ANSWERED: Duration = Duration::from_millis(4_250);
/// Threads that the proxy may have: its worker, the control plane, and what resolves names.
const FEW_THREADS: usize = 8;

#[test]
fn a_server_that_moves_is_followed_with_few_questions() {
    if is_direct() {
        return;
    }
    in_own_network(|| {
        let resolver = Resolver::start();
        resolver.set(NAME, &[A]);
        let (old, new) = (Host::start(A), Host::start(B));
        let proxy = proxy_before_the_name();
        let mut client = proxy.connect();
        wait_until_served_by(&mut client, A, FOUND);
        drop(old);
        let lost = Instant::now();
        wait_until("the name was asked for twice during the outage", 4 * BETWEEN_QUESTIONS, || {
            assert_degraded(&mut client);
            resolver.asked(NAME).iter().filter(|at| **at > lost).count() >= 2
        });
        resolver.set(NAME, &[B]);
        let moved = wait_until_served_by(&mut client, B, BETWEEN_QUESTIONS + FOUND);
        let asked = resolver.asked(NAME);
        let gaps: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mut figures = Figures::of("a server that moved");
        figures.add("found_after_ms", moved.as_millis());
        figures.add("questions", asked.len());
        assert!(
            gaps.iter().all(|gap| *gap + INEXACT >= BETWEEN_QUESTIONS),
            "the name was asked for again too soon: {gaps:?}"
        );
        drop(new);
    });
}

#[test]
fn every_address_of_a_name_is_tried() {
    if is_direct() {
        return;
    }
    in_own_network(|| {
        let resolver = Resolver::start();
        resolver.set(NAME, &[NOBODY, A, B]);
        let (first, second) = (Host::start(A), Host::start(B));
        let proxy = proxy_before_the_name();
        let mut client = proxy.connect();
        wait_until("the client is served", FOUND, || answer(&mut client).is_some());
        let mut figures = Figures::of("three addresses");
        drop(first);
        figures.add("without_a_ms", wait_until_served_by(&mut client, B, FOUND).as_millis());
        let first = Host::start(A);
        drop(second);
        figures.add("without_b_ms", wait_until_served_by(&mut client, A, FOUND).as_millis());
        drop(first);
    });
}

#[test]
fn an_address_that_swallows_packets_does_not_hide_the_others() {
    if is_direct() {
        return;
    }
    in_own_network(|| {
        let resolver = Resolver::start();
        let mut figures = Figures::of("a deaf address");
        let _deaf = Deaf::at(NOBODY);
        let _host = Host::start(A);
        for addresses in [[NOBODY, A], [A, NOBODY]] {
            resolver.set(NAME, &addresses);
            let proxy = proxy_before_the_name();
            let mut client = proxy.connect();
            // One dial that times out, and one that is answered.
            let found = wait_until_served_by(&mut client, A, 2 * FOUND);
            figures.add(&format!("found_after_{}_ms", addresses[0]), found.as_millis());
        }
    });
}

#[test]
fn a_name_that_nobody_knows_is_an_outage_like_another() {
    if is_direct() {
        return;
    }
    in_own_network(|| {
        let resolver = Resolver::start();
        let _host = Host::start(A);
        let proxy = proxy_before_the_name();
        let mut client = proxy.connect();
        assert_degraded(&mut client);
        wait_until("the name was asked for", PATIENCE, || !resolver.asked(NAME).is_empty());
        resolver.set(NAME, &[A]);
        let found = wait_until_served_by(&mut client, A, BETWEEN_QUESTIONS + FOUND);
        Figures::of("a name that came to be").add("found_after_ms", found.as_millis());
    });
}

#[test]
fn a_resolver_that_does_not_answer_holds_nobody_up() {
    if is_direct() {
        return;
    }
    in_own_network(|| {
        let resolver = Resolver::start();
        resolver.set(NAME, &[A]);
        let old = Host::start(A);
        let proxy = proxy_before_the_name();
        let mut client = proxy.connect();
        wait_until_served_by(&mut client, A, FOUND);
        resolver.set_silent(true);
        drop(old);
        let lost = Instant::now();
        wait_until("two questions were not answered", 4 * BETWEEN_QUESTIONS, || {
            assert_degraded(&mut client);
            assert_eq!(client.ask("PING"), b"+PONG\r\n");
            lost.elapsed() > 2 * BETWEEN_QUESTIONS
        });
        let threads = threads_of(&proxy);
        assert!(threads <= FEW_THREADS, "{threads} threads: those that resolve names pile up");
        resolver.set_silent(false);
        let _new = Host::start(A);
        let found = wait_until_served_by(&mut client, A, BETWEEN_QUESTIONS + FOUND);
        let mut figures = Figures::of("a resolver that was silent");
        figures.add("found_after_ms", found.as_millis());
        figures.add("threads", threads);
    });
}

fn proxy_before_the_name() -> Proxy {
    Proxy::toward(&format!("{NAME}:{PORT}"), |flags| {
        flags.args(["--workers", "1", "--connect-timeout", "1s"]);
    })
}

/// A read is answered as by an empty server, a write with an honest error, both soon.
fn assert_degraded(client: &mut Client) {
    let start = Instant::now();
    let read = client.ask("GET who");
    assert_eq!(read, b"$-1\r\n", "{}", read.escape_ascii());
    let write = client.ask("INCR n");
    assert!(write.starts_with(b"-UNAVAILABLE ") || write.starts_with(b"-INDETERMINATE "), "{}", write.escape_ascii());
    assert!(start.elapsed() < 2 * ANSWERED, "answered only after {:?}", start.elapsed());
}

/// Which server answers, if one does.
fn answer(client: &mut Client) -> Option<Ipv4Addr> {
    let frame = client.frame("GET who");
    assert!(!frame.is_error(), "a read was answered {frame:?}");
    frame.as_text().parse().ok()
}

/// Returns how long it took.
fn wait_until_served_by(client: &mut Client, host: Ipv4Addr, limit: Duration) -> Duration {
    let start = Instant::now();
    wait_until(&format!("{host} serves"), limit, || answer(client) == Some(host));
    start.elapsed()
}

fn threads_of(proxy: &Proxy) -> usize {
    let pid = proxy.pid().expect("there is a proxy");
    std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process is running").count()
}

/// A server at an address of its own, which it holds under the key `who`; killed when dropped.
struct Host {
    child: Child,
    _directory: TempDir,
}

impl Host {
    fn start(address: Ipv4Addr) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let child = Command::new(Kind::Redis70.binary())
            .args(["--bind", &address.to_string(), "--port", &PORT.to_string()])
            .args(["--protected-mode", "no", "--save", "", "--dir"])
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("the server can be run");
        let host = Self { child, _directory: directory };
        let knows_itself = || {
            let client = Client::try_connect(&format!("{address}:{PORT}"));
            client.is_ok_and(|mut client| client.ask(&format!("SET who {address}")) == b"+OK\r\n")
        };
        wait_until("the server answers", PATIENCE, knows_itself);
        host
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.child.kill().expect("the server is ours to kill");
        self.child.wait().expect("the server can be waited for");
    }
}

/// An address that answers no dial: its listener accepts nobody and has no room for more to wait.
struct Deaf {
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Deaf {
    fn at(address: Ipv4Addr) -> Self {
        let place = SocketAddr::from((address, PORT));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made");
        socket.bind(&place.into()).expect("the port is free");
        socket.listen(0).expect("it can listen");
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&place, Duration::from_millis(200)) {
            waiting.push(stream);
        }
        Self { _listener: socket.into(), _waiting: waiting }
    }
}
