//! Leases: upstream connections that a client has for itself, for what cannot share one.
//!
//! A lease needs a *slot* ([`super::quota`]), which bounds how many there are, and a connection. That is an idle one of
//! the right database and protocol, or another idle one that is switched, or a new one; the last few that were given back
//! are kept for the next. A client that waits for a lease holds none, and nothing of it is outstanding, so that no circle
//! of waiting exists.
//!
//! A [`Lease`] is owned: whoever drops it closes the connection, and with it everything that the client left behind there.
//! [`Upstream::give_back`] keeps the connection if it is at rest and the client says that nothing is left behind.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use super::breaker::State;
use super::connection::{ClientKey, Connection, Replies, Sending, Traits, Unanswered};
use super::error::{Error, Why};
use super::lane::{ConnectionId, LaneId, Use};
use super::quota::{Cause, Slot, Ticket};
use super::shared::Shared;
use super::supervisor::Link;
use super::{Entry, Event, Message, TICK, Upstream};
use crate::observe::cells::Outcome;
use crate::resp::inline;

/// Idle connections that are kept for the next lease; those beyond it retire like a lane's.
pub(super) const WARM: usize = 1;

/// A client that has blocked for so many ticks makes room for others.
const TURN: u32 = 10;

/// What a blocking request may take beyond its own timeout until its connection counts as lost, in ticks.
const MARGIN: u32 = 50;

/// A deadline from which on there is none, in ticks.
const FOR_EVER: u32 = u32::MAX / 2;

/// What a client wants a lease for.
#[derive(Clone, Copy)]
pub(crate) struct LeaseWant {
    /// Who asks, and what it calls itself.
    pub(crate) client: ClientKey,
    pub(crate) name: u64,
    /// The lane of its database and protocol.
    pub(crate) lane: LaneId,
    /// Why it cannot share a connection.
    pub(crate) cause: Cause,
    /// It must be this one, also if it is one of the lane's: it waits for what it wrote there.
    pub(crate) on: Option<ConnectionId>,
}

/// The answer to [`Upstream::lease`].
pub(crate) enum Leased {
    /// Here it is.
    Ready(Lease),
    /// Not now; the waker is called when asking again makes sense. Ask with the same client, or [`Upstream::renounce`].
    /// Whether too many are held, so that somebody must give one back, or only the connection is missing.
    Wait { crowded: bool },
    /// None is to be had now.
    Unavailable(Error),
}

/// A connection that one client has for itself. To drop it is to close it.
#[derive(Debug)]
pub(crate) struct Lease {
    id: ConnectionId,
    /// Where the ids of those go that were dropped.
    dropped: Option<Dropped>,
}

type Dropped = Rc<RefCell<Vec<ConnectionId>>>;

impl Lease {
    /// The connection.
    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(dropped) = &self.dropped {
            dropped.borrow_mut().push(self.id);
        }
    }
}

/// One worker's leases.
#[derive(Default)]
pub(super) struct Leases {
    /// Clients that wait, first come, first served.
    waiting: Vec<Waiter>,
    /// Connections that nobody holds, the one given back last at the end.
    idle: Vec<ConnectionId>,
    /// Connections asked for and not there yet.
    pub(super) asked: usize,
    dropped: Dropped,
    /// Requests of others on connections that were closed, and whether they are fenced off.
    orphans: Vec<(Unanswered, bool)>,
}

struct Waiter {
    want: LeaseWant,
    waker: Waker,
    turn: Turn,
    /// Others find it by this if it is to block.
    _note: Option<Note>,
}

/// The note of a client that waits.
struct Note {
    shared: Arc<Shared>,
    name: u64,
}

impl Note {
    fn new(shared: Arc<Shared>, name: u64) -> Self {
        shared.note_queued(name, true);
        Self { shared, name }
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        self.shared.note_queued(self.name, false);
    }
}

