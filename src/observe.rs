//! What the proxy shows of itself.
//!
//! - [`log`]: the log, on standard error.
//! - [`metrics`]: names and meanings, and how counts are gathered. [`cells`]: what a worker counts with every request.
//! - [`slowlog`]: the latest slow requests.

pub mod cells;
pub mod log;
pub mod metrics;
pub mod slowlog;
