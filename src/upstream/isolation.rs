//! What a drill takes from those who would not notice it: clients that have a connection for themselves, and subscribers.
//!
//! They lose it as in an outage, but nothing else with it: what is in flight is answered first, and whoever blocks is
//! released by CLIENT UNBLOCK, so that no element is popped for somebody who does not get it. What is
//! not answered within a second is cut off, and its client told what is true of it.

use super::Upstream;
use super::connection::Replies;
use super::error::Error;
use super::lane::{ConnectionId, Use};

/// What is still not answered after so many ticks (a second) is not waited for.
const PATIENCE: u32 = 10;

impl Upstream {
    /// Takes leases and the feed away, as far as they are at rest; ten times a second while the operator keeps us apart.
    pub(super) fn isolate(&mut self, clients: &mut impl Replies) {
        let since = *self.isolated.get_or_insert(self.ticks);
        let late = self.ticks.saturating_sub(since) >= PATIENCE;
        for id in self.ids() {
            self.isolate_lease(id, late, clients);
        }
        self.lose_feed(&Error::Open, clients);
    }

    pub(super) fn isolate_lease(&mut self, id: ConnectionId, late: bool, clients: &mut impl Replies) {
        let Some(entry) = self.entry(id) else { return };
        let rests = entry.connection.in_flight() == 0;
        let Some(holder) = entry.holder.as_ref().filter(|holder| !holder.returned) else { return };
        let (releasing, blocks) = (holder.releasing, holder.slot.cause().blocks());
        if rests || late {
            self.lose_lease(id, &Error::Open, clients);
        } else if !releasing {
            let released = blocks && self.release(id, clients);
            if !released {
                // It holds the connection for something else too, and would ask there again.
                self.unblock(id, b"ERROR");
            }
        }
    }

    /// Nobody waits for a connection while there is none to be had.
    pub(super) fn forget_starved(&mut self) {
        while let Some((_, usage)) = self.next_starved() {
            if usage == Use::Lease {
                self.lease_came();
            }
        }
    }
}
