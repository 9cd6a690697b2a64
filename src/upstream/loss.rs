//! What becomes of requests whose connection is gone, or will not answer: asked again elsewhere, or failed.
//!
//! A request is repeated at most once, in time, within the budget (but for what is moved away from a stuck connection), and
//! only if nothing can have run twice: it was not
//! sent, or it only reads. All that a client waits for is repeated, in its order, or none of it. What waits for a new
//! connection is *parked* at its lane.
//!
//! A write that was sent and not answered may run later: a frozen server has it in its socket's buffer. Before its client
//! hears that nobody knows, a *fence* is put up: whatever this worker sends next goes behind a CLIENT KILL of the old
//! connection, so that no later request of that client can be overtaken by it.

use std::collections::{HashMap, VecDeque};
use std::mem;

use super::connect::Peer;
use super::connection::{InFlight, Replies, Sending, Traits, Unanswered};
use super::error::{Error, Failure, Outcome, Why};
use super::lane::{ConnectionId, LaneId, Use};
use super::{ClientKey, Upstream};
use crate::observe::cells::Tag;
use crate::resp::inline;

/// Fences that are kept, should none be answered for long; the server has closed older connections by then.
const MAX_FENCES: usize = 64;

/// A connection that must be known to be dead at the server before anything else is sent.
#[derive(Debug, Clone)]
pub(super) struct Fence {
    serial: u32,
    against: ConnectionId,
    peer: Peer,
}

impl Fence {
    /// The connection that it is put up against.
    pub(super) fn against(&self) -> ConnectionId {
        self.against
    }

    /// Counts the fences of this worker.
    pub(super) fn serial(&self) -> u32 {
        self.serial
    }
}

impl Upstream {
    /// A connection failed: what was asked there is asked again if it may be, else its clients get an error.
    pub(super) fn lose(&mut self, id: ConnectionId, error: &Error, clients: &mut impl Replies) {
        let (now, ticks) = (self.now, self.ticks);
        let fence = self.fence_for(id);
        let Some(entry) = self.remove(id) else { return };
        self.doubt_server();
        let reason = entry.connection.reason_of(error);
        let (lane, view, served) = (entry.lane, entry.connection.view(), entry.connection.has_served());
        let owes_write = entry.connection.owes_write();
        let in_flight = entry.connection.in_flight();
        let (mut taken, changes) = entry.connection.close(&mut self.pool);
        // One client after the other, each in its own order.
        taken.sort_by_key(|request| (request.entry.client.slot, request.entry.client.generation));
        changes.into_iter().for_each(|change| self.shared.announce(change));
        if !taken.is_empty() || !matches!(error, Error::Closed) {
            tracing::warn!(%error, in_flight, "lost an upstream connection");
            self.shared.note_problem(error, false, now);
            self.shared.blame(error.fault(), |breaker| breaker.failure(view.generation, now));
        } else {
            tracing::info!("the upstream ended an idle connection");
        }
        self.shared.metrics.disconnects.with_label_values(&[reason]).inc();
        self.shared.supervise(|supervisor| supervisor.lost(self.shared.has_usable(), served, now));
        self.look();
        let again = self.choose_repeats(&taken, ticks);
        let fenced = self.put_up(fence, owes_write, &taken);
        for mut request in taken {
            if again.get(&request.entry.client) == Some(&true) {
                request.entry.traits = request.entry.traits.repeated();
                self.park(lane, request, clients);
            } else {
                self.fail(&request, Why::Lost, fenced, clients);
            }
        }
        clients.flush(&[]);
        // One that nobody used is not replaced, unless it was the last: then we want to know.
        let wanted = |lane: &super::Lane| !lane.parked.is_empty() || !lane.waiting.is_empty();
        if !self.shared.has_usable() || self.lanes.get(lane).is_some_and(wanted) {
            self.obtain_if_bare(lane);
        }
        self.place_parked(lane);
        self.fail_parked(clients);
    }

    /// Ends a connection whose clients were answered already.
    pub(super) fn end(&mut self, id: ConnectionId) {
        let Some(entry) = self.remove(id) else { return };
        let reason = entry.connection.reason_of(&Error::Silent);
        self.shared.metrics.disconnects.with_label_values(&[reason]).inc();
        self.shared.note_problem(&Error::Silent, false, self.now);
        self.doubt_server();
        let (_, changes) = entry.connection.close(&mut self.pool);
        changes.into_iter().for_each(|change| self.shared.announce(change));
    }

