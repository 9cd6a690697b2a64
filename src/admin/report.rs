//! All that is known of the process, as JSON. For who has the token only: it names addresses and tells why things fail.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde::Serialize;
use tokio::time::Instant;

use super::Sources;
use super::condition::Condition;
use super::health::Health;
use super::metrics::unix;
use crate::lifecycle::{ComponentReport, ComponentState, Lifecycle, Phase};
use crate::observe::cells::Outcome;
use crate::observe::slowlog::Slow;
use crate::upstream::Outlook;
use crate::version;

/// Everything.
#[derive(Serialize)]
pub(super) struct Detailed<'a> {
    #[serde(flatten)]
    health: Health,
    state: &'static str,
    version: &'static str,
    uptime_seconds: u64,
    clients: usize,
    redis: Outlook,
    services: Services,
    /// The isolation ends by itself; none if there is none, or it lasts.
    drill_ends_in_seconds: Option<f64>,
    requests: Vec<CommandCounts>,
    slow: Vec<SlowRequest>,
    configuration: &'a BTreeMap<String, String>,
}

/// The upstream side.
#[derive(Serialize)]
pub(super) struct Redis {
    #[serde(flatten)]
    health: Health,
    #[serde(flatten)]
    outlook: Outlook,
}

/// The components, and how they started.
#[derive(Serialize)]
pub(super) struct Services {
    phase: &'static str,
    components: Vec<Component>,
}

#[derive(Serialize)]
struct Component {
    name: &'static str,
    state: &'static str,
    critical: bool,
    needs: &'static [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    took_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// What became of the requests of one command.
#[derive(Clone, Serialize)]
pub(super) struct CommandCounts {
    command: &'static str,
    #[serde(flatten)]
    outcomes: BTreeMap<&'static str, u64>,
}

/// A request that took long. Times are in seconds, sizes in bytes.
#[derive(Serialize)]
pub(super) struct SlowRequest {
    at: f64,
    command: &'static str,
    client: String,
    keys: usize,
    request_bytes: u64,
    reply_bytes: u64,
    took: f64,
    queue: f64,
    upstream: f64,
    head_of_line: f64,
    flush: f64,
}

/// What became of requests, by command.
pub(super) fn commands(sources: &Sources) -> Vec<CommandCounts> {
    let counts = |(command, counts): (&'static str, [u64; Outcome::ALL.len()])| CommandCounts {
        command,
        outcomes: Outcome::ALL.map(Outcome::name).into_iter().zip(counts).collect(),
    };
    sources.upstream.metrics().commands().into_iter().map(counts).collect()
}

/// The slow log, newest first.
pub(super) fn slow_requests(sources: &Sources) -> Vec<SlowRequest> {
    sources.upstream.metrics().slow.latest().into_iter().map(SlowRequest::new).collect()
}

impl CommandCounts {
    /// All of them.
    pub(super) fn total(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// Those that Redis has not answered.
    pub(super) fn without_redis(&self) -> u64 {
        let of = |outcome: Outcome| self.outcomes.get(outcome.name()).copied().unwrap_or_default();
        of(Outcome::Degraded) + of(Outcome::Unavailable) + of(Outcome::Indeterminate)
    }
}

impl SlowRequest {
    fn new(slow: Slow) -> Self {
        Self {
            at: unix(slow.at),
            took: slow.took().as_secs_f64(),
            command: slow.command,
            client: slow.client,
            keys: slow.keys,
            request_bytes: slow.request,
            reply_bytes: slow.reply,
            queue: slow.queue.as_secs_f64(),
            upstream: slow.upstream.as_secs_f64(),
            head_of_line: slow.head_of_line.as_secs_f64(),
            flush: slow.flush.as_secs_f64(),
        }
    }
}

impl<'a> Detailed<'a> {
    /// `drill`: seconds until the isolation ends by itself.
    pub(super) fn new(sources: &'a Sources, health: Health, since: Instant, drill: Option<f64>) -> Self {
        Self {
            health,
            state: Condition::of(sources).word(),
            version: version::VERSION,
            uptime_seconds: since.elapsed().as_secs(),
            clients: sources.census.clients.load(Ordering::Relaxed),
            redis: sources.upstream.outlook(),
            services: Services::new(&sources.lifecycle),
            drill_ends_in_seconds: drill,
            requests: commands(sources),
            slow: slow_requests(sources),
            configuration: &sources.settings,
        }
    }
}

impl Redis {
    pub(super) fn new(sources: &Sources, health: Health) -> Self {
        Self { health, outlook: sources.upstream.outlook() }
    }
}

impl Services {
    pub(super) fn new(lifecycle: &Lifecycle) -> Self {
        let phase = match lifecycle.phase() {
            Phase::Starting => "starting",
            Phase::Serving => "serving",
            Phase::Draining => "draining",
        };
        Self { phase, components: lifecycle.components().into_iter().map(Component::new).collect() }
    }
}

impl Component {
    fn new(report: ComponentReport) -> Self {
        let state = match report.state {
            ComponentState::Waiting => "waiting",
            ComponentState::Starting => "starting",
            ComponentState::Up => "up",
            ComponentState::Failed => "failed",
            ComponentState::Stopped => "stopped",
        };
        Self {
            name: report.name,
            state,
            critical: report.critical,
            needs: report.needs,
            took_seconds: report.took.map(|took| took.as_secs_f64()),
            problem: report.problem,
        }
    }
}
