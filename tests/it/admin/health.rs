//! `/health` follows Redis, and costs it next to nothing.

use super::Setting;
use crate::support::{Figures, PATIENCE, alone, http, wait_until, words};
use std::thread;
use std::time::{Duration, Instant};

/// How soon it is to be seen that Redis has gone or come back; and what asking for it takes.
const SEEN_WITHIN: Duration = Duration::from_secs(3);

/// Waits until `/health` is of this status, and how long that took.
fn time_until(setting: &Setting, status: u16) -> Duration {
    let start = Instant::now();
    wait_until("/health follows", PATIENCE, || setting.status("/health") == status);
    start.elapsed()
}

#[test]
fn alone_it_follows_a_server_that_is_killed_and_comes_back() {
    let _alone = alone();
    let mut setting = Setting::new(|_| {});
    let mut figures = Figures::of("health, kill and restart");
    assert_eq!(setting.status("/health"), 200);
    for round in 0..3 {
        setting.server.kill();
        let gone = time_until(&setting, 503);
        let answer = setting.get("/health");
        assert_eq!(answer.json()["status"], "fail");
        assert!(answer.json()["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{answer:?}");
        assert!(gone < SEEN_WITHIN, "it took {gone:?}");
        setting.server.start_again();
        let back = time_until(&setting, 200);
        assert!(back < SEEN_WITHIN, "it took {back:?}");
        figures.add(&format!("gone_{round}"), gone.as_millis());
        figures.add(&format!("back_{round}"), back.as_millis());
    }
}

#[test]
fn alone_it_follows_a_server_that_hangs_and_goes_on() {
    let _alone = alone();
    let setting = Setting::new(|_| {});
    let mut figures = Figures::of("health, freeze and thaw");
    // Once for so short that nobody else notices, and once until the breaker is open.
    for (round, frozen_for) in [Duration::ZERO, Duration::from_secs(8)].into_iter().enumerate() {
        assert_eq!(setting.status("/health"), 200);
        setting.server.freeze();
        let start = Instant::now();
        let gone = time_until(&setting, 503);
        assert!(gone < SEEN_WITHIN, "it took {gone:?}");
        wait_until("it has been frozen for long enough", PATIENCE, || {
            assert_eq!(setting.status("/health"), 503, "while it is frozen");
            start.elapsed() >= frozen_for
        });
        setting.server.thaw();
        let back = time_until(&setting, 200);
        assert!(back < SEEN_WITHIN, "it took {back:?}");
        figures.add(&format!("gone_{round}"), gone.as_millis());
        figures.add(&format!("back_{round}"), back.as_millis());
    }
}

#[test]
fn the_reason_is_said() {
    let mut setting = Setting::new(|_| {});
    assert_eq!(setting.status("/health"), 200);
    setting.server.kill();
    wait_until("the breaker is open", PATIENCE, || {
        setting.client().ask("GET k");
        setting.get("/health").body.contains("the breaker is open")
    });
    let detailed = setting.get_as_operator("/health/detailed");
    assert_eq!(detailed.status, 503);
    let detailed = detailed.json();
    assert_eq!((&detailed["state"], &detailed["redis"]["breaker"]["state"]), (&"degraded".into(), &"open".into()));
    assert!(detailed["redis"]["breaker"]["reason"].is_string(), "{detailed}");
    assert_eq!(detailed["redis"]["breaker"]["trips"], 1);
    assert!(detailed["redis"]["last_problem"]["error"].as_str().is_some_and(|error| error.contains("refused")));
    // What strangers are told has no address in it.
    let address = setting.server.address();
    assert!(!setting.get("/health").body.contains(&address));
}

#[test]
fn alone_a_thousand_probes_a_second_cost_a_ping_a_second() {
    let _alone = alone();
    let setting = Setting::new(|flags| {
        flags.args(["--workers", "2"]);
    });
    assert_eq!(setting.status("/health"), 200);
    let before = pings(&setting);
    let start = Instant::now();
    let probing: Vec<_> = (0..4)
        .map(|_| {
            let address = setting.http.clone();
            thread::spawn(move || {
                let mut asked = 0;
                while start.elapsed() < Duration::from_secs(5) {
                    assert_eq!(http::get(&address, "/health").status, 200);
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    let asked: u64 = probing.into_iter().map(|probe| probe.join().expect("it does not panic")).sum();
    let (took, cost) = (start.elapsed(), pings(&setting) - before);
    let mut figures = Figures::of("health, probes");
    figures.add("probes_per_second", asked as f64 / took.as_secs_f64());
    figures.add("pings", cost);
    assert!(asked as f64 / took.as_secs_f64() >= 1000.0, "only {asked} in {took:?}");
    // One a second, and one that was due when it began.
    assert!(cost as f64 <= took.as_secs_f64() + 1.0, "{cost} PINGs in {took:?}");
    assert!(cost >= 3, "{cost} PINGs in {took:?}: somebody has to ask");
}

/// How many PINGs the server has had.
fn pings(setting: &Setting) -> u64 {
    let stats = setting.server.info("commandstats");
    let calls = stats.get("cmdstat_ping").and_then(|stat| stat.strip_prefix("calls=")?.split(',').next());
    calls.map_or(0, |calls| calls.parse().expect("a number"))
}

#[test]
fn a_probe_does_not_dial() {
    let mut setting = Setting::new(|_| {});
    assert_eq!(setting.status("/health"), 200);
    setting.server.kill();
    wait_until("Redis is missed", PATIENCE, || setting.status("/health") == 503);
    setting.server.start_again();
    let start = Instant::now();
    wait_until("Redis is found", PATIENCE, || setting.status("/health") == 200);
    let dials = setting.server.info_number("stats", "total_connections_received");
    // The server's own start takes one, asking for this figure another.
    let allowed = 2 + 1 + 2 * (start.elapsed().as_secs() + 1);
    assert!(dials <= allowed, "{dials} connections in {:?}", start.elapsed());
}

#[test]
fn one_who_hangs_up_takes_the_answer_from_nobody() {
    let setting = Setting::new(|_| {});
    assert_eq!(setting.status("/health"), 200);
    setting.server.freeze();
    wait_until("that is noticed", PATIENCE, || setting.status("/health") == 503);
    setting.server.thaw();
    for _ in 0..100 {
        let mut gone = http::connect(&setting.http).expect("it listens");
        std::io::Write::write_all(&mut gone, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is taken");
    }
    wait_until("Redis is found", PATIENCE, || setting.status("/health") == 200);
}

/// The only shared connection is lent out, and nobody else sends anything.
#[test]
fn redis_is_asked_where_all_connections_are_lent_out() {
    let setting = Setting::new(|flags| {
        flags.args(["--workers", "1"]);
    });
    let mut client = setting.client();
    client.ask("SET a b");
    assert_eq!(client.ask("WAIT 1 1"), b":0\r\n");
    client.send(&words("WAIT 1 0"));
    client.wait_until_read();
    wait_until("it is lent out", PATIENCE, || setting.metric("outrigger_leases{cause=\"blocking\"}") == 1);
    let answer = setting.get("/health");
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn a_server_that_says_that_we_may_not_ask_serves() {
    let setting = Setting::new(|_| {});
    assert_eq!(setting.status("/health"), 200);
    let mut direct = setting.server.connect();
    direct.ask("ACL SETUSER default -ping");
    assert!(direct.ask("PING").starts_with(b"-NOPERM"));
    let checks = setting.metric("outrigger_health_checks_total{result=\"ok\"}");
    wait_until("it is asked again", PATIENCE, || {
        let answer = setting.get("/health");
        assert_eq!(answer.status, 200, "{answer:?}");
        setting.metric("outrigger_health_checks_total{result=\"ok\"}") > checks
    });
}

/// Nobody asks for anything, so only the question from outside finds it out; and everybody is told so.
#[test]
fn a_server_that_hangs_while_nobody_uses_it_is_shown_as_such_everywhere() {
    let setting = Setting::new(|_| {});
    setting.client().ask("SET k v");
    assert_eq!((setting.status("/health"), setting.metric("outrigger_upstream_up")), (200, 1));
    setting.server.freeze();
    wait_until("it is noticed", PATIENCE, || setting.status("/health") == 503);
    assert_eq!(setting.metric("outrigger_upstream_up"), 0);
    assert!(setting.get("/").body.contains(">degraded</h1>"));
    setting.server.thaw();
    wait_until("it is back", PATIENCE, || setting.status("/health") == 200);
    wait_until("it is shown", PATIENCE, || setting.metric("outrigger_upstream_up") == 1);
    assert!(setting.get("/").body.contains(">serving</h1>"));
}