/// Whether a client that waits may have a lease as soon as there is a connection.
enum Turn {
    /// Not yet: too many are held.
    Queued {
        _ticket: Ticket,
    },
    Come(Slot),
}

/// The note of which connection a client has for itself.
struct Listing {
    shared: Arc<Shared>,
    name: u64,
}

impl Listing {
    fn new(shared: Arc<Shared>, name: u64, connection: Option<u64>) -> Self {
        shared.note_lessee(name, connection);
        Self { shared, name }
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.shared.note_lessee(self.name, None);
    }
}

/// Who holds a connection.
pub(super) struct Holder {
    client: ClientKey,
    /// Others find it by this.
    _listing: Listing,
    /// Passes on when the connection is given back or gone.
    pub(super) slot: Slot,
    /// Since when, in ticks.
    since: u32,
    /// A CLIENT UNBLOCK is on its way there: nobody else may have the connection before that is answered.
    pub(super) releasing: bool,
    /// Its client has given it back meanwhile.
    pub(super) returned: bool,
    /// Since when it is to wait for others no more, because the process takes its leave, in ticks.
    leaving: Option<u32>,
}

impl Upstream {
    /// Finds a connection for a client alone.
    pub(crate) fn lease(&mut self, want: LeaseWant, waker: &Waker) -> Leased {
        if let Err(error) = self.may_lease(want) {
            self.renounce(want.client);
            return Leased::Unavailable(error);
        }
        let Some(place) = self.stand_in_line(want, waker) else {
            return Leased::Unavailable(Error::NoLease);
        };
        let has_slot = |waiter: &&Waiter| matches!(waiter.turn, Turn::Come(_));
        if self.leases.waiting.get(place).filter(has_slot).is_none() {
            return Leased::Wait { crowded: true };
        }
        if want.on.is_some_and(|id| self.is_held(id)) {
            // Another client has it meanwhile.
            return Leased::Wait { crowded: true };
        }
        let found = match want.on {
            Some(id) => self.promote(id),
            None => self.idle_lease(want.lane),
        };
        if found.is_none() && want.on.is_some() {
            self.renounce(want.client);
            return Leased::Unavailable(Error::Closed);
        }
        if let Some(id) = found {
            let Waiter { turn: Turn::Come(slot), .. } = self.leases.waiting.remove(place) else {
                return Leased::Wait { crowded: true };
            };
            return Leased::Ready(self.lend(id, want, slot));
        }
        if self.leases.waiting.iter().filter(has_slot).count() > self.leases.asked {
            self.leases.asked += 1;
            self.obtain(want.lane, Use::Lease);
        }
        Leased::Wait { crowded: false }
    }

    /// Whether there is any use in waiting.
    fn may_lease(&mut self, want: LeaseWant) -> Result<(), Error> {
        if want.on.is_some_and(|id| self.connection(id).is_none()) {
            return Err(Error::Closed);
        }
        if !self.view.state.serves() {
            self.shared.demand(self.worker);
            self.demand = Some(want.lane);
            return Err(Error::Open);
        }
        let failure = self.lanes.get(want.lane).and_then(|lane| lane.failure.clone());
        if let Some((error, _)) = failure.filter(|(_, until)| self.now < *until) {
            return Err(error);
        }
        // Just after a loss, and in the first second after an outage, there is room for one or two dials; the lease's comes
        // right after them.
        if self.shared.link() == Link::Down {
            self.demand = Some(want.lane);
            self.shared.demand(self.worker);
            return Err(Error::Closed);
        }
        Ok(())
    }

