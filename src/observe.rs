//! What the proxy shows of itself.
//!
//! - [`log`]: the log, on standard error.
//! - [`metrics`]: names and meanings, and how counts are gathered. [`cells`]: what a worker counts with every request.
//! - [`slowlog`]: the latest slow requests. [`history`]: rates of the last minutes. [`timeline`]: the breaker's last hour.
//!   [`names`]: the clients it happened to.

pub mod cells;
pub mod history;
pub mod log;
pub mod metrics;
pub mod names;
pub mod slowlog;
pub mod timeline;
