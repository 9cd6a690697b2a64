//! The flags that decide how the process stops.

use std::time::Duration;

use super::{Error, duration, wrong};
use crate::lifecycle::drain::Schedule;

/// Flags for stopping.
#[derive(Debug, clap::Args)]
pub struct Stopping {
    /// After SIGTERM, go on serving and taking in clients for so long, as a pod that is still being routed to.
    #[arg(long, env = "OUTRIGGER_MIN_SIGTERM_DELAY", value_name = "TIME", default_value = "0s", value_parser = perhaps_none)]
    pub min_sigterm_delay: Duration,

    /// The process ends so long after SIGTERM at the latest. Less than the pod's grace period.
    #[arg(long, env = "OUTRIGGER_MAX_SIGTERM_DELAY", value_name = "TIME", default_value = "25s", value_parser = duration)]
    pub max_sigterm_delay: Duration,
}

impl Stopping {
    /// When each step begins, where a request may take so long.
    ///
    /// # Errors
    /// The least is more than the most.
    pub fn schedule(&self, request_timeout: Duration) -> Result<Schedule, Error> {
        let (min, max) = (self.min_sigterm_delay, self.max_sigterm_delay);
        if min >= max {
            return Err(wrong("min-sigterm-delay", "it leaves no time to stop: give less than --max-sigterm-delay"));
        }
        Ok(Schedule::new(min, max, request_timeout))
    }
}

/// As [`duration`], or no time at all.
pub(super) fn perhaps_none(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0s" | "0ms") { Ok(Duration::ZERO) } else { duration(text) }
}
