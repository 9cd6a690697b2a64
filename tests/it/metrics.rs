//! What is counted, against what really happened: every request once, with what became of it.

use crate::support::http::{self, value};
use crate::support::{Client, Kind, Noise, PATIENCE, Proxy, Server, Spread, wait_until, words};
use std::time::Duration;

/// The sum of all series of that name that have these labels.
fn sum(text: &str, name: &str, labels: &[&str]) -> f64 {
    let of = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    };
    text.lines()
        .filter(of)
        .map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number"))
        .sum()
}

fn scrape(proxy: &Proxy) -> String {
    http::get(&proxy.http(), "/metrics").body
}

fn commands(text: &str, command: &str) -> Vec<(String, f64)> {
    let prefix = format!("outrigger_commands_total{{command=\"{command}\",outcome=\"");
    let of = |line: &str| {
        let (outcome, value) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
        Some((outcome.to_owned(), value.parse().expect("a number")))
    };
    text.lines().filter_map(of).collect()
}

fn outcomes(text: &str, command: &str) -> String {
    commands(text, command).iter().map(|(outcome, count)| format!("{outcome}={count}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn each_request_is_counted_once_with_what_became_of_it() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |_| {});
    let mut client = proxy.connect();
    for text in
        ["SET a 1", "GET a", "GET b", "MGET a b c", "HGET h f", "LPUSH a x", "NOSUCH", "PING", "CLIENT SETNAME app"]
    {
        client.ask(text);
    }
    client.hello3();
    for text in ["GET b", "MULTI", "SET a 2", "INCR a", "EXEC", "WATCH a", "MULTI", "GET a", "EXEC", "BLPOP l 0.05"] {
        client.ask(text);
    }
    // What was answered is counted; a client hears it a moment later.
    let text = scrape(&proxy);
    let expected = [
        ("set", "ok=1 local=1"),
        ("get", "ok=3 local=1"),
        ("mget", "ok=1"),
        ("hget", "ok=1"),
        ("lpush", "error_reply=1"),
        ("unknown", "error_reply=1"),
        ("ping", "local=1"),
        ("client", "local=1"),
        ("hello", "local=1"),
        ("multi", "local=2"),
        ("incr", "local=1"),
        ("exec", "ok=2"),
        ("watch", "ok=1"),
        ("blpop", "ok=1"),
    ];
    for (command, expected) in expected {
        let mut found: Vec<_> = outcomes(&text, command).split(' ').map(str::to_owned).collect();
        let mut wanted: Vec<_> = expected.split(' ').map(str::to_owned).collect();
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted, "{command} in {text}");
    }
    let known = ["hit", "miss", "degraded"]
        .map(|result| sum(&text, "outrigger_read_results_total", &[&format!("\"{result}\"")]));
    assert_eq!(known, [2.0, 5.0, 0.0], "GET a and one of MGET; GET b twice, two of MGET, HGET: {text}");
    assert_eq!(value(&text, "outrigger_upstream_error_replies_total{code=\"WRONGTYPE\"}"), Some(1.0));
    let counted = sum(&text, "outrigger_commands_total", &[]);
    assert_eq!(sum(&text, "outrigger_command_duration_seconds_count", &[]), counted, "each has a duration: {text}");
    for cause in ["watch", "blocking", "unknown"] {
        assert_eq!(value(&text, &format!("outrigger_leases_total{{cause=\"{cause}\"}}")), Some(1.0), "{cause}: {text}");
    }
    for name in ["downstream_bytes_total", "upstream_bytes_total"] {
        for direction in ["rx", "tx"] {
            let bytes = value(&text, &format!("outrigger_{name}{{direction=\"{direction}\"}}"));
            assert!(bytes.is_some_and(|bytes| bytes > 100.0), "{name} {direction}: {bytes:?}");
        }
    }
}

#[test]
fn what_redis_did_not_answer_is_counted_as_such() {
    let mut server = Server::start(Kind::Valkey91);
    let proxy = Proxy::patient(&server, |flags| {
        flags.args(["--connect-timeout", "1s"]);
    });
    let mut client = proxy.connect();
    client.ask("SET a 1");
    server.kill();
    wait_until("the loss is noticed", PATIENCE, || client.ask("INCR c").starts_with(b"-UNAVAILABLE"));
    let before = scrape(&proxy);
    assert_eq!(client.ask("GET a"), b"$-1\r\n");
    assert!(client.ask("SET a 2").starts_with(b"-UNAVAILABLE"));
    let after = scrape(&proxy);
    let rose = |series: &str| value(&after, series).unwrap_or_default() - value(&before, series).unwrap_or_default();
    assert_eq!(rose("outrigger_commands_total{command=\"get\",outcome=\"degraded\"}"), 1.0);
    assert_eq!(rose("outrigger_commands_total{command=\"set\",outcome=\"unavailable\"}"), 1.0);
    assert_eq!(rose("outrigger_degraded_replies_total{kind=\"empty\"}"), 1.0);
    assert_eq!(rose("outrigger_degraded_replies_total{kind=\"error\"}"), 1.0);
    assert_eq!(rose("outrigger_read_results_total{result=\"degraded\"}"), 1.0);
    assert!(sum(&after, "outrigger_upstream_disconnects_total", &[]) >= 1.0, "{after}");
    wait_until("the breaker opens", PATIENCE, || {
        value(&scrape(&proxy), "outrigger_circuit_breaker_state{state=\"open\"}") == Some(1.0)
    });
    server.start_again();
    wait_until("the breaker closes", PATIENCE, || {
        value(&scrape(&proxy), "outrigger_circuit_breaker_state{state=\"closed\"}") == Some(1.0)
    });
    let text = scrape(&proxy);
    assert!(sum(&text, "outrigger_circuit_breaker_trips_total", &[]) >= 1.0, "{text}");
    assert!(sum(&text, "outrigger_circuit_breaker_open_seconds_total", &[]) > 0.0, "{text}");
    assert!(sum(&text, "outrigger_upstream_connects_total", &["\"refused\""]) >= 1.0, "{text}");
    assert_eq!(sum(&text, "outrigger_circuit_breaker_state", &[]), 1.0, "one state at a time: {text}");
}

#[test]
fn a_slow_request_shows_where_its_time_went() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |flags| {
        flags.args(["--slowlog-threshold", "50ms"]);
    });
    let mut client = proxy.connect();
    client.ask("CLIENT SETNAME reports");
    client.ask("SET a 1");
    // Runs for a tenth of a second, by the server's own clock.
    client.call(&[
        b"EVAL",
        b"local function now() local t = redis.call('time') return t[1] * 1000000 + t[2] end \
          local start = now() while now() - start < 100000 do end return redis.call('mget', KEYS[1], KEYS[2])",
        b"2",
        b"a",
        b"b",
    ]);
    // What waits for others is not slow.
    client.ask("BLPOP l 0.2");
    let text = scrape(&proxy);
    assert_eq!(value(&text, "outrigger_slow_requests_total"), Some(1.0), "{text}");
    let long = sum(&text, "outrigger_upstream_request_duration_seconds_sum", &[]);
    assert!(long >= 0.1, "Redis' part is seen as such: {long}");
    let waited = sum(&text, "outrigger_request_queue_duration_seconds_sum", &[]);
    assert!(waited < long, "{waited} before and {long} after it was written");
}

