//! The flags that decide how long a request may take, and when Redis counts as gone.

use std::time::Duration;

use clap::{ArgAction, ValueEnum};

use super::{duration, number};
use crate::upstream::breaker::{Mode, Settings};

/// Flags for deadlines and the breaker.
#[derive(Debug, clap::Args)]
pub struct Outage {
    /// What a request may take in all, waiting and dialling included; then its client is answered. Less than your
    /// clients' own time-out, or they hang up and ask again.
    #[arg(long, env = "OUTRIGGER_REQUEST_TIMEOUT", value_name = "TIME", default_value = "4s", value_parser = duration)]
    pub request_timeout: Duration,

    /// The same for commands that may honestly take long: EVAL, KEYS, SORT, FLUSHALL and the like.
    #[arg(
        long,
        env = "OUTRIGGER_SLOW_REQUEST_TIMEOUT",
        value_name = "TIME",
        default_value = "30s",
        value_parser = duration
    )]
    pub slow_request_timeout: Duration,

    /// Circuit breaker: enabled, disabled (always try), or isolated (never contact Redis: rehearse an outage).
    #[arg(long, env = "OUTRIGGER_BREAKER", value_name = "MODE", default_value = "enabled")]
    pub breaker: BreakerMode,

    /// Failures in a row that open the breaker; 0 leaves it to the other rules.
    #[arg(long, env = "OUTRIGGER_BREAKER_FAILURES", value_name = "N", default_value_t = 5, value_parser = number::<u32>)]
    pub breaker_failures: u32,

    /// The longest time that the breaker stays open before it tries again. The first is 1 s, and each is twice the last.
    #[arg(
        long,
        env = "OUTRIGGER_BREAKER_RECOVERY_TIMEOUT",
        value_name = "TIME",
        default_value = "60s",
        value_parser = duration
    )]
    pub breaker_recovery_timeout: Duration,

    /// Let a probe of our own end that time early; with false, Redis is left alone until it is over.
    #[arg(
        long,
        env = "OUTRIGGER_BREAKER_EARLY_RECOVERY",
        value_name = "BOOL",
        default_value_t = true,
        action = ArgAction::Set
    )]
    pub breaker_early_recovery: bool,
}

/// What the breaker may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BreakerMode {
    /// Trips and recovers.
    Enabled,
    /// Never refuses anything.
    Disabled,
    /// Redis is never contacted, and clients are answered as in an outage.
    Isolated,
}

impl Outage {
    /// Settings of the breaker.
    #[must_use]
    pub fn breaker(&self) -> Settings {
        Settings {
            mode: match self.breaker {
                BreakerMode::Enabled => Mode::Enabled,
                BreakerMode::Disabled => Mode::Disabled,
                BreakerMode::Isolated => Mode::Isolated,
            },
            failures: self.breaker_failures,
            recovery: self.breaker_recovery_timeout,
            early_recovery: self.breaker_early_recovery,
        }
    }
}
