//! What the log says of an outage: while it lasts, and when it is over.

use crate::support::{Kind, PATIENCE, Proxy, Server, http, is_direct, wait_until};
use std::time::{Duration, Instant};

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

/// Nobody asks it anything but the health check, and no connection is lost for a while.
#[test]
fn a_redis_that_falls_silent_is_told_when_health_fails() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::before(&server);
    let healthy = || http::get(&proxy.http(), "/health").status == 200;
    wait_until("it is well", PATIENCE, healthy);
    server.freeze();
    let start = Instant::now();
    wait_until("that is noticed", PATIENCE, || !healthy());
    wait_until("that is told", PATIENCE, || proxy.logged("Redis is silent") == 1);
    let line = proxy.line("Redis is silent");
    assert_eq!(line["why"], "Redis has not answered PING in time", "{line}");
    // Connections are given up after twice the 5 s of a request.
    assert!(line["next_dial_ms"].as_u64().is_some_and(|pause| (1..10_000).contains(&pause)), "{line}");
    wait_until("there is a dial", PATIENCE, || proxy.logged("cannot get an upstream connection") == 1);
    let line = proxy.line("cannot get an upstream connection");
    assert!(line["next_dial_ms"].is_u64(), "{line}");
    server.thaw();
    wait_until("it is over", PATIENCE, || {
        assert!(healthy() || start.elapsed() < PATIENCE, "it stays away");
        proxy.logged("Redis serves again") == 1
    });
    let lasted = proxy.line("Redis serves again")["seconds"].as_u64().expect("a number");
    // From the PING on that was not answered; it ends a second before it is told.
    assert!((1..=start.elapsed().as_secs()).contains(&lasted), "{lasted} s of {:?}", start.elapsed());
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
