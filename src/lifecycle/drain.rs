//! The end of the process, step by step: not ready, no new clients, who is at rest is closed, the last call, out.
//!
//! ```text
//! signal ──── min ────────────────────────── last call ─────────── max
//!   │ serves on │ closes whoever is at rest      │ answers what was read │ ends
//! ```
//!
//! It ends as soon as no client is left. Nothing is read after the last call, so that what was read before it has the time
//! that a request may take, if there is as much: half of the time is for reading at least.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// How far the process is with taking its leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not at all: everybody is served.
    Serving,
    /// Nobody is taken in, and whoever is at rest is closed.
    Parting,
    /// Nothing more is read; what was read is answered.
    LastCall,
}

/// When the steps begin, counted from the signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Whoever is at rest is closed from then on.
    pub parting: Duration,
    /// Nothing is read from then on.
    pub last_call: Duration,
    /// The process ends then.
    pub end: Duration,
}

/// A client is given so long to read its last reply before its connection is closed for good.
const LINGER: Duration = Duration::from_secs(1);

/// How often it is looked whether anybody is left, and how often that is logged.
const LOOK: Duration = Duration::from_millis(20);
const REPORT: Duration = Duration::from_secs(1);

impl Schedule {
    /// For limits of which the first is the lower one, and requests that may take so long.
    #[must_use]
    pub fn new(min: Duration, max: Duration, request_timeout: Duration) -> Self {
        let answering = (request_timeout + LINGER).min(max.saturating_sub(min) / 2);
        Self { parting: min, last_call: max.saturating_sub(answering), end: max }
    }
}

/// Goes through the steps until no client is left, or no time. Returns how many clients are.
///
/// `accepting` ends when nobody is taken in any more, which is soon after the first step; `clients` counts who is there.
pub async fn drain(
    schedule: Schedule,
    stage: &watch::Sender<Stage>,
    accepting: impl Future<Output = ()>,
    clients: impl Fn() -> usize,
) -> usize {
    let begun = Instant::now();
    let steps = async {
        sleep_until(begun + schedule.parting).await;
        tracing::info!(clients = clients(), "draining: no new clients, and who is at rest is closed");
        stage.send_replace(Stage::Parting);
        sleep_until(begun + schedule.last_call).await;
        tracing::info!(clients = clients(), "draining: nothing more is read");
        stage.send_replace(Stage::LastCall);
        sleep_until(begun + schedule.end).await;
    };
    let all_left = async {
        accepting.await;
        while clients() > 0 {
            sleep(LOOK).await;
        }
    };
    let reports = async {
        loop {
            sleep(REPORT).await;
            tracing::info!(clients = clients(), "draining");
        }
    };
    tokio::select! {
        () = steps => {}
        () = all_left => {}
        () = reports => {}
    }
    clients()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(min: u64, max: u64, request_timeout: u64) -> (u64, u64, u64) {
        let seconds = Duration::from_secs;
        let Schedule { parting, last_call, end } = Schedule::new(seconds(min), seconds(max), seconds(request_timeout));
        (parting.as_secs(), last_call.as_secs(), end.as_secs())
    }

    #[test]
    fn what_was_read_has_the_time_that_a_request_may_take() {
        assert_eq!(schedule(0, 25, 4), (0, 20, 25));
        assert_eq!(schedule(5, 25, 4), (5, 20, 25));
    }

    #[test]
    fn half_of_the_time_is_for_reading() {
        assert_eq!(schedule(0, 8, 60), (0, 4, 8));
        assert_eq!(schedule(10, 20, 60), (10, 15, 20));
    }
}