    /// Which clients have everything repeated that they wait for.
    fn choose_repeats(&mut self, taken: &[Unanswered], ticks: u32) -> HashMap<ClientKey, bool> {
        let mut clients: HashMap<ClientKey, (bool, u64)> = HashMap::new();
        if !self.view.state.serves() {
            return HashMap::new();
        }
        for request in taken {
            let traits = request.entry.traits;
            let may = !request.begun
                && !request.request.is_empty()
                && !traits.is_repeated()
                && request.entry.deadline > ticks
                && (!request.sent || traits.is_repeatable());
            let (all, count) = clients.entry(request.entry.client).or_insert((true, 0));
            *all &= may;
            *count += 1;
        }
        let mut may = |all, count| {
            let granted = all && self.budget.withdraw(count);
            if all && !granted {
                self.shared.metrics.retries_denied.inc();
            }
            granted
        };
        clients.into_iter().map(|(client, (all, count))| (client, may(all, count))).collect()
    }

    /// Puts a request where the lane's next connection finds it. Those of one client come together, in their order.
    pub(super) fn park(&mut self, lane: LaneId, mut request: Unanswered, clients: &mut impl Replies) {
        clients.moved(request.entry.client);
        self.pool.resized(0, request.request.capacity());
        request.entry.traits = request.entry.traits.repeated();
        match self.lanes.get_mut(lane) {
            Some(lane) => lane.parked.push_back(request),
            None => debug_assert!(false, "lanes are never removed"),
        }
        self.parked += 1;
    }

    /// Sends what is parked anywhere, as far as there is room.
    pub(super) fn place_all_parked(&mut self) {
        (0..self.lanes.len()).for_each(|lane| self.place_parked(lane));
    }

    /// Sends what is parked at a lane, as far as its connections have room: all that one client has there at once and on one
    /// connection, so that its replies come in order, whether there is room for all of it or not.
    pub(super) fn place_parked(&mut self, lane: LaneId) {
        while self.view.state.serves()
            && let Some(client) =
                self.lanes.get(lane).and_then(|lane| lane.parked.front()).map(|first| first.entry.client)
            && let Some(id) = self.least_loaded(lane, Use::Normal)
            && self.connection(id).is_some_and(|connection| connection.has_room())
        {
            let is_theirs = |request: &mut Unanswered| request.entry.client == client;
            while let Some(request) = self.lanes.get_mut(lane).and_then(|lane| lane.parked.pop_front_if(is_theirs)) {
                self.send_again(id, &request);
            }
        }
    }

    fn send_again(&mut self, id: ConnectionId, request: &Unanswered) {
        self.pool.resized(request.request.capacity(), 0);
        self.parked -= 1;
        if !self.fences.is_empty() {
            self.raise_fences(id);
        }
        let InFlight { client, traits, deadline, .. } = request.entry;
        let sending = Sending { client, traits, deadline, view: self.view, tag: request.entry.tag() };
        if let Some(entry) = self.connections.get_mut(id.slot) {
            entry.connection.send(sending, &request.request, &mut self.pool);
            if request.preface > 0 {
                entry.connection.expect_preface(request.preface);
            }
        }
    }

    /// Fails what is parked, if there is no hope for it just now.
    pub(super) fn fail_parked(&mut self, clients: &mut impl Replies) {
        let shut = !self.view.state.serves();
        let down = !self.shared.is_worth_waiting(self.now);
        let hopeless = |lane: &super::Lane| {
            let idle = lane.pending == 0 && !lane.starved && lane.normal.is_empty() && lane.bulk.is_empty();
            shut || (idle && (down || lane.failure.is_some()))
        };
        let mut failed = Vec::new();
        for lane in self.lanes.iter_mut().filter(|lane| !lane.parked.is_empty() && hopeless(lane)) {
            failed.extend(mem::take(&mut lane.parked));
        }
        self.fail_all(failed, Why::Lost, clients);
    }

    /// Fails what is parked and has no time left.
    pub(super) fn fail_overdue_parked(&mut self, clients: &mut impl Replies) {
        let (ticks, mut overdue) = (self.ticks, Vec::new());
        for lane in &mut self.lanes {
            // All that one client has parked was its oldest; deadlines of different clients need not be in order.
            let (late, rest): (VecDeque<_>, _) =
                mem::take(&mut lane.parked).into_iter().partition(|request| request.entry.deadline <= ticks);
            lane.parked = rest;
            overdue.push(late);
        }
        for late in overdue {
            self.fail_all(late, Why::Deadline, clients);
        }
    }

