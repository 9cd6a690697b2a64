//! The proxy with faults does what its faults are called: seen by one client, with a real server behind.

use super::super::{Client, Kind, PATIENCE, Server, wait_until, words};
use super::{Fault, FaultProxy};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Long enough for anything that is to arrive, in a test that nothing arrives.
const SILENCE: Duration = Duration::from_millis(200);

/// A server, the proxy before it, and a client that is served.
fn served() -> (Server, FaultProxy, Client) {
    let server = Server::start(Kind::Redis70);
    let proxy = FaultProxy::before(&server);
    let mut client = Client::connect(&proxy.address());
    assert_eq!(client.ask("SET k value"), b"+OK\r\n");
    assert_eq!(proxy.connected(), 1);
    (server, proxy, client)
}

/// How a dial fails.
fn dial(proxy: &FaultProxy) -> ErrorKind {
    let address: SocketAddr = proxy.address().parse().expect("it is an address");
    TcpStream::connect_timeout(&address, SILENCE).expect_err("nobody is to answer").kind()
}

/// How a request over this connection fails.
fn failure(client: &mut Client) -> Option<ErrorKind> {
    failure_within(PATIENCE, client)
}

/// The same, where it may be by silence.
fn failure_within(limit: Duration, client: &mut Client) -> Option<ErrorKind> {
    client.set_patience(limit).expect("a limit can be set");
    match client.exchange(&words("GET k")) {
        Ok(Some(reply)) => panic!("answered {}", reply.escape_ascii()),
        Ok(None) => None,
        Err(error) => Some(error.kind()),
    }
}

/// Fails unless new connections are served.
fn assert_well(proxy: &FaultProxy) {
    proxy.switch(Fault::Pass);
    assert_eq!(Client::connect(&proxy.address()).ask("GET k"), b"$5\r\nvalue\r\n");
}

#[test]
fn refused_is_refused_at_once_and_the_port_stays() {
    let (_server, proxy, mut client) = served();
    for _ in 0..3 {
        proxy.switch(Fault::Refuse);
        assert_eq!(dial(&proxy), ErrorKind::ConnectionRefused);
        assert_well(&proxy);
    }
    assert!(matches!(failure(&mut client), Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)));
}

#[test]
fn a_black_hole_answers_nothing_and_gives_nothing_back() {
    let (_server, proxy, mut client) = served();
    proxy.switch(Fault::BlackHole);
    assert_eq!(failure_within(SILENCE, &mut client), Some(ErrorKind::WouldBlock));
    assert_eq!(dial(&proxy), ErrorKind::TimedOut);
    assert_well(&proxy);
    assert_eq!(failure_within(SILENCE, &mut client), Some(ErrorKind::WouldBlock));
}

#[test]
fn what_hangs_arrives_later() {
    let (server, proxy, mut client) = served();
    proxy.switch(Fault::Hang);
    assert_eq!(failure_within(SILENCE, &mut client), Some(ErrorKind::WouldBlock));
    let mut late = Client::connect(&proxy.address());
    late.send(&words("SET late yes"));
    drop(late);
    proxy.switch(Fault::Pass);
    assert_eq!(client.reply(), b"$5\r\nvalue\r\n");
    let mut direct = server.connect();
    wait_until("a request of a client that has left arrives", PATIENCE, || direct.ask("GET late") == b"$3\r\nyes\r\n");
}

#[test]
fn a_request_whose_reply_hangs_arrives() {
    let (server, proxy, mut client) = served();
    proxy.switch(Fault::HangReplies);
    client.send(&words("INCR n"));
    let mut direct = server.connect();
    wait_until("the request arrives", PATIENCE, || direct.ask("GET n") == b"$1\r\n1\r\n");
    assert_eq!(failure_within(SILENCE, &mut client), Some(ErrorKind::WouldBlock));
    proxy.switch(Fault::Pass);
    assert_eq!(client.reply(), b":1\r\n");
}

#[test]
fn only_those_hang_that_exist() {
    let (_server, proxy, mut client) = served();
    proxy.switch_existing(Fault::Hang);
    assert_eq!(Client::connect(&proxy.address()).ask("GET k"), b"$5\r\nvalue\r\n");
    assert_eq!(failure_within(SILENCE, &mut client), Some(ErrorKind::WouldBlock));
}