    /// The client's place among those who wait; none if too many do.
    fn stand_in_line(&mut self, want: LeaseWant, waker: &Waker) -> Option<usize> {
        let waiting = &mut self.leases.waiting;
        if let Some(place) = waiting.iter().position(|waiter| waiter.want.client == want.client) {
            waiting.get_mut(place).into_iter().for_each(|waiter| waiter.waker.clone_from(waker));
            return Some(place);
        }
        let turn = match self.shared.quota.try_take(want.cause) {
            Some(slot) => Turn::Come(slot),
            None => {
                let (client, events) = (want.client, self.events.clone());
                // If the worker is gone the event is dropped, and the slot with it: it passes on.
                let deliver = Box::new(move |slot| drop(events.send(Event::Slot { client, slot })));
                let Some(_ticket) = self.shared.quota.wait(want.cause, deliver) else {
                    self.shared.metrics.lease_rejections.with_label_values(&["queue_full"]).inc();
                    return None;
                };
                Turn::Queued { _ticket }
            }
        };
        let note = want.cause.blocks().then(|| Note::new(Arc::clone(&self.shared), want.name));
        self.leases.waiting.push(Waiter { want, waker: waker.clone(), turn, _note: note });
        Some(self.leases.waiting.len() - 1)
    }

    /// A client found no lease in time.
    pub(crate) fn report_crowd(&mut self) {
        self.crowded.0 += 1;
        self.shared.metrics.lease_rejections.with_label_values(&["checkout_timeout"]).inc();
    }

    /// A client no longer waits for a lease.
    pub(crate) fn renounce(&mut self, client: ClientKey) {
        self.leases.waiting.retain(|waiter| waiter.want.client != client);
    }

    /// A slot came free for a client; if it waits no more, the slot passes on.
    pub(super) fn slot_came(&mut self, client: ClientKey, slot: Slot) {
        if let Some(waiter) = self.leases.waiting.iter_mut().find(|waiter| waiter.want.client == client) {
            waiter.turn = Turn::Come(slot);
            waiter.waker.wake_by_ref();
        }
    }

    /// Lets those ask again who could have a lease if there were a connection: their dial may have been withheld.
    pub(super) fn remind_lessees(&self) {
        let come = self.leases.waiting.iter().filter(|waiter| matches!(waiter.turn, Turn::Come(_)));
        come.for_each(|waiter| waiter.waker.wake_by_ref());
    }

    /// Lets everybody who waits for a lease ask again.
    pub(super) fn wake_lessees(&self) {
        self.leases.waiting.iter().for_each(|waiter| waiter.waker.wake_by_ref());
    }

    /// Takes an idle connection of this lane, the one used last: the others may retire.
    fn idle_lease(&mut self, lane: LaneId) -> Option<ConnectionId> {
        let is_ready = |id: &ConnectionId| {
            self.connections.get(id.slot).is_some_and(|entry| entry.lane == lane && entry.connection.is_at_rest())
        };
        let place = self.leases.idle.iter().rposition(is_ready)?;
        Some(self.leases.idle.remove(place))
    }

    /// Takes a connection out of its lane, to be one client's: others get the replies that they wait for, and send no more.
    fn promote(&mut self, id: ConnectionId) -> Option<ConnectionId> {
        let entry = self.entry(id)?;
        if entry.holder.is_some() || entry.connection.is_withdrawn() || entry.connection.is_sidelined() {
            return None;
        }
        if entry.usage == Use::Lease {
            self.forget_lease(id);
            return Some(id);
        }
        entry.usage = Use::Lease;
        entry.connection.set_window(0);
        let lane = entry.lane;
        self.lanes.get_mut(lane).into_iter().for_each(|lane| lane.remove(id));
        self.shared.count_usable(false);
        Some(id)
    }

    /// An idle connection of any lane.
    pub(super) fn spare_lease(&self) -> Option<ConnectionId> {
        let is_ready =
            |id: &ConnectionId| self.connections.get(id.slot).is_some_and(|entry| entry.connection.is_at_rest());
        self.leases.idle.iter().copied().find(is_ready)
    }

