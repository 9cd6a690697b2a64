//! An upstream that misbehaves in ways no real server does on demand. Each test says what the clients see, and that those
//! who had nothing to do with the fault are unharmed.

mod descriptors;
mod flow;
mod handshake;
mod loss;
mod repeats;
mod replies;

use crate::support::{Client, Line, PATIENCE, Proxy, Scripted, be_patient, bulk, command, wait_until, words};
use std::process::Command;

/// After so many replies the proxy knows how quick a server is, and trusts it with many requests at once.
const REPLIES_THAT_SHOW_A_RATE: usize = 10;

/// A proxy of one worker before `upstream`, so that all clients share its connections.
fn proxy_before(upstream: &Scripted) -> Proxy {
    begun(upstream, be_patient)
}

/// The same as it is shipped, but for these flags.
fn proxy_with(upstream: &Scripted, more: &[&str]) -> Proxy {
    begun(upstream, |flags| {
        flags.args(more);
    })
}

/// A proxy that has made its first dial: the one by which it looks, at its start, whether the server is there.
fn begun(upstream: &Scripted, options: impl FnOnce(&mut Command)) -> Proxy {
    let proxy = Proxy::toward(&upstream.address(), |flags| {
        flags.args(["--workers", "1"]);
        options(flags);
    });
    wait_until("the proxy dials", PATIENCE, || upstream.dials() > 0);
    proxy
}

/// Clients of one lane, and the connection that serves them. The lane of the other protocol has one too, so that this is
/// not the last: what becomes of its clients does not depend on whether the server seems to be gone.
fn clients_on_one_line<const COUNT: usize>(
    upstream: &mut Scripted,
    proxy: &Proxy,
    protocol: u8,
) -> ([Client; COUNT], Line) {
    let (_, other) = clients_on_the_line::<1>(upstream, proxy, 5 - protocol);
    other.echo_on();
    clients_on_the_line(upstream, proxy, protocol)
}

/// The same, where nothing is known of the other lane.
fn clients_on_the_line<const COUNT: usize>(
    upstream: &mut Scripted,
    proxy: &Proxy,
    protocol: u8,
) -> ([Client; COUNT], Line) {
    let mut clients: [_; COUNT] = std::array::from_fn(|_| proxy.connect());
    let mut line = None;
    for client in &mut clients {
        if protocol == 3 {
            client.hello3();
        }
        for _ in 0..REPLIES_THAT_SHOW_A_RATE {
            client.send(&words("GET ready"));
            let line = line.get_or_insert_with(|| upstream.line(protocol));
            line.expect("GET ready");
            line.say(b"+ready\r\n");
            assert_eq!(shown(&client.reply()), "+ready\\r\\n");
        }
    }
    (clients, line.expect("there are clients"))
}

/// Requests after which the kernel does not take a large one whole while we do not read: together they are as much as may be
/// in flight, each is small enough for a shared connection.
const FILLINGS: usize = 4;

fn fillings() -> Vec<u8> {
    command(&[b"SET".as_slice(), b"filling", &vec![b'f'; 975_000]]).repeat(FILLINGS)
}

/// The largest request of a shared connection, about.
fn large(key: &[u8]) -> Vec<u8> {
    command(&[b"SET".as_slice(), key, &vec![b'v'; 1_000_000]])
}

/// Fails unless these clients are served, each with its own reply, by connections that echo.
fn assert_served<'clients>(clients: impl IntoIterator<Item = &'clients mut Client>) {
    for (number, client) in clients.into_iter().enumerate() {
        let key = format!("key-of-{number}");
        assert_eq!(shown(&client.ask(&format!("GET {key}"))), shown(&bulk(key.as_bytes())));
        assert_eq!(shown(&client.ask(&format!("INCR {key}"))), shown(&bulk(key.as_bytes())));
        assert_eq!(shown(&client.ask("PING")), "+PONG\\r\\n");
    }
}

/// It was sent; whether it ran nobody knows, but it will not run later.
fn assert_indeterminate(reply: &[u8]) {
    let is_so = reply.starts_with(b"-INDETERMINATE ") && reply.ends_with(b", the command may have run\r\n");
    assert!(is_so, "{}", shown(reply));
}

/// It was not sent.
fn assert_unavailable(reply: &[u8]) {
    let is_so = reply.starts_with(b"-UNAVAILABLE ") && reply.ends_with(b", command not sent\r\n");
    assert!(is_so, "{}", shown(reply));
}

/// What an empty server says to GET, in RESP2 or in RESP3.
fn nil(protocol: u8) -> &'static str {
    if protocol == 3 { "_\\r\\n" } else { "$-1\\r\\n" }
}

/// Bytes, fit for a message.
fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(200)].escape_ascii().to_string()
}
