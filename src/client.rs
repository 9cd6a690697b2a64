//! The clients' side: listeners, and a session for each client.
//!
//! - [`listener`]: sockets to listen on, accepting, and the choice of a worker.
//! - [`clients`]: one worker's clients, and the handing out of replies.
//! - [`session`]: one client: read, scan, route, forward or answer, write.
//! - [`reply_queue`]: replies leave in the order of the requests. Pure.
//! - [`state`]: what a client has set on its connection. [`subscriptions`]: what it is subscribed to. Pure.
//! - [`transaction`]: what a client has queued since MULTI. Pure.
//! - [`ids`]: the server's ids of connections and ours of clients, one put for the other. Pure.
//! - [`local`], [`degraded`], [`refusal`]: what is answered here. [`unserved`]: which of it while Redis does not answer.
//! - [`section`]: what `INFO` says of the proxy.

mod clients;
pub(crate) mod degraded;
mod ids;
pub(crate) mod listener;
mod local;
mod refusal;
mod reply_queue;
pub(crate) mod section;
mod session;
mod state;
mod subscriptions;
mod transaction;
mod unserved;

use crate::command::degrade::Policy;
use crate::command::deny::Denied;
use crate::secret::Secret;

pub(crate) use clients::{Census, Clients};
pub use listener::ListenAddress;

/// Settings of the clients' side.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: Vec<ListenAddress>,
    /// Where to listen for clients that get the error while Redis cannot be asked, and never an empty answer.
    pub listen_strict: Vec<ListenAddress>,
    /// Most clients of the process; the next gets an error.
    pub max_clients: usize,
    /// The password that clients must give; without one any is accepted.
    pub password: Option<Secret>,
    /// Unread replies that a client may have, in bytes; beyond that it is disconnected.
    pub output_limit: usize,
    /// What clients are answered while no server can be asked.
    pub degrade: Policy,
    /// Every client has an upstream connection for itself, for its life.
    pub dedicated: bool,
    /// What no client may ask for.
    pub denied: Option<Denied>,
}
