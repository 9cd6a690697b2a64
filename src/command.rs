//! What a command is, and where a request goes: pure decisions, made from the request's bytes alone.
//!
//! - [`table`]: the facts about each command.
//! - [`keys`]: where a request's keys are, and whether it asks to block.
//! - [`category`]: the ACL categories of commands; [`deny`]: those the operator denies.
//! - [`blocking`]: how long a request is ready to wait.
//! - [`route`]: which of the proxy's ways a request takes.
//! - [`degrade`]: what it is answered while no server can be asked.
//!
//! A leaf: it does no I/O, keeps no state and uses nothing of the rest of the crate.

pub mod blocking;
pub mod category;
pub mod degrade;
pub mod deny;
pub mod keys;
pub mod route;
pub mod table;
