//! An upstream that misbehaves in ways no real server does on demand. Each test says what the clients see, and that those
//! who had nothing to do with the fault are unharmed.

mod descriptors;
mod flow;
mod handshake;
mod loss;
mod replies;

use crate::support::{Client, Line, Proxy, Scripted, bulk};

/// A proxy of one worker before `upstream`, so that all clients share its connections.
fn proxy_before(upstream: &Scripted) -> Proxy {
    proxy_with(upstream, &[])
}

/// The same with more flags.
fn proxy_with(upstream: &Scripted, more: &[&str]) -> Proxy {
    Proxy::toward(&upstream.address(), |flags| {
        flags.args(["--workers", "1"]).args(more);
    })
}

/// Clients of one lane, and the connection that serves them.
fn clients_on_one_line<const COUNT: usize>(
    upstream: &mut Scripted,
    proxy: &Proxy,
    protocol: u8,
) -> ([Client; COUNT], Line) {
    let mut clients = std::array::from_fn(|_| proxy.connect());
    let mut line = None;
    for client in &mut clients {
        if protocol == 3 {
            client.hello3();
        }
        client.send(&crate::support::words("GET ready"));
        let line = line.get_or_insert_with(|| upstream.line(protocol));
        line.expect("GET ready");
        line.say(b"+ready\r\n");
        assert_eq!(shown(&client.reply()), "+ready\\r\\n");
    }
    (clients, line.expect("there are clients"))
}

/// Fails unless these clients are served, each with its own reply, by connections that echo.
fn assert_served<'clients>(clients: impl IntoIterator<Item = &'clients mut Client>) {
    for (number, client) in clients.into_iter().enumerate() {
        let key = format!("key-of-{number}");
        assert_eq!(shown(&client.ask(&format!("GET {key}"))), shown(&bulk(key.as_bytes())));
        assert_eq!(shown(&client.ask("PING")), "+PONG\\r\\n");
    }
}

fn assert_indeterminate(reply: &[u8]) {
    assert!(reply.starts_with(b"-INDETERMINATE "), "{}", shown(reply));
}

fn assert_unavailable(reply: &[u8]) {
    assert!(reply.starts_with(b"-UNAVAILABLE "), "{}", shown(reply));
}

/// Bytes, fit for a message.
fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(200)].escape_ascii().to_string()
}