    fn fail_all(&mut self, requests: impl IntoIterator<Item = Unanswered>, why: Why, clients: &mut impl Replies) {
        for request in requests {
            self.parked -= 1;
            self.pool.resized(request.request.capacity(), 0);
            // What is repeated only reads or was not sent.
            self.fail(&request, why, true, clients);
        }
        clients.flush(&[]);
    }

    /// Answers a request that Redis does not. `fenced`: if it was sent, it cannot run any more once we send again.
    pub(super) fn fail(&self, request: &Unanswered, why: Why, fenced: bool, clients: &mut impl Replies) {
        let outcome = match (request.sent, fenced) {
            (false, _) => Outcome::NotSent,
            (true, true) => Outcome::Unknown,
            (true, false) => Outcome::Pending,
        };
        if why == Why::Deadline {
            let stage = if request.sent { "reply" } else { "queue" };
            self.shared.metrics.timeouts.with_label_values(&[stage]).inc();
        }
        clients.fail(request.entry, &request.request, Failure { outcome, why }, &[]);
    }

    /// Puts up a fence against a connection if a write among these was sent, or one whose client was answered earlier may
    /// still run there. It takes no more requests then: it is about to be killed. False if there should be a fence and
    /// cannot be.
    pub(super) fn fence_off(&mut self, id: ConnectionId, requests: &[Unanswered]) -> bool {
        let fence = self.fence_for(id);
        let owes_write = self.connection(id).is_some_and(|connection| connection.owes_write());
        let before = self.fences.len();
        let fenced = self.put_up(fence, owes_write, requests);
        if self.fences.len() > before {
            self.withdraw(id);
        }
        fenced
    }

    /// A client that was kept at a connection goes elsewhere.
    pub(crate) fn leave(&mut self, id: ConnectionId) {
        self.fence_off(id, &[]);
    }

    /// Whether there can be a fence against a connection.
    pub(super) fn may_fence(&mut self, id: ConnectionId) -> bool {
        self.fence_for(id).is_some()
    }

    /// The fence against a connection, if the server lets us put up one: the one there is, or a new one.
    pub(super) fn fence_for(&mut self, id: ConnectionId) -> Option<Fence> {
        if let Some(fence) = self.fences.iter().find(|fence| fence.against == id) {
            return Some(fence.clone());
        }
        let peer = self.connection(id)?.peer().cloned()?;
        let may = self.shared.identity().may_kill();
        may.then(|| Fence { serial: self.fence_serial + 1, against: id, peer })
    }

    pub(super) fn put_up(&mut self, fence: Option<Fence>, owes_write: bool, requests: &[Unanswered]) -> bool {
        if !owes_write && !requests.iter().any(|request| request.sent && !request.entry.traits.is_repeatable()) {
            return true;
        }
        let Some(fence) = fence else { return false };
        if fence.serial <= self.fence_serial {
            return true;
        }
        self.fence_serial = fence.serial;
        if self.fences.len() >= MAX_FENCES {
            self.fences.remove(0);
        }
        self.fences.push(fence);
        self.shared.metrics.fences.inc();
        true
    }

    /// Sends the fences that this connection has not sent yet, ahead of its next request: Redis runs a connection's
    /// commands in order, so the old connections are gone before that request runs.
    pub(super) fn raise_fences(&mut self, id: ConnectionId) {
        let (view, mut command) = (self.view, Vec::new());
        let Some(entry) = self.connections.get_mut(id.slot).filter(|entry| entry.serial == id.serial) else { return };
        let sent: u32 = entry.connection.fences;
        for fence in self.fences.iter().filter(|fence| fence.serial > sent) {
            command.clear();
            let number = fence.peer.id.to_string();
            let words: [&[u8]; 6] =
                [b"CLIENT", b"KILL", b"ID", number.as_bytes(), b"ADDR", fence.peer.address.as_bytes()];
            inline::encode(words.into_iter(), &mut command);
            let client = ClientKey::of_fence(fence.serial);
            let sending = Sending { client, traits: Traits::default(), deadline: u32::MAX, view, tag: Tag::NONE };
            entry.connection.send(sending, &command, &mut self.pool);
            entry.connection.fences = fence.serial;
        }
    }
}
