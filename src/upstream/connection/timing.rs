//! How long requests took, and what for: until they were written, behind others, and until their reply came.
//!
//! When a request was written is noted once for each write, not for each request: all that reaches up to the same offset was
//! written by then.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{ClientKey, InFlight};
use crate::observe::cells::{Cells, Tag};

/// The clock of one connection.
pub(super) struct Timing {
    cells: Arc<Cells>,
    /// This turn's time, in microseconds as [`Tag`] has them.
    now: u64,
    /// Up to which offset was written by when, for what is not answered yet.
    written: VecDeque<(u64, u64)>,
    /// When the last reply came.
    replied: u64,
}

/// The parts of the time that a slow request took.
pub(super) struct Parts {
    pub(super) queue: Duration,
    pub(super) upstream: Duration,
}

impl Timing {
    pub(super) fn new(cells: Arc<Cells>) -> Self {
        Self { cells, now: 0, written: VecDeque::new(), replied: 0 }
    }

    /// Begins a turn.
    pub(super) fn begin(&mut self, now: Instant) {
        if !self.cells.is_off() {
            self.now = self.cells.micros(now);
        }
    }

    /// Everything before `offset` is written, of which these bytes were in this turn.
    pub(super) fn wrote(&mut self, offset: u64, bytes: u64) {
        if bytes > 0 && !self.cells.is_off() {
            self.cells.upstream_sent.add(bytes);
            self.written.push_back((offset, self.now));
        }
    }

    /// So many bytes came.
    pub(super) fn read(&self, bytes: usize) {
        self.cells.upstream_received.add(bytes as u64);
    }

    /// The reply to a request came; the parts of its time if it was slow. `shared`: others use the connection too, and nobody
    /// waits on it for what other clients do.
    #[inline(always)] // Once for each reply: a call costs as much as what it does.
    pub(super) fn replied(&mut self, entry: &InFlight, shared: bool) -> Option<Parts> {
        if self.cells.is_off() {
            return None;
        }
        let end = entry.end;
        while self.written.front().is_some_and(|(offset, _)| *offset < end) {
            self.written.pop_front();
        }
        let before = std::mem::replace(&mut self.replied, self.now);
        let Tag { arrived, .. } = entry.tag();
        let is_counted = entry.tag() != Tag::NONE;
        if entry.traits.is_late() {
            self.cells.tombstones.add(1);
        } else if entry.client == ClientKey::NOBODY || entry.client == ClientKey::PROOF {
            self.cells.pings.add(1);
        }
        if !is_counted || entry.client.is_ours() {
            return None;
        }
        let written = self.written.front().map_or(self.now, |(_, when)| *when);
        let (queue, upstream) = (written.saturating_sub(arrived), self.now.saturating_sub(written));
        self.cells.queue.observe(queue);
        if shared {
            self.cells.upstream.observe(upstream);
            self.cells.head_of_line.observe(before.saturating_sub(written));
        }
        let is_slow = queue + upstream >= self.cells.slow_from();
        is_slow.then(|| Parts { queue: Duration::from_micros(queue), upstream: Duration::from_micros(upstream) })
    }

    /// The server refused a client's request with this error, of which the client hears another.
    pub(super) fn refused(&self, entry: &InFlight, reply: &[u8]) {
        if !entry.client.is_ours() {
            self.cells.note_error(reply);
        }
    }

    /// Nothing is due any more.
    pub(super) fn rest(&mut self) {
        self.written.clear();
    }
}