#[test]
fn who_leaves_is_counted_with_the_reason() {
    let server = Server::start(Kind::Redis62);
    let proxy = Proxy::patient(&server, |flags| {
        flags.args(["--max-clients", "3"]);
    });
    let departed = |reason: &str| {
        let series = format!("outrigger_downstream_disconnects_total{{reason=\"{reason}\"}}");
        value(&scrape(&proxy), &series).expect("all reasons are there from the beginning")
    };
    let mut stays = proxy.connect();
    stays.ask("PING");
    drop(proxy.connect());
    wait_until("it has left", PATIENCE, || departed("client") == 1.0);
    let mut rude = proxy.connect();
    rude.send(b"*1\r\n$x\r\n");
    drop(rude);
    wait_until("it was shown the door", PATIENCE, || departed("protocol") == 1.0);
    for _ in 0..20 {
        let mut browser = proxy.connect();
        browser.send(b"POST / HTTP/1.1\r\n");
        assert!(browser.rest_however_closed().is_ok_and(|rest| rest.is_empty()));
    }
    wait_until("they were shown the door", PATIENCE, || departed("cross_protocol") == 20.0);
    wait_until("the log tells of them", PATIENCE, || proxy.logged("speak HTTP") > 0);
    assert!(proxy.logged("speak HTTP") <= 3, "not of each");
    let mut victim = proxy.connect();
    let id = String::from_utf8(victim.ask("CLIENT ID")).expect("text");
    stays.ask(&format!("CLIENT KILL ID {}", id.trim_start_matches(':').trim()));
    wait_until("it was killed", PATIENCE, || departed("killed") == 1.0);
    wait_until("only one is left", PATIENCE, || {
        proxy.metric("outrigger_downstream_connections{listener=\"ordinary\"}") == Some(1.0)
    });
    let others: Vec<Client> = (0..3).map(|_| proxy.connect()).collect();
    wait_until("one is turned away", PATIENCE, || {
        sum(&scrape(&proxy), "outrigger_downstream_connections_rejected_total", &["max_clients"]) == 1.0
    });
    drop(others);
}

