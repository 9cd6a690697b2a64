//! `/status.json`: what the page shows.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::condition::Condition;
use super::report::{CommandCounts, Services, SlowRequest, commands, slow_requests};
use super::{Sources, metrics::unix};
use crate::buffer::Owner;
use crate::observe::cells::Found;
use crate::observe::history::{History, Point};
use crate::observe::log::Line;
use crate::observe::timeline::Change;
use crate::upstream::Outlook;
use crate::version;

/// Commands, clients and lines that are shown, each the most important ones.
const SHOWN: usize = 12;

/// For who may know no more.
#[derive(Serialize)]
pub(super) struct Brief {
    pub(super) state: &'static str,
}

/// Everything. Times are in seconds, points of time since 1970.
#[derive(Serialize)]
pub(super) struct Status<'a> {
    state: &'static str,
    since: f64,
    now: f64,
    why: String,
    advice: Option<&'static str>,
    drill_seconds: Option<f64>,
    version: &'static str,
    started: f64,
    clients: usize,
    memory: Memory,
    redis: Outlook,
    timeline: Vec<Step>,
    history: Vec<Moment>,
    reads: BTreeMap<&'static str, u64>,
    commands: Vec<CommandCounts>,
    degraded: Degraded,
    slow: Vec<SlowRequest>,
    log: Vec<LogLine>,
    services: Services,
    configuration: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Memory {
    used: usize,
    limit: usize,
    /// What is used, by what it is for.
    owners: BTreeMap<&'static str, usize>,
}

/// A change of the breaker.
#[derive(Serialize)]
struct Step {
    at: f64,
    from: &'static str,
    to: &'static str,
    why: &'static str,
}

/// What happened within five seconds.
#[derive(Serialize)]
struct Moment {
    at: f64,
    requests: f64,
    errors: f64,
    without_redis: f64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    hit_rate: Option<f64>,
}

/// What was answered without Redis: to which commands, and to clients of which name.
#[derive(Serialize)]
struct Degraded {
    commands: Vec<CommandCounts>,
    clients: Vec<Client>,
}

#[derive(Serialize)]
struct Client {
    name: String,
    count: u64,
}

#[derive(Serialize)]
struct LogLine {
    at: f64,
    level: &'static str,
    message: String,
    fields: String,
}

/// What only the HTTP port knows.
pub(super) struct Own<'a> {
    pub(super) started: SystemTime,
    pub(super) since: SystemTime,
    pub(super) drill: Option<Duration>,
    pub(super) history: &'a History,
}

impl<'a> Status<'a> {
    pub(super) fn new(sources: &'a Sources, condition: Condition, own: &Own<'_>) -> Self {
        let now = SystemTime::now();
        let metrics = sources.upstream.metrics();
        let redis = sources.upstream.outlook();
        let mut all = commands(sources);
        all.sort_by_key(|command| std::cmp::Reverse(command.total()));
        let mut degraded: Vec<_> = all.iter().filter(|command| command.without_redis() > 0).cloned().collect();
        degraded.sort_by_key(|command| std::cmp::Reverse(command.without_redis()));
        let clients = metrics.degraded_clients().into_iter().map(|(name, count)| Client { name, count });
        Self {
            state: condition.word(),
            since: unix(own.since),
            now: unix(now),
            why: condition.why(sources, own.drill),
            advice: condition.advice(&redis),
            drill_seconds: own.drill.map(|left| left.as_secs_f64()),
            version: version::VERSION,
            started: unix(own.started),
            clients: sources.census.clients.load(Ordering::Relaxed),
            memory: Memory {
                used: sources.memory.used(),
                limit: sources.memory.limit(),
                owners: Owner::ALL.map(|owner| (owner.name(), sources.memory.used_for(owner))).into(),
            },
            redis,
            timeline: metrics.timeline.changes(now).into_iter().map(Step::new).collect(),
            history: own.history.points().map(Moment::new).collect(),
            reads: Found::ALL.map(|found| (found.name(), metrics.sum(|cells| cells.found(found)))).into(),
            commands: first(all),
            degraded: Degraded { commands: first(degraded), clients: clients.take(SHOWN).collect() },
            slow: first(slow_requests(sources)),
            log: sources.lines.latest().into_iter().map(LogLine::new).collect(),
            services: Services::new(&sources.lifecycle),
            configuration: &sources.settings,
        }
    }
}

fn first<T>(mut all: Vec<T>) -> Vec<T> {
    all.truncate(SHOWN);
    all
}

impl Step {
    fn new(Change { at, from, to, why }: Change) -> Self {
        Self { at: unix(at), from, to, why }
    }
}

impl Moment {
    fn new(point: &Point) -> Self {
        let Point { at, requests, errors, without_redis, p50, p99, hit_rate } = *point;
        Self { at: unix(at), requests, errors, without_redis, p50_ms: p50, p99_ms: p99, hit_rate }
    }
}

impl LogLine {
    fn new(Line { at, level, message, fields }: Line) -> Self {
        Self { at: unix(at), level, message, fields }
    }
}