    fn lend(&mut self, id: ConnectionId, want: LeaseWant, slot: Slot) -> Lease {
        let (since, client, shared) = (self.ticks, want.client, Arc::clone(&self.shared));
        if let Some(entry) = self.entry(id) {
            entry.connection.lend(Some(client));
            let peer = entry.connection.peer().map(|peer| peer.id);
            let listing = Listing::new(shared, want.name, peer);
            entry.holder = Some(Holder {
                client,
                _listing: listing,
                slot,
                since,
                releasing: false,
                returned: false,
                leaving: None,
            });
        }
        Lease { id, dropped: Some(Rc::clone(&self.leases.dropped)) }
    }

    /// A connection was made for leases: whoever waits may have it.
    pub(super) fn lease_installed(&mut self, id: ConnectionId) {
        self.leases.idle.push(id);
        self.wake_lessees();
    }

    /// A connection that was asked for is not asked for any more: it came, or it did not.
    pub(super) fn lease_came(&mut self) {
        self.leases.asked = self.leases.asked.saturating_sub(1);
    }

    /// Takes back a lease on whose connection its client has left nothing behind. It is kept if it is at rest, else closed.
    pub(crate) fn give_back(&mut self, mut lease: Lease) {
        lease.dropped = None;
        self.take_back_lease(lease.id);
    }

    fn take_back_lease(&mut self, id: ConnectionId) {
        let current = self.shared.renewals.load(std::sync::atomic::Ordering::Relaxed);
        let Some(entry) = self.entry(id) else { return };
        if let Some(holder) = entry.holder.as_mut().filter(|holder| holder.releasing) {
            holder.returned = true;
            return;
        }
        if !entry.connection.is_at_rest() || entry.renewal < current {
            self.close_lease(id);
            return;
        }
        entry.connection.lend(None);
        entry.holder = None;
        self.leases.idle.push(id);
        // Those who have no slot yet are woken with it.
        self.remind_lessees();
        if self.shared.permits.is_wanted() || !self.starved.is_empty() {
            self.withdraw(id);
            self.hand_over_if_at_rest(id);
        }
    }

    /// Closes the connections of leases that were dropped.
    pub(crate) fn bury(&mut self) {
        let dropped = self.leases.dropped.take();
        dropped.into_iter().for_each(|id| self.close_lease(id));
    }

    /// Tells those whose requests went down with another client's lease.
    pub(super) fn tell_orphans(&mut self, clients: &mut impl Replies) {
        for (request, fenced) in std::mem::take(&mut self.leases.orphans) {
            self.fail(&request, Why::Lost, fenced, clients);
            clients.flush(&[]);
        }
    }

    /// Closes a connection whose client is gone, or has left something behind that is not to be undone.
    fn close_lease(&mut self, id: ConnectionId) {
        let fence = self.fence_for(id);
        let Some(entry) = self.remove(id) else { return };
        self.shared.metrics.disconnects.with_label_values(&["lease"]).inc();
        let client = entry.holder.as_ref().map(|holder| holder.client);
        let (mut others, changes) = entry.connection.close(&mut self.pool);
        debug_assert!(changes.is_empty(), "a lease carries no trials");
        // It may have been a lane's, and others wait there.
        let now = self.cells.micros(self.now);
        others.retain(|request| {
            let is_theirs = Some(request.entry.client) == client;
            if is_theirs {
                // Nobody is told of it any more.
                let outcome = if request.sent { Outcome::Indeterminate } else { Outcome::Unavailable };
                self.cells.settled(request.entry.tag(), outcome, now);
            }
            !is_theirs
        });
        let fenced = self.put_up(fence, false, &others);
        self.leases.orphans.extend(others.into_iter().map(|request| (request, fenced)));
        // Whoever waits may dial now.
        self.remind_lessees();
    }

    /// Notes that the connection is of another lane now, and has another name: its client has said so to the server.
    pub(crate) fn move_lease(&mut self, lease: &Lease, lane: LaneId, name: &[u8]) {
        if let Some(entry) = self.entry(lease.id) {
            (entry.lane, entry.name) = (lane, name.into());
        }
    }