/// A scrape costs little even with many clients, and does not cost them anything they would notice.
#[test]
fn alone_a_scrape_is_quick() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--max-clients", "10000"]);
    });
    let mut clients: Vec<Client> = (0..1_000).map(|_| proxy.connect()).collect();
    clients.iter_mut().for_each(|client| drop(client.ask("GET a")));
    let noise = Noise::listen();
    let times: Spread = (0..100)
        .map(|_| {
            let start = std::time::Instant::now();
            scrape(&proxy);
            start.elapsed()
        })
        .collect();
    let noise = noise.heard();
    let limit = Duration::from_millis(10) + noise.p99();
    assert!(times.p99() <= limit, "scrapes: {}; an echo: {}", times.shown(), noise.shown());
}

#[test]
fn what_nobody_waits_for_any_more_is_counted_all_the_same() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |_| {});
    let mut stays = proxy.connect();
    stays.ask("SET k v");
    // Longer than it takes five clients to come and go.
    server.connect().ask("CLIENT PAUSE 2000 ALL");
    for _ in 0..5 {
        let mut leaves = proxy.connect();
        leaves.send(&words("STRLEN k"));
        leaves.wait_until_read();
        leaves.reset();
    }
    wait_until("they have left", PATIENCE, || {
        value(&scrape(&proxy), "outrigger_downstream_disconnects_total{reason=\"client\"}") == Some(5.0)
    });
    wait_until("they are answered", PATIENCE, || outcomes(&scrape(&proxy), "strlen") == "ok=5");
    assert_eq!(value(&scrape(&proxy), "outrigger_tombstones_total"), Some(5.0));
}

#[test]
fn what_is_published_counts_as_bytes_of_redis() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |_| {});
    let mut subscriber = proxy.connect();
    subscriber.ask("SUBSCRIBE news");
    server.connect().call(&[b"PUBLISH", b"news", &[b'x'; 1_000_000]]);
    assert!(subscriber.reply().len() > 1_000_000);
    // Counted ten times a second.
    wait_until("its bytes are counted", PATIENCE, || {
        proxy.metric("outrigger_upstream_bytes_total{direction=\"rx\"}").is_some_and(|received| received > 1e6)
    });
}

