//! How long requests took, and what for: until they were written, behind others, and until their reply came.
//!
//! When a request was written is noted once for each write, not for each request: all that reaches up to the same offset was
//! written by then.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::InFlight;
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
    /// Replies one after another whose times are the same, as those of one batch are: counted together.
    run: Run,
    /// What was passed on of the reply that is not whole yet, in bytes.
    passed_on: u64,
}

/// A slow request: how large it and its reply were, in bytes, and the parts of its time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) request: u64,
    pub(crate) reply: u64,
    /// From its arrival until it was written.
    pub(crate) queue: Duration,
    /// From there until its reply had come.
    pub(crate) upstream: Duration,
    /// The part of that in which replies to requests before it were still due; zero where nobody shares the connection.
    pub(crate) head_of_line: Duration,
}

/// How often the same times were seen one after another, in microseconds.
#[derive(Default)]
struct Run {
    queue: u64,
    upstream: u64,
    head_of_line: u64,
    /// On a connection that others use too; the same for all of one run.
    shared: bool,
    count: u64,
}

/// The end of a reply.
#[derive(Clone, Copy)]
pub(super) struct Reply {
    /// Length of its request, in bytes.
    pub(super) request: u64,
    /// Length of what has come of it now, in bytes.
    pub(super) length: u64,
    /// The beginning was passed on before.
    pub(super) streamed: bool,
    /// A PING of ours was answered by an error.
    pub(super) failed: bool,
}

impl Timing {
    pub(super) fn new(cells: Arc<Cells>) -> Self {
        Self { cells, now: 0, written: VecDeque::new(), replied: 0, run: Run::default(), passed_on: 0 }
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

    /// So many bytes of a reply are passed on before the rest has come; `first`: they begin it.
    pub(super) fn passed_on(&mut self, bytes: usize, first: bool) {
        self.passed_on = if first { 0 } else { self.passed_on } + bytes as u64;
    }

    /// The reply to a request came, `reply` its last bytes; the parts of its time if it was slow. `shared`: others use the
    /// connection too, and nobody waits on it for what other clients do.
    #[inline(always)] // Once for each reply: a call costs as much as what it does.
    pub(super) fn replied(&mut self, entry: &InFlight, reply: Reply, shared: bool) -> Option<Parts> {
        if self.cells.is_off() {
            return None;
        }
        let end = entry.end;
        while self.written.front().is_some_and(|(offset, _)| *offset < end) {
            self.written.pop_front();
        }
        let before = mem::replace(&mut self.replied, self.now);
        let Tag { arrived, .. } = entry.tag();
        let is_counted = entry.tag() != Tag::NONE;
        let written = self.written.front().map_or(self.now, |(_, when)| *when);
        if entry.traits.is_late() {
            self.cells.tombstones.add(1);
        } else if reply.failed {
            self.cells.failed_checks.add(1);
        } else if entry.client.is_ping() {
            self.cells.checks.observe(self.now.saturating_sub(written));
            self.cells.checked.set(self.now);
        }
        if !is_counted || entry.client.is_ours() {
            return None;
        }
        let (queue, upstream) = (written.saturating_sub(arrived), self.now.saturating_sub(written));
        let head_of_line = if shared { before.saturating_sub(written) } else { 0 };
        if (self.run.queue, self.run.upstream, self.run.head_of_line) != (queue, upstream, head_of_line) {
            self.end_run();
            self.run = Run { queue, upstream, head_of_line, shared, count: 0 };
        }
        self.run.count += 1;
        let is_slow = queue + upstream >= self.cells.slow_from();
        is_slow.then(|| Parts {
            request: reply.request,
            reply: reply.length + if reply.streamed { self.passed_on } else { 0 },
            queue: Duration::from_micros(queue),
            upstream: Duration::from_micros(upstream),
            head_of_line: Duration::from_micros(head_of_line),
        })
    }

    /// Counts what is not counted yet, at the end of a turn or before.
    pub(super) fn end_run(&mut self) {
        let Run { queue, upstream, head_of_line, shared, count } = mem::take(&mut self.run);
        if count > 0 {
            self.cells.queue.observe_many(queue, count);
            if shared {
                self.cells.upstream.observe_many(upstream, count);
                self.cells.head_of_line.observe_many(head_of_line, count);
            }
        }
    }

    /// The server refused a client's request with this error, of which the client hears another.
    pub(super) fn refused(&self, entry: &InFlight, reply: &[u8]) {
        if !entry.client.is_ours() {
            self.cells.note_error(reply.get(1..).unwrap_or_default());
        } else if entry.client.is_ping() {
            self.cells.failed_checks.add(1);
        }
    }

    /// Nothing is due any more.
    pub(super) fn rest(&mut self) {
        self.written.clear();
    }
}
