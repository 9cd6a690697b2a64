//! Outrigger, a Redis sidecar (architecture page to come).

pub mod app;
mod buffer;
pub mod check;
pub mod client;
pub mod command;
pub mod config;
pub mod observe;
pub mod resp;
mod transport;
pub mod upstream;
mod worker;
