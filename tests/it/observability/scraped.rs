//! What a real Prometheus makes of a real proxy: it is scraped, queries are answered, an outage is told of.

use super::prometheus::Prometheus;
use super::{Exported, Watched, dashboard, deployed, promtool};
use crate::support::{Kind, PATIENCE, Proxy, Server, http, is_direct, wait_until};
use std::fs::{self, File};
use std::time::{Duration, Instant};

/// Scrapes and rules are a second apart, and each has to be waited for.
const SOON: Duration = Duration::from_mins(1);

/// What a proxy has counted that has lived as [`Watched`] has, besides requests.
const LIVED: [&str; 9] = [
    r#"outrigger_circuit_breaker_transitions_total{from="starting",to="closed"}"#,
    "outrigger_downstream_connections_total{listener=\"ordinary\"}",
    r#"outrigger_http_requests_total{code="200",path="/livez"}"#,
    r#"outrigger_log_messages_total{level="info"}"#,
    "outrigger_pool_wait_duration_seconds_count",
    "outrigger_request_queue_duration_seconds_count",
    r#"outrigger_upstream_connects_total{result="ok"}"#,
    "outrigger_upstream_request_duration_seconds_count",
    "process_resident_memory_bytes",
];

#[test]
fn promtool_finds_no_fault_with_the_metrics() {
    if is_direct() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let file = folder.path().join("metrics");
    fs::write(&file, Watched::start().exported().text).expect("the metrics can be written");
    let written = promtool(|promtool| {
        promtool.args(["check", "metrics"]).stdin(File::open(&file).expect("it was just written"));
    });
    assert_eq!(written, "", "what promtool has to say");
}

#[test]
fn what_has_happened_was_counted() {
    if is_direct() {
        return;
    }
    let watched = Watched::start();
    let happened = |exported: &Exported, key: &str| exported.series.iter().any(|one| one.key == key && one.value > 0.0);
    let mut missing = Vec::new();
    let start = Instant::now();
    // What is counted after a reply was sent is there a moment later.
    wait_until("all that has happened was counted", PATIENCE * 2, || {
        let exported = watched.exported();
        missing = LIVED.into_iter().filter(|key| !happened(&exported, key)).collect();
        missing.is_empty() || start.elapsed() > PATIENCE
    });
    assert!(missing.is_empty(), "not counted: {missing:#?}");
}

#[test]
fn metrics_are_there_before_the_first_request() {
    if is_direct() {
        return;
    }
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::patient(&server, |_| {});
    // It is ready a moment after it listens.
    wait_until("it says that it is ready", PATIENCE, || {
        let answer = http::get(&proxy.http(), "/metrics");
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(answer.body.contains("outrigger_read_results_total{result=\"hit\"} 0\n"), "{}", answer.body);
        answer.body.contains("outrigger_ready 1\n")
    });
}

#[test]
fn a_real_prometheus_answers_every_query_of_the_dashboard() {
    if is_direct() {
        return;
    }
    let mut watched = Watched::start();
    let prometheus = Prometheus::scraping(&watched.http);
    prometheus.wait_for("up == 1", SOON);
    let gets = r#"outrigger_commands_total{command="get", outcome="ok"}"#;
    prometheus.wait_for(&format!("{gets} >= 2"), SOON);
    // A rate needs two scrapes with something between them.
    wait_until("some scrapes have seen the counts grow", SOON, || {
        watched.live();
        prometheus.has(&format!("rate({gets}[5m]) > 0")) && prometheus.has("count_over_time(up[5m]) > 3")
    });
    // The last is that of annotations, of what has not happened.
    let mut queries = dashboard::queries();
    assert!(queries.pop().is_some_and(|query| query.contains("trips_total")), "annotations come last");
    let silent: Vec<_> = queries.iter().filter(|query| !prometheus.has(query)).collect();
    assert!(
        silent.is_empty(),
        "without any answer:\n  {}",
        silent.iter().map(|q| q.as_str()).collect::<Vec<_>>().join("\n  ")
    );
}

#[test]
fn an_outage_is_told_of_and_its_end_too() {
    if is_direct() {
        return;
    }
    let mut watched = Watched::start();
    let prometheus = Prometheus::watching(&watched.http, &deployed("prometheus/outrigger.rules.yaml"));
    prometheus.wait_for(r#"outrigger_circuit_breaker_state{state="closed"} == 1"#, SOON);
    wait_until("every rule was evaluated", SOON, || {
        let rules = prometheus.rules();
        assert!(rules.iter().all(|health| health != "err"), "{rules:?}");
        rules.len() == 11 && rules.iter().all(|health| health == "ok")
    });
    let pending = r#"ALERTS{alertname="OutriggerCircuitOpen", severity="warning"}"#;
    assert!(!prometheus.has(pending), "all is well");

    watched.server.kill();
    wait_until("the open breaker is told of", SOON, || {
        watched.client.ask("GET watched:text");
        prometheus.has(pending)
    });
    let told = prometheus.summaries();
    assert!(told.contains(&"proxy-0 has not asked Redis for a minute".to_owned()), "{told:?}");
    wait_until("degraded reads are seen", SOON, || {
        watched.client.ask("GET watched:text");
        prometheus.has(r#"outrigger_commands_total{command="get", outcome="degraded"} > 0"#)
    });
    watched.server.start_again();
    wait_until("nothing is told of any more", SOON, || {
        watched.client.ask("GET watched:text");
        prometheus.has(r#"outrigger_circuit_breaker_state{state="closed"} == 1"#) && !prometheus.has(pending)
    });
    watched.proxy.assert_running();
}
