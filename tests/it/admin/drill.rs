//! An outage on purpose: it begins, clients notice, it ends by itself or when it is told to. And the end of all.

use super::{Setting, TOKEN};
use crate::support::{Client, Kind, PATIENCE, Proxy, Server, http, wait_until, words};
use rustix::process::Signal;
use std::time::{Duration, Instant};

#[test]
fn a_drill_begins_is_noticed_and_ends_by_itself() {
    let setting = Setting::new(|_| {});
    let mut client = setting.client();
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    let start = Instant::now();
    let answer = setting.post_as_operator("/breaker/isolate?for=2s");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains("2s"), "{answer:?}");

    wait_until("reads are answered as in an outage", PATIENCE, || client.ask("GET k") == b"$-1\r\n");
    assert!(client.ask("SET k w").starts_with(b"-UNAVAILABLE"));
    let health = setting.get("/health");
    assert_eq!((health.status, health.json()["reason"].as_str()), (503, Some("isolated by the operator")));
    let detailed = setting.get_as_operator("/health/detailed").json();
    assert_eq!((&detailed["state"], &detailed["redis"]["breaker"]["state"]), (&"isolated".into(), &"isolated".into()));
    assert!(detailed["drill_ends_in_seconds"].as_f64().is_some_and(|left| left <= 2.0), "{detailed}");
    assert!(setting.get("/").body.contains(">isolated</h1>"));
    for path in ["/livez", "/readyz", "/startupz"] {
        assert_eq!(setting.status(path), 200, "{path}");
    }

    wait_until("it is over", PATIENCE, || client.ask("GET k") == b"$1\r\nv\r\n");
    assert!(start.elapsed() >= Duration::from_secs(2), "it ended too soon");
    wait_until("health is back", PATIENCE, || setting.status("/health") == 200);
    wait_until("writes are back", PATIENCE, || client.ask("SET k w") == b"+OK\r\n");
    assert_eq!(setting.get_as_operator("/health/detailed").json()["drill_ends_in_seconds"], serde_json::Value::Null);
    for line in
        ["drill: isolated from Redis", "drill: its time is up", "the isolation is over, and Redis is looked for"]
    {
        assert_eq!(setting.proxy.logged(line), 1, "{line}");
    }
    assert_eq!(setting.proxy.logged(TOKEN), 0);
    wait_until("all is as usual", PATIENCE, || setting.proxy.logged("the requests that were tried were answered") == 1);
    let status = setting.get("/status.json").json();
    let steps = status["timeline"].as_array().expect("a list").iter();
    let whys: Vec<_> = steps.map(|step| step["why"].as_str().expect("a text")).collect();
    assert_eq!(
        whys,
        [
            "the first connection was made",
            "the operator's choice",
            "the isolation is over, and Redis is looked for",
            "Redis can be reached: a few requests are tried",
            "the requests that were tried were answered"
        ]
    );
}

