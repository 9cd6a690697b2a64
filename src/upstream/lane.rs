//! Lanes: the sets of shared connections that agree on database and RESP version.
//!
//! A lane decides which of its connections takes a client's next request. It knows connections by id only; they live in
//! [`super::Upstream`].

use std::collections::{HashMap, VecDeque};
use std::task::Waker;

use tokio::time::Instant;

use super::connect::LaneKey;
use super::connection::{ClientKey, Unanswered};
use super::error::Error;

/// Names a connection to its worker. A serial number is never used again, so an old id finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionId {
    /// Index in the worker's list of connections.
    pub(crate) slot: usize,
    /// Counts the connections of this worker.
    pub(crate) serial: u64,
}

impl ConnectionId {
    /// No connection that a request can be sent on.
    pub(crate) const ELSEWHERE: Self = Self { slot: usize::MAX, serial: u64::MAX };
}

/// Index of a lane in its worker's list. Lanes are never removed: there are at most two for each database.
pub(crate) type LaneId = usize;

/// What a connection of a lane is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Ordinary requests.
    Normal,
    /// Slow commands and clients that move much data: they would hold the others up.
    Bulk,
    /// None of the lane's: one client has it for itself, or the next that needs one will.
    Lease,
}

/// One lane.
pub(crate) struct Lane {
    /// What its connections agree on.
    pub(crate) key: LaneKey,
    /// Connections for ordinary requests.
    pub(crate) normal: Vec<ConnectionId>,
    /// Connections for slow or large ones.
    pub(crate) bulk: Vec<ConnectionId>,
    /// Connections being made.
    pub(crate) pending: usize,
    /// Clients have been in it, and may be: it cannot be given to another database.
    pub(crate) entered: bool,
    /// Waits in the worker's queue for a connection that somebody gives up.
    pub(crate) starved: bool,
    /// Clients to wake when there is a connection, or none to be had.
    pub(crate) waiting: HashMap<ClientKey, Waker>,
    /// Requests that were taken back from a connection, to be asked again on the next, oldest first.
    pub(crate) parked: VecDeque<Unanswered>,
    /// Why the last attempt failed, and until when no other is made.
    pub(crate) failure: Option<(Error, Instant)>,
}

impl Lane {
    /// A lane without connections.
    pub(crate) fn new(key: LaneKey) -> Self {
        Self {
            key,
            normal: Vec::new(),
            bulk: Vec::new(),
            pending: 0,
            entered: false,
            starved: false,
            waiting: HashMap::new(),
            parked: VecDeque::new(),
            failure: None,
        }
    }

    /// The connections that a request of this use may take: its own kind if there is one, else any.
    pub(crate) fn candidates(&self, usage: Use) -> &[ConnectionId] {
        let (own, other) = match usage {
            Use::Normal | Use::Lease => (&self.normal, &self.bulk),
            Use::Bulk => (&self.bulk, &self.normal),
        };
        if own.is_empty() { other } else { own }
    }

    /// Takes a connection into service.
    pub(crate) fn add(&mut self, id: ConnectionId, usage: Use) {
        match usage {
            Use::Normal => self.normal.push(id),
            Use::Bulk => self.bulk.push(id),
            Use::Lease => {}
        }
    }

    /// Forgets a connection.
    pub(crate) fn remove(&mut self, id: ConnectionId) {
        self.normal.retain(|other| *other != id);
        self.bulk.retain(|other| *other != id);
    }

    /// Lets everybody who waits try again.
    pub(crate) fn wake_waiting(&mut self) {
        for (_, waker) in self.waiting.drain() {
            waker.wake();
        }
    }
}
