//! `/metrics`: what was counted, and what there is just now, in Prometheus' text format.

use std::time::{Duration, SystemTime};

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;

use super::{Sources, Tally};
use crate::buffer::Owner;
use crate::lifecycle::{ComponentState, Phase};
use crate::observe::cells::{Cell, Cells};
use crate::observe::metrics::{as_float, counters, gauges, seconds_counter};
use crate::upstream::breaker::State;
use crate::version;

/// Everything.
pub(super) fn text(sources: &Sources, tally: &Tally, is_ready: bool) -> String {
    let mut families = now(sources, is_ready);
    families.extend(of_upstream(sources));
    families.extend(of_components(sources));
    families.extend(Collector::collect(tally));
    let text = sources.upstream.metrics().text(families);
    text.unwrap_or_else(|error| {
        tracing::error!(%error, "cannot write the metrics");
        String::new()
    })
}

/// The process and its clients.
fn now(sources: &Sources, is_ready: bool) -> Vec<MetricFamily> {
    let phase = sources.lifecycle.phase();
    let one = |name, help, value| gauges(name, help, [(vec![], value)]);
    let count = |number: usize| as_float(number as u64);
    let owners = Owner::ALL.map(|owner| (vec![("owner", owner.name())], count(sources.memory.used_for(owner))));
    let clients =
        sources.census.by_listener().map(|(listener, clients)| (vec![("listener", listener)], count(clients)));
    let build = vec![("version", version::VERSION), ("revision", version::REVISION), ("rustc", version::RUSTC)];
    vec![
        gauges("build_info", "Always 1; the labels say what runs.", [(build, 1.0)]),
        one("ready", "1 while /readyz answers 200, as far as is known without asking Redis.", truth(is_ready)),
        one("draining", "1 while the process finishes what it has begun.", truth(phase == Phase::Draining)),
        counters(
            "log_messages_total",
            "Lines of the log.",
            sources.lines.counts().map(|(level, count)| (vec![("level", level)], count)),
        ),
        gauges("downstream_connections", "Clients, by the listener over which they came.", clients),
        gauges("memory_bytes", "Buffers, by what they are for.", owners),
        one("memory_limit_bytes", "What these may take (--memory-limit).", count(sources.memory.limit())),
    ]
}

/// The upstream side.
fn of_upstream(sources: &Sources) -> Vec<MetricFamily> {
    let upstream = &sources.upstream;
    let metrics = upstream.metrics();
    let outlook = upstream.outlook();
    let one = |name, help, value| gauges(name, help, [(vec![], value)]);
    let count = |number: usize| as_float(number as u64);
    let kinds = ["busy", "idle", "pinned", "connecting"].into_iter().enumerate().map(|(at, state)| {
        let of = |cells: &Cells| cells.connections.get(at).map_or(0, Cell::get);
        (vec![("state", state)], as_float(metrics.sum(of)))
    });
    let state = upstream.state();
    let states = State::ALL.map(|each| (vec![("state", each.label())], truth(each == state)));
    let causes = outlook.pool.leases.by_cause.iter().map(|(cause, held)| (vec![("cause", *cause)], count(*held)));
    let heard = upstream.heard_ago().map_or(0.0, |ago| unix(SystemTime::now() - ago));
    vec![
        one(
            "upstream_up",
            "1 while nothing is known that keeps Redis from answering.",
            truth(upstream.obstacle().is_none()),
        ),
        gauges("upstream_connections", "Connections to Redis.", kinds),
        one("upstream_connections_max", "What there may be (--pool-size).", count(outlook.pool.size)),
        one(
            "health_check_consecutive_failures",
            "PINGs in a row that were not answered in time; the breaker opens at the third.",
            f64::from(upstream.strikes()),
        ),
        one(
            "health_check_last_success_timestamp_seconds",
            "When a PING was last answered; 0 before the first.",
            metrics.last_check().map_or(0.0, |at| unix(SystemTime::now() - at.elapsed())),
        ),
        one("upstream_last_heard_timestamp_seconds", "When a byte last came from Redis; 0 before the first.", heard),
        one("pool_waiters", "Clients that wait for a connection of their own.", count(outlook.pool.leases.waiting)),
        gauges("leases", "Connections that one client has for itself, by cause.", causes),
        one(
            "reconnect_backoff_seconds",
            "Until the next dial that looks whether Redis is back; 0 while none is due.",
            outlook.supervisor.next_dial_in_seconds.unwrap_or_default(),
        ),
        gauges("circuit_breaker_state", "1 for the state the breaker is in.", states),
        one(
            "circuit_breaker_state_changed_timestamp_seconds",
            "When it came into that state.",
            unix(SystemTime::now() - Duration::from_secs_f64(outlook.breaker.for_seconds.max(0.0))),
        ),
        seconds_counter(
            "circuit_breaker_open_seconds_total",
            "How long the breaker has refused all requests, open or isolated.",
            metrics.open_time(),
        ),
        counters(
            "pubsub_gaps_total",
            "How often subscribers were subscribed again after having heard nothing for a while.",
            [(vec![], upstream.gaps())],
        ),
    ]
}

/// How the components started.
fn of_components(sources: &Sources) -> Vec<MetricFamily> {
    let components = sources.lifecycle.components();
    let up =
        components.iter().map(|report| (vec![("component", report.name)], truth(report.state == ComponentState::Up)));
    let took =
        components.iter().filter_map(|report| Some((vec![("component", report.name)], report.took?.as_secs_f64())));
    let total = sources.lifecycle.started_in().map(|took| (vec![("component", "total")], took.as_secs_f64()));
    let failed = components.iter().filter(|report| report.state == ComponentState::Failed).count();
    vec![
        gauges("component_up", "1 once that component has started, until it is stopped.", up),
        gauges(
            "startup_duration_seconds",
            "How long each component took to start, and all that is critical.",
            took.chain(total),
        ),
        gauges(
            "startup_components_failed",
            "Components that do not work; the process does without them.",
            [(vec![], as_float(failed as u64))],
        ),
    ]
}

fn truth(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

/// As Prometheus and scripts have points of time.
pub(super) fn unix(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