/// Whoever has a connection for itself, or is subscribed, would not notice; and nothing is lost with it.
#[test]
fn it_is_an_outage_to_those_who_have_connections_of_their_own() {
    let setting = Setting::new(|_| {});
    let mut direct = setting.server.connect();
    let (mut watcher, mut popper, mut subscriber) = (setting.client(), setting.client(), setting.client());
    assert_eq!(watcher.ask("WATCH k"), b"+OK\r\n");
    popper.send(&words("BLPOP jobs 0"));
    wait_until("it blocks", PATIENCE, || setting.server.info_number("clients", "blocked_clients") == 1);
    subscriber.ask("SUBSCRIBE news");
    let dials = || setting.metric("outrigger_upstream_connects_total{result=\"ok\"}");
    let before = dials();
    assert_eq!(setting.post_as_operator("/breaker/isolate?for=1h").status, 200);

    let released = popper.reply();
    assert!(released.starts_with(b"-UNAVAILABLE"), "{}", released.escape_ascii());
    assert_eq!(subscriber.rest().expect("it is closed in order"), b"", "as if Redis had gone");
    wait_until("nobody blocks", PATIENCE, || setting.server.info_number("clients", "blocked_clients") == 0);
    direct.ask("RPUSH jobs one");
    direct.ask("SET k of-redis");
    wait_until("reads are answered as in an outage", PATIENCE, || watcher.ask("GET k") == b"$-1\r\n");
    assert_eq!(watcher.ask("MULTI"), b"+OK\r\n");
    assert_eq!(watcher.ask("GET k"), b"+QUEUED\r\n");
    let exec = watcher.ask("EXEC");
    assert!(exec.starts_with(b"-EXECABORT") || exec.starts_with(b"-UNAVAILABLE"), "{}", exec.escape_ascii());
    assert!(popper.ask("BLPOP jobs 0").starts_with(b"-UNAVAILABLE"));
    assert_eq!(setting.metric("outrigger_leases"), 0);
    assert_eq!(direct.ask("LLEN jobs"), b":1\r\n", "no element was taken");
    assert_eq!(dials(), before, "Redis is left alone");

    assert_eq!(setting.post_as_operator("/breaker/release").status, 200);
    wait_until("it is over", PATIENCE, || watcher.ask("GET k") == b"$8\r\nof-redis\r\n");
    wait_until("leases are given", PATIENCE, || popper.ask("BLPOP jobs 1").starts_with(b"*2\r\n"));
}

/// It may be answered yet, but nobody waits for that for longer than a second.
#[test]
fn what_is_in_flight_on_a_lease_is_answered_or_soon_cut_off() {
    let setting = Setting::new(|flags| {
        flags.args(["--request-timeout", "60s", "--slow-request-timeout", "60s"]);
    });
    let mut answered = setting.client();
    assert_eq!(answered.pipeline(&["WATCH k", "MULTI", "INCR n"].map(words)).len(), 3);
    setting.server.freeze();
    answered.send(&words("EXEC"));
    assert_eq!(setting.post_as_operator("/breaker/isolate").status, 200);
    setting.server.thaw();
    assert_eq!(answered.reply(), b"*1\r\n:1\r\n", "it was sent before");

    assert_eq!(setting.post_as_operator("/breaker/release").status, 200);
    let mut cut_off = setting.client();
    wait_until("leases are given", PATIENCE, || cut_off.ask("WATCH k") == b"+OK\r\n");
    setting.server.freeze();
    cut_off.send(&words("INCR n"));
    assert_eq!(setting.post_as_operator("/breaker/isolate").status, 200);
    let told = cut_off.reply();
    assert!(told.starts_with(b"-INDETERMINATE"), "{}", told.escape_ascii());
    assert_eq!(cut_off.ask("GET n"), b"$-1\r\n", "it goes on without Redis");
    setting.server.thaw();
}

/// Not even the PINGs that keep connections are sent, nor is one closed for being idle.
#[test]
fn redis_hears_nothing_of_us_during_a_drill() {
    let setting = Setting::new(|_| {});
    let (mut direct, mut watcher, mut subscriber) = (setting.server.connect(), setting.client(), setting.client());
    assert_eq!(watcher.pipeline(&["SET k v", "WATCH k", "UNWATCH"].map(words)).len(), 3);
    subscriber.ask("SUBSCRIBE news");
    assert_eq!(setting.post_as_operator("/breaker/isolate?for=1h").status, 200);
    assert_eq!(subscriber.rest().expect("it is closed in order"), b"");
    let asked = |direct: &mut Client| {
        let told = direct.frame("INFO commandstats").as_text();
        let lines = told.lines().filter(|line| line.starts_with("cmdstat_") && !line.starts_with("cmdstat_info"));
        let calls: Vec<_> = lines.filter_map(|line| line.split(',').next()).map(str::to_owned).collect();
        (calls, setting.server.info_number("clients", "connected_clients"))
    };
    let before = asked(&mut direct);
    // PINGs are due every ten seconds, give or take one.
    let start = Instant::now();
    wait_until("that time has passed", PATIENCE, || start.elapsed() > Duration::from_secs(12));
    assert_eq!(asked(&mut direct), before);
}