    /// Has the server call the connection what its client is called, or what it was called at first.
    pub(crate) fn name_lease(&mut self, lease: &Lease, name: &[u8]) {
        if self.entry(lease.id).is_none_or(|entry| *entry.name == *name) {
            return;
        }
        let own = self.own_name(Use::Lease);
        let shown = if name.is_empty() { own.as_bytes() } else { name };
        let mut request = Vec::new();
        inline::encode([b"CLIENT".as_slice(), b"SETNAME", shown].into_iter(), &mut request);
        let message = Message::unasked(ClientKey::NOBODY, Traits::default());
        self.send(lease.id, message, &request);
        self.entry(lease.id).into_iter().for_each(|entry| entry.name = name.into());
    }

    /// What comes over the connection of a lease from its next reply on is a stream.
    pub(crate) fn open_stream(&mut self, lease: &Lease) {
        self.connection(lease.id).into_iter().for_each(Connection::open_stream);
    }

    /// Sends a request into a stream.
    pub(crate) fn send_into_stream(&mut self, lease: &Lease, request: &[u8]) {
        if let Some(entry) = self.connections.get_mut(lease.id.slot).filter(|entry| entry.serial == lease.id.serial) {
            entry.connection.send_into_stream(request, &mut self.pool);
        }
    }

    /// The client of a lease says no more, but may be answered.
    pub(crate) fn finish_lease(&mut self, lease: &Lease) {
        self.connection(lease.id).into_iter().for_each(Connection::finish);
    }

    /// Sends a request over a lease; its bytes are copied. One that waits for others has its own `timeout`, in ticks, or
    /// none. Returns its deadline.
    pub(crate) fn send_leased(
        &mut self,
        lease: &Lease,
        message: Message,
        timeout: Option<Option<u32>>,
        request: &[u8],
    ) -> u32 {
        let mut sending = self.sending(lease.id, message);
        if let Some(timeout) = timeout {
            let length = timeout.map_or(FOR_EVER, |timeout| timeout.saturating_add(MARGIN));
            sending.deadline = self.ticks.saturating_add(length);
        }
        let Sending { deadline, .. } = sending;
        if let Some(entry) = self.connections.get_mut(lease.id.slot).filter(|entry| entry.serial == lease.id.serial) {
            entry.connection.send(sending, request, &mut self.pool);
        }
        deadline
    }

    /// True if the connection of a lease can take one more request; if not, the waker is called when that may be so.
    pub(crate) fn lease_has_room(&mut self, lease: &Lease, client: ClientKey, waker: &Waker) -> bool {
        let Some(connection) = self.connection(lease.id) else { return true };
        let room = !connection.is_full();
        if !room {
            connection.wait(client, waker);
        }
        room
    }

    /// A leased connection is gone: its client is told of every request, and that it holds it no more.
    pub(super) fn lose_lease(&mut self, id: ConnectionId, error: &Error, clients: &mut impl Replies) {
        let fence = self.fence_for(id);
        let Some(mut entry) = self.remove(id) else { return };
        let holder = entry.holder.take();
        let served = entry.connection.has_served();
        let reason = entry.connection.reason_of(error);
        // That says nothing where its client has left, and so the server ends it; nor where it is us who end it.
        let lost = !entry.connection.is_finishing() && !matches!(error, Error::Open);
        let (taken, _) = entry.connection.close(&mut self.pool);
        let reason = if lost { reason } else { "lease" };
        self.shared.metrics.disconnects.with_label_values(&[reason]).inc();
        if lost {
            self.doubt_server();
            match &holder {
                Some(_) => tracing::info!(%error, in_flight = taken.len(), "lost a leased upstream connection"),
                None => tracing::debug!(%error, "lost an idle upstream connection"),
            }
            let left = self.shared.has_usable() || !self.connections.is_empty();
            self.shared.supervise(|supervisor| supervisor.lost(left, served, self.now));
            self.look();
        }
        let fenced = self.put_up(fence, false, &taken);
        for request in &taken {
            self.fail(request, Why::Lost, fenced, clients);
        }
        clients.flush(&[]);
        // Whoever has given it back may have another by now.
        holder.into_iter().filter(|holder| !holder.returned).for_each(|holder| clients.bereave(holder.client));
        self.wake_lessees();
    }