#[test]
fn a_reset_is_a_reset_and_an_end_is_an_end() {
    let (_server, proxy, mut client) = served();
    proxy.switch(Fault::Reset);
    assert_eq!(failure(&mut client), Some(ErrorKind::ConnectionReset));
    assert_eq!(failure(&mut Client::connect(&proxy.address())), Some(ErrorKind::ConnectionReset));
    assert_well(&proxy);
    let mut client = Client::connect(&proxy.address());
    client.ask("PING");
    proxy.switch(Fault::HangUp);
    assert_eq!(failure(&mut client), None);
    assert_well(&proxy);
}

#[test]
fn replies_are_cut_in_their_middle() {
    for (fault, end) in
        [(Fault::ResetWithin(15), ErrorKind::ConnectionReset), (Fault::SilentWithin(15), ErrorKind::WouldBlock)]
    {
        let (_server, proxy, mut client) = served();
        proxy.switch(fault);
        assert_eq!(client.ask("GET k"), b"$5\r\nvalue\r\n");
        let limit = if end == ErrorKind::WouldBlock { SILENCE } else { PATIENCE };
        assert_eq!(failure_within(limit, &mut client), Some(end));
        assert!(client.unread_shown().ends_with("$5\\r\\n"), "{}", client.unread_shown());
        assert_well(&proxy);
    }
}

#[test]
fn slow_is_slow() {
    let (_server, proxy, mut client) = served();
    proxy.switch(Fault::Drip { bytes: 4, every: Duration::from_millis(20) });
    let start = Instant::now();
    assert_eq!(client.ask("GET k"), b"$5\r\nvalue\r\n");
    assert!(start.elapsed() >= Duration::from_millis(60), "11 bytes took {:?}", start.elapsed());
    proxy.switch(Fault::Slow(Duration::from_millis(50)));
    let mut other = Client::connect(&proxy.address());
    let start = Instant::now();
    client.send(&words("GET k"));
    other.ask("GET k");
    client.reply();
    assert!(start.elapsed() >= Duration::from_millis(100), "two replies took {:?}", start.elapsed());
}

#[test]
fn what_no_server_says() {
    let (_server, proxy, mut client) = served();
    proxy.switch(Fault::Extra);
    assert_eq!(client.ask("GET k"), b"$5\r\nvalue\r\n");
    assert_eq!(client.reply(), b"$7\r\nforeign\r\n");
    proxy.switch(Fault::Answer("-LOADING"));
    assert_eq!(client.ask("HELLO 3"), b"-LOADING\r\n");
    proxy.switch(Fault::AnswerAfterHandshake("-LOADING"));
    assert_eq!(client.ask("SELECT 1"), b"+OK\r\n");
    assert_eq!(client.ask("GET k"), b"-LOADING\r\n");
    proxy.switch(Fault::WrongPassword);
    assert!(client.ask("AUTH secret").starts_with(b"-WRONGPASS "));
    assert!(client.ask("PING").starts_with(b"-NOAUTH "));
    proxy.switch(Fault::Garbage);
    client.send(&words("GET k"));
    client.finish_sending();
    assert!(client.rest().expect("it ends in order").starts_with(b"HTTP/1.1 400 "));
}

#[test]
fn answers_made_here_keep_their_place() {
    let (_server, proxy, mut client) = served();
    proxy.switch(Fault::AnswerAfterHandshake("-LOADING"));
    // The server takes its time for the first, and is not asked the second.
    client.send(&[words("CLIENT PAUSE 100"), words("SELECT 1"), words("GET k")].concat());
    assert_eq!(client.reply(), b"+OK\r\n");
    assert_eq!(client.reply(), b"+OK\r\n");
    assert_eq!(client.reply(), b"-LOADING\r\n");
}

#[test]
fn new_connections_go_to_another_server() {
    let (old, proxy, mut client) = served();
    let new = Server::start(Kind::Redis70);
    let is_there = |text: &'static [u8]| Client::connect(&proxy.address()).ask("GET k") == text;
    proxy.retarget_upon(b":", &new.address());
    assert!(is_there(b"$5\r\nvalue\r\n"));
    client.ask("INCR n");
    assert!(is_there(b"$-1\r\n"));
    proxy.retarget(&old.address());
    assert!(is_there(b"$5\r\nvalue\r\n"));
    assert_eq!(proxy.dials().len(), 4);
}