#[test]
fn it_is_an_outage_in_session_mode_too() {
    let setting = Setting::new(|flags| {
        flags.args(["--mode", "session", "--max-clients", "20", "--pool-size", "40"]);
    });
    let (mut client, mut popper) = (setting.client(), setting.client());
    assert_eq!(client.ask("SET k v"), b"+OK\r\n");
    popper.send(&words("BLPOP jobs 0"));
    wait_until("it blocks", PATIENCE, || setting.server.info_number("clients", "blocked_clients") == 1);
    assert_eq!(setting.post_as_operator("/breaker/isolate").status, 200);
    wait_until("reads are answered as in an outage", PATIENCE, || client.ask("GET k") == b"$-1\r\n");
    assert!(client.ask("INCR n").starts_with(b"-UNAVAILABLE"));
    let released = popper.reply();
    assert!(released.starts_with(b"-"), "{}", released.escape_ascii());
    assert!(popper.ask("BLPOP jobs 0").starts_with(b"-UNAVAILABLE"));
    wait_until("nobody blocks", PATIENCE, || setting.server.info_number("clients", "blocked_clients") == 0);
    assert_eq!(setting.post_as_operator("/breaker/release").status, 200);
    wait_until("it is over", PATIENCE, || client.ask("GET k") == b"$1\r\nv\r\n");
}

#[test]
fn it_ends_when_it_is_told_to() {
    let setting = Setting::new(|_| {});
    let mut client = setting.client();
    client.ask("SET k v");
    assert_eq!(setting.post_as_operator("/breaker/release").status, 409, "there is none");
    assert_eq!(setting.post_as_operator("/breaker/isolate").status, 200);
    wait_until("it has begun", PATIENCE, || client.ask("GET k") == b"$-1\r\n");
    assert_eq!(setting.post_as_operator("/breaker/release").status, 200);
    wait_until("it is over", PATIENCE, || client.ask("GET k") == b"$1\r\nv\r\n");
    assert_eq!(setting.proxy.logged("drill: ended by the operator"), 1);
}

#[test]
fn another_one_sets_another_end() {
    let setting = Setting::new(|_| {});
    let mut client = setting.client();
    client.ask("SET k v");
    assert_eq!(setting.post_as_operator("/breaker/isolate?for=1s").status, 200);
    assert_eq!(setting.post_as_operator("/breaker/isolate?for=1h").status, 200);
    let left = || setting.get_as_operator("/health/detailed").json()["drill_ends_in_seconds"].as_f64();
    let start = Instant::now();
    wait_until("the first end has passed", PATIENCE, || {
        assert!(left().is_some_and(|left| left > 3500.0), "the second end holds");
        start.elapsed() > Duration::from_millis(1500)
    });
    assert_eq!(setting.post_as_operator("/breaker/isolate?for=500ms").status, 200);
    wait_until("it is over", PATIENCE, || client.ask("GET k") == b"$1\r\nv\r\n");
    assert_eq!(left(), None);
}

#[test]
fn lengths_that_make_no_sense_are_refused() {
    let setting = Setting::new(|_| {});
    for length in ["", "0s", "30", "-3s", "2h", "61m", "soon", "99999999999999999999s"] {
        let answer = setting.post_as_operator(&format!("/breaker/isolate?for={length}"));
        assert_eq!(answer.status, 400, "{length}: {answer:?}");
    }
    for query in ["FOR=3s", "foo=3s", "for=3s&foo=1", "for=3s&for=4s", "3s"] {
        let answer = setting.post_as_operator(&format!("/breaker/isolate?{query}"));
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        assert!(answer.body.contains("/breaker/isolate?for=30s"), "{answer:?}");
    }
    assert_eq!(setting.post_as_operator("/breaker/release?for=3s").status, 400);
    assert_eq!(setting.status("/health"), 200);
}