#[test]
fn those_turned_away_are_not_accepted() {
    let server = Server::start(Kind::Redis70);
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let password = folder.path().join("password");
    std::fs::write(&password, "secret").expect("it can be written");
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--max-clients", "2"]).arg("--password-file").arg(&password);
    });
    let mut clients = [proxy.connect(), proxy.connect()];
    assert!(clients[0].ask("AUTH wrong").starts_with(b"-WRONGPASS"));
    assert_eq!(clients[1].ask("AUTH secret"), b"+OK\r\n");
    let mut third = proxy.connect();
    assert!(third.rest().expect("it is told").starts_with(b"-ERR max number of clients"));
    let text = scrape(&proxy);
    assert_eq!(value(&text, "outrigger_downstream_connections_total{listener=\"ordinary\"}"), Some(2.0));
    for reason in ["max_clients", "auth"] {
        let series = format!("outrigger_downstream_connections_rejected_total{{reason=\"{reason}\"}}");
        assert_eq!(value(&text, &series), Some(1.0), "{reason}");
    }
}

#[test]
fn a_connection_that_does_not_answer_a_client_ends_for_that_reason() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--request-timeout", "1s", "--workers", "1"]);
    });
    let (mut sharing, mut watching) = (proxy.connect(), proxy.connect());
    assert_eq!(watching.ask("WATCH k"), b"+OK\r\n");
    assert_eq!(sharing.ask("SET k v"), b"+OK\r\n");
    server.freeze();
    sharing.send(&words("SET k v"));
    watching.send(&words("GET k"));
    assert!(sharing.reply().starts_with(b"-INDETERMINATE"));
    watching.reply();
    let of = |reason: &str| proxy.metric(&format!("outrigger_upstream_disconnects_total{{reason=\"{reason}\"}}"));
    wait_until("both connections are given up", PATIENCE, || of("timeout") == Some(2.0));
    assert_eq!(of("health"), Some(0.0));
    server.thaw();
}

/// Nobody else asks, so that it is the probe's PING that is not answered.
#[test]
fn a_connection_that_only_a_health_check_finds_dead_ends_for_that_reason() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--request-timeout", "1s", "--workers", "1"]);
    });
    proxy.connect().ask("GET k");
    server.freeze();
    let of = |reason: &str| proxy.metric(&format!("outrigger_upstream_disconnects_total{{reason=\"{reason}\"}}"));
    wait_until("the connection is given up", PATIENCE, || {
        http::get(&proxy.http(), "/health");
        of("health") == Some(1.0)
    });
    assert_eq!(of("timeout"), Some(0.0));
    server.thaw();
}

#[test]
fn what_missed_its_deadline_is_in_the_slow_log() {
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--request-timeout", "1s", "--slowlog-threshold", "500ms"]);
    });
    let mut client = proxy.connect();
    client.ask("SET k v");
    server.freeze();
    assert!(client.ask("SET k w").starts_with(b"-INDETERMINATE"));
    let status = http::get(&proxy.http(), "/status.json").json();
    server.thaw();
    let slow = &status["slow"][0];
    assert_eq!((&slow["command"], &slow["keys"]), (&"set".into(), &1.into()), "{status}");
    assert!(slow["upstream"].as_f64().is_some_and(|upstream| upstream >= 0.9), "{slow}");
}

#[test]
fn the_slow_log_knows_the_sizes_of_what_streamed() {
    const LARGE: usize = 5_000_000;
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |flags| {
        flags.args(["--slowlog-threshold", "1us"]);
    });
    let mut client = proxy.connect();
    client.call(&[b"SET", b"k", &[b'x'; LARGE]]);
    client.ask("GET k");
    // Behind it, so that both are in the log by then.
    client.ask("PING");
    let status = http::get(&proxy.http(), "/status.json").json();
    let slow = |command: &str| {
        let all = status["slow"].as_array().expect("a list");
        let one = all.iter().find(|one| one["command"] == command).unwrap_or_else(|| panic!("{command}: {status}"));
        (one["request_bytes"].as_u64().expect("a number"), one["reply_bytes"].as_u64().expect("a number"))
    };
    let (request, reply) = slow("get");
    assert_eq!((request, reply), (20, LARGE as u64 + 12));
    let (request, reply) = slow("set");
    assert_eq!((request, reply), (LARGE as u64 + 32, 5));
}
