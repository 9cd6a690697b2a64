//! How far the process is: starting, serving, draining; what has started and what has not.
//!
//! - [`graph`]: components, started as their needs are met. [`drain`]: the end, step by step. [`signals`]: who asks for it.
//! - [`reload`]: what is read again meanwhile.
//!
//! One [`Lifecycle`] is shared by all threads. Its phase only ever goes forward, and is read without a lock.

pub mod drain;
pub mod graph;
pub mod reload;
pub mod signals;

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

pub use drain::Stage;

/// How far the process is; shared by all threads.
#[derive(Debug)]
pub struct Lifecycle {
    phase: AtomicU8,
    board: Mutex<Vec<ComponentReport>>,
    stop: watch::Sender<bool>,
    /// How long the start took.
    took: OnceLock<Duration>,
}

/// How far the process is. A later one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Not everything that is needed to serve has started.
    Starting,
    /// Clients are served.
    Serving,
    /// It was told to stop, and finishes what it has begun.
    Draining,
}

/// What is known of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentReport {
    /// Its name.
    pub name: &'static str,
    /// Without it there is no service.
    pub critical: bool,
    /// How far it is.
    pub state: ComponentState,
    /// The components that have to be up before it starts.
    pub needs: &'static [&'static str],
    /// How long its start took, or has taken until it failed.
    pub took: Option<Duration>,
    /// Why it failed, or failed last.
    pub problem: Option<String>,
}

/// How far a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComponentState {
    /// What it needs is not up yet.
    Waiting,
    /// It is being started.
    Starting,
    /// It has started.
    Up,
    /// It could not be started; tried again if it is not critical.
    Failed,
    /// It was stopped.
    Stopped,
}

impl Lifecycle {
    /// Nothing has started.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let (phase, board, stop) = (AtomicU8::new(Phase::Starting as u8), Mutex::default(), watch::Sender::new(false));
        Arc::new(Self { phase, board, stop, took: OnceLock::new() })
    }

    /// How far the process is.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Draining,
        }
    }

    /// Goes on to a phase; never goes back to an earlier one.
    pub fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// What is known of each component, in order of their start.
    pub fn components(&self) -> Vec<ComponentReport> {
        self.board().clone()
    }

    /// Tells of a component; replaces what was known of the one of that name.
    pub fn report(&self, report: ComponentReport) {
        let mut board = self.board();
        match board.iter_mut().find(|known| known.name == report.name) {
            Some(known) => *known = report,
            None => board.push(report),
        }
    }

    /// Everything that is critical has started, and it took that long.
    fn has_started(&self, took: Duration) {
        // It happens once.
        let _ = self.took.set(took);
    }

    /// How long it took until everything critical had started; none before.
    pub fn started_in(&self) -> Option<Duration> {
        self.took.get().copied()
    }

    /// Every component and how long its start took, for people.
    fn summary(&self) -> String {
        let shown = |report: &ComponentReport| match report.took {
            Some(took) if report.state == ComponentState::Up => format!("{} {} ms", report.name, took.as_millis()),
            _ => format!("{} not yet", report.name),
        };
        self.board().iter().map(shown).collect::<Vec<_>>().join(", ")
    }

    /// Asks the process to stop, as SIGTERM would.
    pub fn ask_to_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until somebody asks the process to stop.
    pub async fn stop_asked(&self) {
        // The sender is ours, so this never fails.
        drop(self.stop.subscribe().wait_for(|asked| *asked).await);
    }

    fn board(&self) -> MutexGuard<'_, Vec<ComponentReport>> {
        // Nothing that runs under the lock can panic half-way, so a poisoned one still guards good data.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &'static str, state: ComponentState) -> ComponentReport {
        ComponentReport { name, critical: true, state, needs: &[], took: None, problem: None }
    }

    #[test]
    fn the_phase_never_goes_back() {
        let lifecycle = Lifecycle::new();
        assert_eq!(lifecycle.phase(), Phase::Starting);
        for (entered, phase) in [
            (Phase::Serving, Phase::Serving),
            (Phase::Starting, Phase::Serving),
            (Phase::Draining, Phase::Draining),
            (Phase::Serving, Phase::Draining),
        ] {
            lifecycle.enter(entered);
            assert_eq!(lifecycle.phase(), phase);
        }
    }

    #[test]
    fn a_report_replaces_the_one_of_its_name() {
        let lifecycle = Lifecycle::new();
        lifecycle.report(report("a", ComponentState::Starting));
        lifecycle.report(report("b", ComponentState::Waiting));
        lifecycle.report(report("a", ComponentState::Up));
        assert_eq!(lifecycle.components(), [report("a", ComponentState::Up), report("b", ComponentState::Waiting)]);
    }

    #[tokio::test]
    async fn a_stop_is_noticed_before_and_after_it_is_asked_for() {
        let lifecycle = Lifecycle::new();
        let waiting = tokio::spawn({
            let lifecycle = Arc::clone(&lifecycle);
            async move { lifecycle.stop_asked().await }
        });
        lifecycle.ask_to_stop();
        waiting.await.expect("it does not panic");
        lifecycle.stop_asked().await;
    }
}