#[test]
fn one_that_was_isolated_at_start_is_released_only_when_told_to() {
    let setting = Setting::new(|flags| {
        flags.args(["--breaker", "isolated"]);
    });
    assert_eq!(setting.post_as_operator("/breaker/isolate?for=1s").status, 409);
    assert_eq!(setting.get("/health").json()["reason"], "isolated by the operator");
    assert_eq!(setting.post_as_operator("/breaker/release").status, 200);
    wait_until("Redis is asked", PATIENCE, || setting.status("/health") == 200);
}

#[test]
fn a_release_while_redis_is_gone_leads_into_the_outage_and_out_of_it() {
    let mut setting = Setting::new(|_| {});
    let mut client = setting.client();
    client.ask("SET k v");
    assert_eq!(setting.post_as_operator("/breaker/isolate").status, 200);
    setting.server.kill();
    assert_eq!(setting.post_as_operator("/breaker/release").status, 200);
    wait_until("the breaker is open", PATIENCE, || setting.get("/health").body.contains("the breaker is open"));
    setting.server.start_again();
    wait_until("Redis is back", PATIENCE, || setting.status("/health") == 200);
    wait_until("writes are back", PATIENCE, || client.ask("SET k w") == b"+OK\r\n");
}

#[test]
fn quitquitquit_ends_it_in_order() {
    let mut setting = Setting::new(|_| {});
    assert_eq!(http::request(&setting.http, "POST", "/quitquitquit", &[]).status, 401, "it is not switched on");
    assert_eq!(setting.post_as_operator("/quitquitquit").status, 200);
    assert_eq!(setting.proxy.ended().code(), Some(0));
}

#[test]
fn whoever_is_on_this_machine_may_end_it_where_that_is_switched_on() {
    let server = Server::start(Kind::Redis70);
    let mut proxy = Proxy::start(&server, |flags| {
        flags.arg("--quitquitquit");
    });
    let http = proxy.http();
    for strange in [
        "Origin: http://evil.example",
        "Sec-Fetch-Site: cross-site",
        "X-Forwarded-For: 192.0.2.1",
        "Forwarded: for=192.0.2.1",
        "Via: 1.1 somebody",
    ] {
        let answer = http::request(&http, "POST", "/quitquitquit", &[strange]);
        assert_eq!(answer.status, 404, "for a page in a browser, or from elsewhere, it is not there: {strange}");
    }
    assert_eq!(http::get(&http, "/quitquitquit").status, 405);
    assert_eq!(http::request(&http, "POST", "/health/detailed", &[]).status, 404);
    proxy.assert_running();
    assert_eq!(http::request(&http, "POST", "/quitquitquit", &[]).status, 200);
    assert_eq!(proxy.ended().code(), Some(0));
}

/// An orchestrator ends a pod's sidecar by a signal when its main container is done, which is just when that has asked too.
#[test]
fn a_signal_behind_quitquitquit_is_no_second_one() {
    let server = Server::start(Kind::Redis70);
    let mut proxy = Proxy::start(&server, |flags| {
        flags.args(["--quitquitquit", "--min-sigterm-delay", "1s"]);
    });
    let mut client = proxy.connect();
    assert_eq!(http::request(&proxy.http(), "POST", "/quitquitquit", &[]).status, 200);
    wait_until("it drains", PATIENCE, || proxy.logged("\"asked_by\":\"/quitquitquit\"") == 1);
    proxy.tell(Signal::TERM);
    assert_eq!(client.ask("SET k v"), b"+OK\r\n", "who is here is served still");
    drop(client);
    assert_eq!(proxy.ended().code(), Some(0));
}
