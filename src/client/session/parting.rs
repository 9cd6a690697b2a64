//! How a session ends when the process does: as soon as it is at rest, and as a server that shuts down would end it.
//!
//! Redis says nothing to its clients when it is told to end, in either protocol, whether they wait, listen or block: they
//! read the end of the stream. So do ours, behind everything that is due to them. Who is in the midst of something, a
//! request, a transaction, half a request, is left to finish it until the last call.
//!
//! A client that blocks may be given an element in this very moment, and must not lose it: its wait is ended by the server,
//! with CLIENT UNBLOCK, which decides whether it was served before. Only if that comes to nothing is the connection shut
//! down under it.

use super::{Departure, Phase, Session};
use crate::upstream::Upstream;

impl Session {
    /// Ends it if it is at rest; if not, it is looked at again once all is answered.
    pub(super) fn part(&mut self, upstream: &mut Upstream) {
        if self.phase != Phase::Serving {
            return;
        }
        if self.leasing {
            // It has not even begun to wait for others.
            upstream.renounce(self.key);
            (self.leasing, self.since) = (false, None);
            self.depart();
        } else if self.is_at_rest() {
            self.depart();
        } else if self.wake_at.is_none() {
            self.wake_at = Some(0);
        }
    }

    /// True if nothing is due to it, and nothing begun.
    fn is_at_rest(&self) -> bool {
        let in_transaction = self.block.is_some() || self.hold.as_ref().is_some_and(|hold| hold.is_in_transaction());
        let is_owed = self.replies.outstanding() > 0 || self.awaits_verdict();
        self.input.is_empty() && !in_transaction && !is_owed
    }

    /// Takes nothing more from the client, and ends behind what is due.
    pub(super) fn depart(&mut self) {
        if self.phase == Phase::Serving {
            self.note_departure(Departure::Drain);
            self.phase = Phase::Finishing { linger: true };
        }
        self.wake();
    }

    /// The server does not end its wait for others: its connection does.
    pub(in crate::client) fn dismiss(&mut self) {
        if self.hold.as_ref().is_some_and(|hold| hold.waits_for_others()) {
            self.depart();
        }
    }

    /// True if it was waiting for others when it was told to leave.
    pub(super) fn is_dismissed(&self) -> bool {
        self.phase != Phase::Serving && self.is_owed()
    }

    /// True while a reply may be under way that nobody else can have.
    pub(in crate::client) fn is_owed(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.waits_for_others()) && self.replies.outstanding() > 0
    }
}
