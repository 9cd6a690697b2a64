//! The integration tests: the proxy as a process between real servers and clients that speak raw bytes.
//!
//! Servers are found as `tests/install` left them. Tests whose names begin with `alone_` measure time or memory:
//! `cargo test --test it -- --skip alone_`, then `cargo test --test it alone_ -- --test-threads=1`, as `tests/run` does.
//! `OUTRIGGER_BIN` names another binary to test; `OUTRIGGER_BIN=direct` runs the tests without a proxy, which tries
//! the tests themselves.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::let_underscore_must_use,
    unreachable_pub,
    reason = "a test fails by a panic, prints figures, and lives in real time"
)]

mod admin;
mod bounds;
mod check;
mod cli;
mod command_table;
mod compatibility;
mod degraded;
mod denied;
mod deploy;
mod differential;
mod explain;
mod info;
mod inject;
mod leases;
mod libraries;
mod lifecycle;
mod metrics;
mod observability;
mod order;
mod outage;
mod page;
mod policy;
mod program;
mod protocol;
mod pubsub;
mod regression;
mod runbook;
mod sessions;
mod support;
mod tidy;
mod transactions;
mod tryout;
mod upstream;
mod webhook;
