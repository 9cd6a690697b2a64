//! All that is known of the process, as JSON. For who has the token only: it names addresses and tells why things fail.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde::Serialize;
use tokio::time::Instant;

use super::Sources;
use super::health::Health;
use crate::lifecycle::{ComponentReport, ComponentState, Lifecycle, Phase};
use crate::upstream::Outlook;

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

impl<'a> Detailed<'a> {
    /// `drill`: seconds until the isolation ends by itself.
    pub(super) fn new(sources: &'a Sources, health: Health, since: Instant, drill: Option<f64>) -> Self {
        Self {
            health,
            state: super::page::state(sources).word(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: since.elapsed().as_secs(),
            clients: sources.census.clients.load(Ordering::Relaxed),
            redis: sources.upstream.outlook(),
            services: Services::new(&sources.lifecycle),
            drill_ends_in_seconds: drill,
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
