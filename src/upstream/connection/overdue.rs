//! Requests that a connection does not answer: taken back when it is lost, when their deadline passes, or when they are
//! better asked elsewhere.

use std::collections::HashMap;
use std::mem;

use super::block::preface_of;
use super::{ClientKey, Connection, InFlight, Unanswered};
use crate::buffer::ChunkPool;
use crate::upstream::breaker::Change;
use crate::upstream::error::Error;

/// What a slot of 100 ms said of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// There was no traffic to judge by, or its failure was told already.
    Nothing,
    /// Requests were answered.
    Success,
    /// Requests were refused.
    Failure,
}

impl Connection {
    /// Tombstones of requests that were taken back.
    pub(crate) fn late(&self) -> usize {
        self.late
    }

    /// True if a write whose client was answered here may still run.
    pub(crate) fn owes_write(&self) -> bool {
        self.late > 0 && self.in_flight.iter().any(|entry| entry.traits.is_late() && !entry.traits.is_repeatable())
    }

    /// True if clients wait for it, rather than nobody or ourselves.
    pub(crate) fn is_awaited(&self) -> bool {
        self.in_flight.iter().any(|entry| !entry.client.is_ours())
    }

    /// Why it ends, as metrics have it.
    pub(crate) fn reason_of(&self, error: &Error) -> &'static str {
        match error {
            Error::Silent if self.late == 0 && !self.is_awaited() => "health",
            _ => error.reason(),
        }
    }

    /// True if a client waits for it whose deadline is after `tick`.
    pub(crate) fn has_time_left(&self, tick: u32) -> bool {
        self.in_flight.iter().any(|entry| !entry.client.is_ours() && entry.deadline > tick)
    }

    /// Ends a slot of 100 ms.
    pub(crate) fn end_slot(&mut self) -> Slot {
        match (mem::take(&mut self.failed), mem::take(&mut self.succeeded)) {
            (true, _) => Slot::Failure,
            (false, true) => Slot::Success,
            (false, false) => Slot::Nothing,
        }
    }

    /// Takes back the requests whose deadline is not after `tick`: they become tombstones, whose replies are dropped.
    ///
    /// A client's deadlines are in the order of its requests, so what is taken back is the beginning of what it waits for.
    /// Nothing is taken from a client whose reply is being passed on.
    pub(crate) fn take_overdue(&mut self, tick: u32) -> Vec<Unanswered> {
        if tick < self.next_deadline {
            return Vec::new();
        }
        let receiving = self.receiving();
        let is_overdue = |entry: &InFlight| entry.deadline <= tick && Some(entry.client) != receiving;
        let taken = self.take_back(is_overdue);
        self.fail_trials(&taken);
        let waited_for = self.in_flight.iter().filter(|entry| !entry.client.is_ours());
        self.next_deadline = waited_for.map(|entry| entry.deadline).min().unwrap_or(u32::MAX);
        taken
    }

    fn fail_trials(&mut self, taken: &[Unanswered]) {
        for (end, trial) in mem::take(&mut self.trials) {
            if taken.iter().any(|request| request.entry.end == end) {
                self.news.changes.extend(trial.fail(self.active));
            } else {
                self.trials.push_back((end, trial));
            }
        }
    }

    /// Takes back the reads of clients that wait here for nothing else, if the first is due by `deadline`: they are to be
    /// asked elsewhere.
    pub(crate) fn take_stranded(&mut self, deadline: u32) -> Vec<Unanswered> {
        let receiving = self.receiving();
        let mut clients: HashMap<ClientKey, bool> = HashMap::new();
        for entry in self.in_flight.iter().filter(|entry| !entry.client.is_ours()) {
            let movable =
                entry.traits.is_repeatable() && !entry.traits.is_repeated() && Some(entry.client) != receiving;
            let all = clients.entry(entry.client).or_insert(entry.deadline <= deadline);
            *all &= movable;
        }
        let mut taken = self.take_back(|entry| clients.get(&entry.client) == Some(&true));
        taken.iter_mut().for_each(|unanswered| unanswered.entry.traits = unanswered.entry.traits.repeated());
        taken
    }

    /// Whose reply has begun to be passed on.
    fn receiving(&self) -> Option<ClientKey> {
        self.in_flight.front().filter(|_| self.streaming && !self.pushing).map(|entry| entry.client)
    }

    fn take_back(&mut self, which: impl Fn(&InFlight) -> bool) -> Vec<Unanswered> {
        let (mut taken, mut start) = (Vec::new(), self.answered);
        for entry in &mut self.in_flight {
            let range = mem::replace(&mut start, entry.end)..entry.end;
            if entry.client.is_ours() || !which(entry) {
                continue;
            }
            let mut request = Vec::new();
            if !self.outgoing.copy(range, &mut request) {
                request.clear();
            }
            let sent = entry.end <= self.outgoing.written();
            let preface = preface_of(&self.blocks, entry.end);
            taken.push(Unanswered { entry: *entry, request, preface, sent, begun: false });
            entry.client = ClientKey::NOBODY;
            entry.traits = entry.traits.late();
        }
        self.late += taken.len();
        taken
    }

    /// Ends the connection, and gives back everything that clients wait for, oldest first. Everybody who waits for room
    /// tries again.
    pub(crate) fn close(mut self, pool: &mut ChunkPool) -> (Vec<Unanswered>, Vec<Change>) {
        let (mut taken, mut start, streaming) = (Vec::new(), self.answered, self.streaming);
        let late = mem::take(&mut self.late);
        for (at, entry) in mem::take(&mut self.in_flight).into_iter().enumerate() {
            let range = mem::replace(&mut start, entry.end)..entry.end;
            if entry.client.is_ours() {
                continue;
            }
            let sent = entry.end <= self.outgoing.written();
            let mut request = Vec::new();
            if !self.outgoing.copy(range, &mut request) {
                request.clear();
            }
            let preface = preface_of(&self.blocks, entry.end);
            taken.push(Unanswered { entry, request, preface, sent, begun: at == 0 && streaming });
        }
        if late > 0 || !taken.is_empty() {
            // What the kernel still holds is not to be sent any more.
            self.transport.abort();
        }
        let changes = self.trials.drain(..).filter_map(|(_, trial)| trial.fail(self.active)).collect();
        self.outgoing.clear(pool);
        self.release(0);
        (taken, changes)
    }
}