    /// Looks after the connections of leases, ten times a second.
    pub(super) fn watch_lease(&mut self, id: ConnectionId, clients: &mut impl Replies) {
        let (now, ticks) = (self.now, self.ticks);
        let Some(entry) = self.entry(id) else { return };
        // A held lease gives no verdict: what its client asks may be anything.
        entry.connection.end_slot();
        if entry.holder.is_none() {
            let silent = entry.connection.silent_since();
            if !entry.name.is_empty() && entry.connection.is_at_rest() {
                // Nobody is to be seen there who is there no more.
                self.name_lease(&Lease { id, dropped: None }, b"");
                return;
            }
            if silent.is_some_and(|since| now.saturating_duration_since(since) >= super::watch::PING_TIMEOUT) {
                self.lose_lease(id, &Error::Silent, clients);
            }
            return;
        }
        if entry.holder.as_ref().is_some_and(|holder| holder.returned && ticks.saturating_sub(holder.since) > MARGIN) {
            // The answer to its CLIENT UNBLOCK is lost.
            self.close_lease(id);
            return;
        }
        let overdue = entry.connection.take_overdue(ticks);
        if overdue.is_empty() {
            return;
        }
        self.overdue.0 += overdue.len();
        let fenced = self.fence_off(id, &overdue);
        for request in &overdue {
            self.fail(request, Why::Deadline, fenced, clients);
        }
        clients.flush(&[]);
        // What comes after it would answer the wrong question.
        self.lose_lease(id, &Error::Silent, clients);
    }

    /// While clients wait for a connection to block on, those that have blocked for a while make room: their wait is ended
    /// by CLIENT UNBLOCK, as if their time were up, and they stand in line again. So nothing is lost, and many share few.
    pub(super) fn rotate_leases(&mut self, clients: &mut impl Replies) {
        if self.leaving {
            return self.release_all(clients);
        }
        if self.view.state == State::Isolated {
            return self.isolate(clients);
        }
        self.isolated = None;
        let waiting = self.shared.quota.blocked_out().div_ceil(self.shared.config.workers.max(1));
        if waiting == 0 {
            return;
        }
        let mut blocked = Vec::new();
        let mut releasing = 0;
        for (slot, entry) in &self.connections {
            let Some(holder) = entry.holder.as_ref().filter(|holder| holder.slot.cause().blocks()) else { continue };
            releasing += usize::from(holder.releasing);
            if !holder.releasing && self.ticks.saturating_sub(holder.since) >= TURN {
                blocked.push((holder.since, ConnectionId { slot, serial: entry.serial }));
            }
        }
        blocked.sort_by_key(|(since, _)| *since);
        let mut due = waiting.saturating_sub(releasing);
        for (_, id) in blocked {
            if due == 0 {
                return;
            }
            due -= usize::from(self.release(id, clients));
        }
    }

    /// The process takes its leave: nobody is to wait for others any more. Whom the server does not release within a second
    /// is told by us.
    fn release_all(&mut self, clients: &mut impl Replies) {
        for id in self.ids() {
            let ticks = self.ticks;
            let Some(entry) = self.entry(id) else { continue };
            let asks = entry.connection.in_flight() == 1;
            let Some(holder) = entry.holder.as_mut() else { continue };
            holder.leaving = holder.leaving.or(Some(ticks)).filter(|_| asks);
            let Some(since) = holder.leaving else { continue };
            let (client, releasing) = (holder.client, holder.releasing);
            if ticks.saturating_sub(since) >= TURN {
                clients.dismiss(client);
            } else if !releasing {
                self.release(id, clients);
            }
        }
    }

