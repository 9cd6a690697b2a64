//! What the proxy shows of itself.
//!
//! - [`log`]: the log, on standard error.

pub mod log;
