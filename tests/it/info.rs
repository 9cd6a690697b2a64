//! `INFO` through the proxy: what Redis says, and a section of the proxy's own.

use crate::support::{Client, Kind, Proxy, Scripted, Server, bulk, is_direct, wait_until, words};
use std::time::Duration;

const TITLE: &str = "# Outrigger\r\n";

#[test]
fn info_gains_a_section_about_the_proxy() {
    if is_direct() {
        return;
    }
    for kind in Kind::ALL {
        let mut server = Server::start(kind);
        let proxy = Proxy::before(&server);
        let (mut resp2, mut resp3) = (proxy.connect(), proxy.connect());
        resp3.hello3();
        for client in [&mut resp2, &mut resp3] {
            for asked in ["INFO", "INFO default", "INFO everything"] {
                let told = text(client, asked);
                let (of_redis, of_us) = told.split_once(TITLE).unwrap_or_else(|| panic!("{asked}: {told}"));
                assert!(of_redis.starts_with("# Server\r\n") && of_redis.ends_with("\r\n\r\n"), "{asked}: {told}");
                assert!(of_redis.contains("\r\n# Keyspace\r\n"), "{asked}: {told}");
                assert_section(of_us, "0", "closed");
            }
            assert!(!client.frame("INFO server").as_text().contains(TITLE));
            let alone = text(client, "info OUTRIGGER");
            assert_section(alone.strip_prefix(TITLE).expect("nothing else"), "0", "closed");
            // It stays in its place, and what is queued is answered by the server alone.
            let replies = client.pipeline(&["SET k v", "INFO", "GET k", "MULTI", "INFO", "EXEC"].map(words));
            assert_eq!((&*replies[0], &*replies[2]), (b"+OK\r\n".as_slice(), b"$1\r\nv\r\n".as_slice()));
            assert!(has_title(&replies[1]) && !has_title(&replies[5]));
        }
        leased(&mut resp2);
        server.kill();
        wait_until("Redis is known to be gone", Duration::from_secs(10), || {
            resp2.frame("INFO").as_text().contains("outrigger_breaker:open\r\n")
        });
        for client in [&mut resp2, &mut resp3] {
            let told = client.frame("INFO").as_text();
            let (_, of_us) = told.split_once(TITLE).expect("it is there");
            assert_section(of_us, "1", "open");
        }
    }
}

/// Over a connection of the client's own it is the same.
fn leased(client: &mut Client) {
    assert_eq!(client.ask("WATCH k"), b"+OK\r\n");
    let told = client.frame("INFO").as_text();
    assert!(told.contains("outrigger_leases:1\r\n"), "{told}");
    assert_eq!(client.ask("UNWATCH"), b"+OK\r\n");
}

/// What comes in parts is put together; an error, and what is too long to be held, is passed on as it is.
#[test]
fn whatever_the_server_says_to_info_reaches_the_client() {
    if is_direct() {
        return;
    }
    let mut server = Scripted::start();
    let proxy = Proxy::toward(&server.address(), |flags| {
        flags.args(["--workers", "1"]);
    });
    let mut client = proxy.connect();
    client.send(&words("INFO"));
    let mut line = server.line(2);
    line.expect("INFO");
    line.say_in_pieces([b"$".as_slice(), b"1", b"0\r\n", b"# S\r\na:1", b"\r\n\r", b"\n"]);
    let told = String::from_utf8(client.reply()).expect("text");
    assert!(told.contains("\r\n# S\r\na:1\r\n\r\n# Outrigger\r\noutrigger_degraded:0\r\n"), "{told}");
    let long = bulk(&[b'x'; 200_000]);
    for said in [b"-NOPERM no\r\n".as_slice(), b"$-1\r\n", b"*0\r\n", &long] {
        client.send(&words("INFO"));
        line.expect("INFO");
        line.say(said);
        assert_eq!(client.reply(), said);
    }
    client.send(&words("GET k"));
    line.expect("GET k");
    line.say(b"$-1\r\n");
    assert_eq!(client.reply(), b"$-1\r\n", "nothing is left over");
}

/// A verbatim text of RESP3 without the kind that comes first.
fn text(client: &mut Client, request: &str) -> String {
    let text = client.frame(request).as_text();
    text.strip_prefix("txt:").unwrap_or(&text).to_owned()
}

fn has_title(reply: &[u8]) -> bool {
    reply.windows(TITLE.len()).any(|bytes| bytes == TITLE.as_bytes())
}

fn assert_section(section: &str, degraded: &str, breaker: &str) {
    for (name, value) in [("degraded", degraded), ("breaker", breaker), ("version", env!("CARGO_PKG_VERSION"))] {
        assert!(section.contains(&format!("outrigger_{name}:{value}\r\n")), "{name}: {section}");
    }
    assert!(section.contains("outrigger_pool_size:") && section.contains("outrigger_breaker_seconds:"), "{section}");
    let why = section.lines().find_map(|line| line.strip_prefix("outrigger_obstacle:"));
    assert_eq!(why.is_some_and(|why| why.starts_with("the breaker is open: ")), breaker == "open", "{section}");
    assert!(section.lines().all(|line| line.starts_with("outrigger_") && line.contains(':')), "{section}");
}