    /// Ends what a client waits for on its connection, and lets it stand in line again; false if that cannot be now.
    pub(super) fn release(&mut self, id: ConnectionId, clients: &mut impl Replies) -> bool {
        if self.least_busy().is_none() {
            // The lanes have lent out all they had.
            let lane = self.entry(id).map(|entry| entry.lane);
            lane.into_iter().for_each(|lane| self.obtain_if_bare(lane));
            return false;
        }
        let ticks = self.ticks;
        let Some(entry) = self.entry(id) else { return false };
        let (Some(holder), Some(_)) = (entry.holder.as_ref(), entry.connection.peer()) else { return false };
        let Some((request, deadline)) = entry.connection.only_request() else { return false };
        let left = (deadline < FOR_EVER).then(|| TICK * deadline.saturating_sub(MARGIN).saturating_sub(ticks));
        clients.rotate(holder.client, request, left) && self.unblock(id, b"TIMEOUT")
    }

    /// Has the server end what a client waits for on its connection, as if its time were up or with an error; false if that
    /// cannot be now.
    pub(super) fn unblock(&mut self, id: ConnectionId, how: &[u8]) -> bool {
        let Some(via) = self.least_busy() else { return false };
        let serial = u32::try_from(id.serial & u64::from(u32::MAX)).unwrap_or_default();
        let Some(entry) = self.entry(id) else { return false };
        let (Some(holder), Some(peer)) = (entry.holder.as_mut(), entry.connection.peer()) else { return false };
        holder.releasing = true;
        let number = peer.id.to_string();
        let mut unblock = Vec::new();
        inline::encode([b"CLIENT".as_slice(), b"UNBLOCK", number.as_bytes(), how].into_iter(), &mut unblock);
        let client = ClientKey::of_release(serial);
        self.send(via, Message::unasked(client, Traits::default()), &unblock);
        true
    }

    /// A CLIENT UNBLOCK was answered.
    pub(super) fn was_released(&mut self, serial: u32) {
        let is_it = |entry: &Entry| entry.serial & u64::from(u32::MAX) == u64::from(serial);
        let Some((slot, entry)) = self.connections.iter_mut().find(|(_, entry)| is_it(entry)) else { return };
        let id = ConnectionId { slot, serial: entry.serial };
        let Some(holder) = entry.holder.as_mut() else { return };
        holder.releasing = false;
        if holder.returned {
            self.take_back_lease(id);
        }
    }

    /// The lanes' connection with the least to do.
    fn least_busy(&self) -> Option<ConnectionId> {
        let serves = |entry: &&Entry| entry.usage != Use::Lease && entry.connection.has_room();
        let lanes = self.connections.iter().filter(|(_, entry)| serves(entry) && !entry.connection.is_sidelined());
        let least = lanes.min_by_key(|(_, entry)| entry.connection.in_flight());
        least.map(|(slot, entry)| ConnectionId { slot, serial: entry.serial })
    }

    /// True if a connection is a lease, held or idle.
    pub(super) fn is_lease(&self, id: ConnectionId) -> bool {
        self.connections.get(id.slot).is_some_and(|entry| entry.serial == id.serial && entry.usage == Use::Lease)
    }

    /// True if a client holds this connection.
    pub(crate) fn is_held(&self, id: ConnectionId) -> bool {
        self.connections.get(id.slot).is_some_and(|entry| entry.serial == id.serial && entry.holder.is_some())
    }

    /// Forgets an idle connection that is put to another use, or gone.
    pub(super) fn forget_lease(&mut self, id: ConnectionId) {
        self.leases.idle.retain(|idle| *idle != id);
    }

    /// True if this idle connection is one of those that are kept for the next lease.
    pub(super) fn is_warm(&self, id: ConnectionId) -> bool {
        self.leases.idle.iter().rev().take(WARM).any(|warm| *warm == id)
    }
}
