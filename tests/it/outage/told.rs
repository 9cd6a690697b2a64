//! What the log says of an outage: while it lasts, and when it is over.

use crate::support::{Kind, PATIENCE, Proxy, Server, is_direct, wait_until};
use std::time::Duration;

/// It is told every half minute.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn an_outage_is_told_while_it_lasts_and_when_it_is_over() {
    if is_direct() {
        return;
    }
    let mut server = Server::start(Kind::Redis70);
    let proxy = Proxy::before(&server);
    let mut client = proxy.connect();
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    server.kill();
    wait_until("it is noticed", PATIENCE, || client.ask("GET k") == b"$-1\r\n");
    for _ in 0..10 {
        assert!(client.ask("SET k w").starts_with(b"-UNAVAILABLE"));
    }
    wait_until("it is told", TOLD_WITHIN, || proxy.logged("still without Redis") == 1);
    let line = proxy.line("still without Redis");
    let unserved = line["unserved"].as_u64();
    assert!(unserved.is_some_and(|unserved| unserved >= 11), "{line}");
    assert!(line["seconds"].as_u64().is_some_and(|seconds| seconds >= 30), "{line}");
    assert!(line["last_dial"].as_str().is_some_and(|error| error.contains("Connection refused")), "{line}");
    assert_eq!((&line["level"], line["why"].is_string()), (&"WARN".into(), true), "{line}");

    server.start_again();
    wait_until("it is over", PATIENCE, || proxy.logged("Redis serves again") == 1);
    let line = proxy.line("Redis serves again");
    assert!(line["unserved"].as_u64() >= unserved && line["seconds"].as_u64() >= Some(30), "{line}");
    assert_eq!(line["level"], "INFO");
    for line in [proxy.line("cannot get an upstream connection"), proxy.line("\"state\":\"open\"")] {
        assert!(line["next_dial_ms"].as_u64().is_some_and(|pause| pause < 2_000), "{line}");
    }
    let closed = proxy.line("\"state\":\"closed\",\"from\":\"half_open\"");
    assert_eq!(closed["reason"], "the requests that were tried were answered");
}

#[test]
fn after_a_refused_password_the_next_dial_is_told() {
    if is_direct() {
        return;
    }
    let server = Server::start_with(Kind::Redis70, &["--requirepass", "right"]);
    let proxy = Proxy::toward(&format!("default:wrong@{}", server.address()), |_| {});
    wait_until("it is refused", PATIENCE, || proxy.logged("cannot get an upstream connection") == 1);
    let line = proxy.line("cannot get an upstream connection");
    assert!(line["next_dial_ms"].as_u64().is_some_and(|pause| pause > 20_000), "{line}");
    wait_until("the start goes on", PATIENCE, || proxy.logged("not up yet") == 1);
    let line = proxy.line("not up yet");
    assert!(line["problem"].as_str().is_some_and(|problem| problem.contains("was not reached")), "{line}");
}
