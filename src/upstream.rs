//! One worker's side towards Redis: its lanes and their connections.
//!
//! A session asks for a connection ([`Upstream::reserve`]) and then sends on it ([`Upstream::send`]); the task of the
//! connection writes, reads, and hands the replies to whoever implements [`Replies`] ([`Upstream::drive`]). Connections
//! are made on demand by short-lived tasks, whose results come back as an [`Event`].
//!
//! - [`lane`]: which connections agree on what. [`connection`]: one socket and its in-flight queue.
//!   [`outgoing`]: the bytes of its requests. [`admission`]: how many it can answer in time.
//! - [`dialling`]: how a lane comes by a connection. [`connect`]: dial and handshake. [`resolve`]: the server's name.
//!   [`pool`]: the bound on connections. [`sharing`]: who gets one when none is left.
//! - [`lease`]: connections that clients have for themselves. [`quota`]: how many of them.
//! - [`control`]: what has to reach a server that answers nothing else.
//! - [`watch`]: deadlines, silence, and what is done about them. [`loss`]: what becomes of requests whose connection is
//!   gone: asked again ([`budget`]), fenced off, or failed.
//! - [`isolation`]: what a drill takes from those who would not notice it.
//! - [`health`]: whether Redis answers, for those who ask from outside. [`outlook`]: what is shown of all this.
//! - [`subscription`]: publish and subscribe, over a connection of its own.
//! - [`breaker`]: may a request try? [`supervisor`]: who may dial, and when? Both pure; [`jitter`] is their chance.
//! - [`shared`]: what all workers share. [`error`]: what can go wrong, and what the client is told.
//!
//! What this module does not know: clients (only keys and wakers), commands, and other workers (only what is shared).

mod absence;
pub(crate) mod admission;
pub mod breaker;
pub mod budget;
pub(crate) mod connect;
mod connection;
pub(crate) mod control;
mod dialling;
mod error;
mod health;
mod isolation;
mod jitter;
mod lane;
mod lease;
mod loss;
mod outgoing;
mod outlook;
mod pool;
mod quota;
mod resolve;
mod shared;
mod sharing;
mod subscription;
pub mod supervisor;
mod watch;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::sync::mpsc;
use tokio::time::Instant;

use breaker::{Change, State, Trial, View};
use budget::Budget;
pub use connect::{Address, Identity, Target};
pub(crate) use connect::{LaneKey, Protocol, Release};
pub(crate) use connection::{ClientKey, InFlight, Parts, Replies, Traits};
use connection::{Connection, MAX_IN_FLIGHT, Made, READ_BUFFER, Sending};
pub(crate) use error::{Error, Failure, Outcome, Why};
use health::Check;
pub(crate) use health::Obstacle;
use lane::Lane;
pub(crate) use lane::{ConnectionId, LaneId, Use};
use lease::{Holder, Leases};
pub(crate) use lease::{Lease, LeaseWant, Leased};
use loss::Fence;
pub(crate) use outlook::Outlook;
use pool::Permit;
pub(crate) use quota::Cause;
use quota::Slot;
pub use shared::Config;
pub(crate) use shared::Shared;
pub use subscription::OnLoss;
pub(crate) use subscription::{Behind, Name, Sort, Topics, Verdict};
use subscription::{Subscriptions, Unsettled};
use supervisor::Failover;

use crate::buffer::{ChunkPool, Memory, Owner};
use crate::observe::cells::{Cells, Tag};

/// From so many requests in flight on it, a lane gets one more connection.
const GROW_AT: usize = 512;

/// Lanes a worker may have; a server with more than half as many databases has not been met.
const MAX_LANES: usize = 4096;

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

const COMMAND: &[u8] = b"*1\r\n$7\r\nCOMMAND\r\n";

/// The worker's clock counts in these.
const TICK: Duration = Duration::from_millis(100);

/// Most a trial may take while the breaker is half-open, in ticks.
const TRIAL_TICKS: u32 = 20;

/// What comes to a worker from the tasks that make connections, from other workers, and from the supervisor.
pub(crate) enum Event {
    /// An attempt to get a connection for a lane ended.
    Made { lane: LaneId, usage: Use, switched: bool, result: Result<Made, Error> },
    /// An attempt that was given up has succeeded after all.
    Late { lane: LaneId, key: LaneKey, made: Made },
    /// A permit came free for this worker.
    Permit(Permit),
    /// A slot came free for a client that waits for a lease.
    Slot { client: ClientKey, slot: Slot },
    /// A lane has waited for a quantum: time to look whose connection it gets.
    Rotate,
    /// The supervisor's link changed: who waits may find a connection, or that there is none.
    Link,
    /// The breaker changed.
    Breaker(Change),
    /// It is time to dial once, to see whether Redis is back.
    Probe,
    /// Somebody hears nothing: ask for a sign of life.
    Prove,
    /// Subscriptions of some worker have changed, as was announced.
    Settled,
    /// The server has become a replica: all connections are to be made anew.
    Renew,
    /// The client of this id is to be disconnected.
    Kill(u64, Arc<Unsettled>),
    /// A request was sent over the control connection, or not.
    Controlled { recipient: control::Recipient, report: control::Report },
    /// Somebody wants to know whether Redis answers.
    Check(Check),
    /// The client of this id, which waits for a lease to block on, is to wait no more, and to hear an error or not.
    Unblock(u64, bool),
}

/// The answer to [`Upstream::reserve`].
pub(crate) enum Reserve {
    /// Send on this one, before anything else happens.
    Ready(ConnectionId),
    /// Not now; the waker is called when asking again makes sense.
    Wait,
    /// No connection is to be had now.
    Unavailable(Error),
    /// The connection that the client is bound to is not of this lane, or takes no requests.
    Elsewhere(ConnectionId),
}

/// What a session wants a connection for.
#[derive(Clone, Copy)]
pub(crate) struct Want {
    /// Who asks.
    pub(crate) client: ClientKey,
    /// The lane of its database and protocol.
    pub(crate) lane: LaneId,
    /// The connection that holds its unanswered requests, if it has any: it must be that one.
    pub(crate) bound: Option<ConnectionId>,
    /// What the request needs, minded only when the client is free to choose.
    pub(crate) usage: Use,
}

/// A request about to be sent, without its bytes.
#[derive(Clone, Copy)]
pub(crate) struct Message {
    /// Whose it is.
    pub(crate) client: ClientKey,
    pub(crate) traits: Traits,
    /// When it arrived, in ticks, if it had to wait.
    pub(crate) since: Option<u32>,
    /// The deadline of the client's request before it, if that is still unanswered: replies come in order.
    pub(crate) after: u32,
    /// What is counted of it.
    pub(crate) tag: Tag,
}

impl Message {
    /// One that waits for nothing and is not counted: nobody has asked for it.
    pub(crate) fn unasked(client: ClientKey, traits: Traits) -> Self {
        Self { client, traits, since: None, after: 0, tag: Tag::NONE }
    }
}

struct Entry {
    connection: Connection,
    serial: u64,
    lane: LaneId,
    usage: Use,
    /// When the server was asked for a sign of life because this connection is silent.
    questioned: Option<Instant>,
    /// Its PING is unanswered, and that was told as a failed health check.
    struck: bool,
    /// The renewal it was made after, see [`Event::Renew`].
    renewal: u32,
    /// Who has it for itself, and the name by which the server knows that client.
    holder: Option<Holder>,
    name: Box<[u8]>,
}

/// One worker's upstream connections.
pub(crate) struct Upstream {
    shared: Arc<Shared>,
    worker: usize,
    /// What this worker counts.
    cells: Arc<Cells>,
    events: mpsc::UnboundedSender<Event>,
    lanes: Vec<Lane>,
    by_key: HashMap<LaneKey, LaneId>,
    /// Lanes whose database the server refused; to be used again.
    vacant: Vec<LaneId>,
    /// Databases that are known to exist.
    databases: HashSet<u32>,
    /// Until when no further unknown database is asked for, and who waits for that.
    refused_until: Instant,
    askers: HashMap<ClientKey, Waker>,
    connections: Slab<Entry>,
    serial: u64,
    subscriptions: Subscriptions,
    /// Lanes that wait for a connection somebody gives up, for their own use or for a lease, first come, first served.
    starved: VecDeque<(LaneId, Use)>,
    leases: Leases,
    /// This worker waits in the process-wide queue for permits.
    queued: bool,
    /// A look at whose turn it is is planned.
    rotating: bool,
    /// Connections withdrawn and not yet at rest.
    withdrawn: usize,
    /// Connections being made, each with its permit.
    making: usize,
    /// Consecutive failed attempts.
    failures: u32,
    /// The lowest database number that the server said is out of its range, and its words.
    beyond: Option<(u32, Error)>,
    /// The lane that last missed a connection.
    demand: Option<LaneId>,
    /// The breaker as it was at the beginning of this batch.
    view: View,
    /// The permit of a trial that the next request may use.
    trial: Option<Trial>,
    /// Most requests in flight on a connection; smaller while the server recovers.
    window: usize,
    /// Writes that may still run on connections that are gone.
    fences: Vec<Fence>,
    fence_serial: u32,
    /// Requests refused because the server is too slow since that was last logged, and when it may be again, in ticks.
    overloads: (u64, u32),
    /// The same of clients that found no lease in time.
    crowded: (u64, u32),
    /// The same of requests that had no reply before their deadline, and whether all was silent.
    overdue: (usize, bool, u32),
    /// Requests parked at lanes.
    parked: usize,
    budget: Budget,
    /// Requests sent since the last tick.
    sent: u64,
    /// When the worker began, and how many ticks ago.
    origin: Instant,
    ticks: u32,
    /// What a request may take in all, and a slow one, in ticks.
    limit: u32,
    slow_limit: u32,
    /// The process takes its leave: nobody is to wait for others any more.
    leaving: bool,
    /// Since when the operator keeps us apart, in ticks; forgotten at the first tick behind it.
    isolated: Option<u32>,
    /// The worker did not run for a while before the last tick.
    overslept: bool,
    pool: ChunkPool,
    buffer: Box<[u8]>,
    /// When something last came from the server on any connection; the other workers are told once a tick.
    heard: Instant,
    now: Instant,
}

impl Upstream {
    /// No connections yet; results of attempts are sent to `events`, for [`Upstream::handle`].
    pub(crate) fn new(
        shared: Arc<Shared>,
        worker: usize,
        memory: Arc<Memory>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        Self {
            beyond: None,
            demand: None,
            view: shared.view(),
            trial: None,
            window: MAX_IN_FLIGHT,
            fences: Vec::new(),
            fence_serial: 0,
            overloads: (0, 0),
            crowded: (0, 0),
            overdue: (0, false, 0),
            parked: 0,
            budget: Budget::new(),
            sent: 0,
            origin: Instant::now(),
            ticks: 0,
            limit: ticks(shared.config.request_timeout),
            slow_limit: ticks(shared.config.slow_request_timeout),
            leaving: false,
            isolated: None,
            overslept: false,
            pool: ChunkPool::new(memory, Owner::Upstream),
            cells: shared.metrics.worker(worker),
            shared,
            worker,
            events,
            lanes: vec![Subscriptions::lane()],
            by_key: HashMap::new(),
            vacant: Vec::new(),
            databases: HashSet::new(),
            refused_until: Instant::now(),
            askers: HashMap::new(),
            connections: Slab::new(),
            serial: 0,
            subscriptions: Subscriptions::new(),
            starved: VecDeque::new(),
            leases: Leases::default(),
            queued: false,
            rotating: false,
            withdrawn: 0,
            making: 0,
            failures: 0,
            buffer: vec![0; READ_BUFFER].into_boxed_slice(),
            heard: Instant::now(),
            now: Instant::now(),
        }
    }

    /// What all workers share.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The process takes its leave.
    pub(crate) fn leave_soon(&mut self) {
        self.leaving = true;
    }

    /// Begins a batch: looks at the breaker.
    pub(crate) fn look(&mut self) {
        self.view = self.shared.view();
    }

    /// The worker's clock, in ticks of 100 ms.
    pub(crate) fn ticks(&self) -> u32 {
        self.ticks
    }

    /// What an ordinary request may take in all, in ticks.
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// True if a request that arrived then has no time left.
    pub(crate) fn is_overdue(&self, since: u32) -> bool {
        self.ticks.saturating_sub(since) >= self.limit
    }

    /// The lane of a database and protocol, for a client that is in it from now on.
    pub(crate) fn lane(&mut self, key: LaneKey) -> LaneId {
        let id = self.lane_of(key);
        self.lanes.get_mut(id).into_iter().for_each(|lane| lane.entered = true);
        id
    }

    fn lane_of(&mut self, key: LaneKey) -> LaneId {
        *self.by_key.entry(key).or_insert_with(|| match self.vacant.pop() {
            Some(id) => {
                self.lanes.get_mut(id).into_iter().for_each(|lane| *lane = Lane::new(key));
                id
            }
            None => {
                self.lanes.push(Lane::new(key));
                self.lanes.len() - 1
            }
        })
    }

    /// True if a connection of this database was made before, so that it is known to exist.
    pub(crate) fn knows_database(&self, database: u32) -> bool {
        self.databases.contains(&database)
    }

    /// Finds a connection of a lane whose database was not seen before: like [`Upstream::reserve`], but the server's
    /// refusal is remembered, so that asking for databases that do not exist costs it nothing.
    pub(crate) fn try_database(&mut self, key: LaneKey, client: ClientKey, waker: &Waker) -> Reserve {
        match &self.beyond {
            Some((lowest, error)) if key.database >= *lowest => return Reserve::Unavailable(error.clone()),
            _ => {}
        }
        if !self.by_key.contains_key(&key) {
            if self.now < self.refused_until {
                self.askers.insert(client, waker.clone());
                return Reserve::Wait;
            }
            if self.lanes.len() >= MAX_LANES && self.vacant.is_empty() {
                return Reserve::Unavailable(Error::Database("ERR too many databases in use".to_owned()));
            }
        }
        let lane = self.lane_of(key);
        self.reserve(Want { client, lane, bound: None, usage: Use::Normal }, waker)
    }

    /// Finds the connection for a client's next request, if the breaker lets it through.
    #[inline(always)] // Once for each request or reply: a call costs as much as what it does.
    pub(crate) fn reserve(&mut self, want: Want, waker: &Waker) -> Reserve {
        match self.view.state {
            State::Closed | State::Starting | State::Disabled => {}
            State::Open | State::Isolated => return self.refuse(want.lane, Error::Open),
            State::HalfOpen => {
                if self.trial.is_none() {
                    self.trial = self.shared.guard.try_trial(self.now);
                }
                if self.trial.is_none() {
                    return self.refuse(want.lane, Error::Open);
                }
            }
        }
        let best = match want.bound {
            Some(id) => id,
            None => {
                let Some(best) = self.least_loaded(want.lane, want.usage) else { return self.need(want, waker) };
                self.grow(want, best);
                best
            }
        };
        let is_of_lane = |entry: &&mut Entry| {
            entry.serial == best.serial
                && entry.lane == want.lane
                && entry.usage != Use::Lease
                && !entry.connection.is_sidelined()
        };
        let Some(Entry { connection, .. }) = self.connections.get_mut(best.slot).filter(is_of_lane) else {
            return Reserve::Elsewhere(best);
        };
        if connection.has_room() {
            return Reserve::Ready(best);
        }
        if connection.is_overloaded() {
            self.overloads.0 += 1;
            return Reserve::Unavailable(Error::Overloaded);
        }
        connection.wait(want.client, waker);
        Reserve::Wait
    }

    /// As [`Upstream::reserve`] for a block of commands. It is never a trial: to be told that nobody knows what became of it
    /// is worse than to be refused.
    pub(crate) fn reserve_for_block(&mut self, want: Want, waker: &Waker) -> Reserve {
        match self.view.state {
            State::HalfOpen => self.refuse(want.lane, Error::Open),
            State::Closed | State::Starting | State::Disabled | State::Open | State::Isolated => {
                self.reserve(want, waker)
            }
        }
    }

    /// Notes that a lane's request was not let through.
    fn refuse(&mut self, lane: LaneId, error: Error) -> Reserve {
        // A trial is for those who can use it.
        self.trial = None;
        if lane != subscription::LANE {
            // While there is one connection, all need it.
            self.demand = Some(lane);
        }
        self.shared.demand(self.worker);
        Reserve::Unavailable(error)
    }

    /// Sends a request on a connection that [`Upstream::reserve`] has just named; its bytes are copied. Returns its
    /// deadline.
    #[inline(always)] // Once for each request or reply: a call costs as much as what it does.
    pub(crate) fn send(&mut self, id: ConnectionId, message: Message, request: &[u8]) -> u32 {
        let sending = self.sending(id, message);
        let trial = self.trial.take();
        if let Some(entry) = self.connections.get_mut(id.slot).filter(|entry| entry.serial == id.serial) {
            entry.connection.send(sending, request, &mut self.pool);
            trial.into_iter().for_each(|trial| entry.connection.try_with_last(trial));
        }
        sending.deadline
    }

    /// As [`Upstream::send`] for a large request, which is not copied: a buffer of its client's, as the budget has it.
    pub(crate) fn send_owned(&mut self, id: ConnectionId, message: Message, request: Vec<u8>) -> u32 {
        let sending = self.sending(id, message);
        // A held lease gives no verdict.
        let (owner, trial) =
            if self.is_lease(id) { (Owner::Leases, None) } else { (Owner::Upstream, self.trial.take()) };
        self.pool.memory().moved(Owner::Clients, owner, request.capacity());
        if let Some(connection) = self.connection(id) {
            connection.send_owned(sending, request, owner);
            trial.into_iter().for_each(|trial| connection.try_with_last(trial));
        } else {
            self.pool.give_back_of(owner, request);
        }
        sending.deadline
    }

    /// The request that was just sent is a block: so many replies come before the one that counts, and only that is shown.
    pub(crate) fn expect_preface(&mut self, id: ConnectionId, preface: u32) {
        self.connection(id).into_iter().for_each(|connection| connection.expect_preface(preface));
    }

    fn sending(&mut self, id: ConnectionId, message: Message) -> Sending {
        if !self.fences.is_empty() {
            self.raise_fences(id);
        }
        self.sent += 1;
        let Message { client, traits, since, after, tag } = message;
        let limit = if traits.is_slow() { self.slow_limit } else { self.limit };
        let allowed = if self.trial.is_some() { limit.min(TRIAL_TICKS) } else { limit };
        let deadline = (since.unwrap_or(self.ticks) + allowed).max(after);
        Sending { client, traits, deadline, view: self.view, tag }
    }

    /// Asks for COMMAND on the connection that a client of this protocol has just been sent to, to remember the reply.
    pub(crate) fn capture_commands(&mut self, id: ConnectionId) {
        let traits = Traits::new(true, true, false);
        self.send(id, Message::unasked(ClientKey::CAPTURE, traits), COMMAND);
    }

    /// One turn of a connection's task; ready when the connection is no more.
    pub(crate) fn drive(&mut self, id: ConnectionId, cx: &mut Context<'_>, clients: &mut impl Replies) -> Poll<()> {
        self.now = Instant::now();
        let now = self.now;
        clients.clock(now);
        if id.slot == subscription::SLOT {
            return self.drive_feed(id, cx, clients);
        }
        let Some(entry) = self.connections.get_mut(id.slot).filter(|entry| entry.serial == id.serial) else {
            return Poll::Ready(());
        };
        let result = entry.connection.turn(cx, &mut self.buffer, &mut self.pool, clients, now);
        let (heard, sidelined) = (entry.connection.heard() == now, entry.connection.is_sidelined());
        if entry.connection.has_news() {
            self.attend_to(id, clients);
        }
        if let Err(error) = result {
            if self.is_lease(id) {
                self.lose_lease(id, &error, clients);
            } else {
                self.lose(id, &error, clients);
            }
            return Poll::Ready(());
        }
        if heard {
            self.heard = now;
            if sidelined {
                self.reinstate(id);
            }
        }
        if self.parked > 0 {
            self.place_all_parked();
        }
        if self.withdrawn > 0 {
            self.hand_over_if_at_rest(id);
        }
        if heard && self.view.state == State::Isolated {
            // Its client has its reply, and is to send no more there.
            self.isolate_lease(id, false, clients);
        }
        Poll::Pending
    }

    /// Acts upon what a connection learnt in its turn.
    fn attend_to(&mut self, id: ConnectionId, clients: &mut impl Replies) {
        let Some(entry) = self.connections.get_mut(id.slot) else { return };
        let (news, lane, renewal) = (entry.connection.news(), entry.lane, entry.renewal);
        news.changes.into_iter().for_each(|change| self.shared.announce(change));
        news.proof.into_iter().for_each(|asked| self.shared.prove(asked));
        self.fences.retain(|fence| !news.fenced.contains(&fence.serial()));
        news.released.into_iter().for_each(|serial| self.was_released(serial));
        if let Some(protocol) = self.lanes.get(lane).map(|lane| lane.key.protocol) {
            news.captured.iter().for_each(|reply| self.shared.learn_commands(protocol, reply));
        }
        if news.is_replica || !news.returned.is_empty() {
            let look_elsewhere = self.is_failover(renewal);
            for (mut unanswered, reply) in news.returned {
                if look_elsewhere && unanswered.entry.traits.is_repeated() {
                    let failure = Failure { outcome: Outcome::NotRun, why: Why::Replica };
                    clients.fail(unanswered.entry, &unanswered.request, failure, &[]);
                    clients.flush(&[]);
                } else if look_elsewhere {
                    unanswered.entry.traits = unanswered.entry.traits.refused();
                    self.park(lane, unanswered, clients);
                } else {
                    clients.deliver(unanswered.entry, &reply, 0..reply.len(), true);
                    clients.flush(&reply);
                }
            }
            self.obtain_if_bare(lane);
            self.place_parked(lane);
        }
    }

    /// A connection of that renewal said READONLY: whether that is a failover, so that there is a primary elsewhere. If so
    /// all connections are made anew.
    fn is_failover(&mut self, renewal: u32) -> bool {
        let current = self.shared.renewals.load(Ordering::Relaxed);
        if renewal < current {
            // The server of an older connection is known to be a replica: another is asked already.
            self.renew();
            return true;
        }
        let fresh = renewal == current && current > 0;
        match self.shared.supervise(|supervisor| supervisor.readonly(self.now, fresh)) {
            Failover::Renew => {
                tracing::warn!("the upstream is a replica now: looking for the primary");
                self.shared.renewals.fetch_add(1, Ordering::Relaxed);
                self.shared.broadcast(|| Event::Renew);
                // Here at once: what is parked must not be sent there again.
                self.renew();
                true
            }
            Failover::PassOn => {
                self.connections.iter_mut().for_each(|(_, entry)| entry.connection.pass_on_readonly(true));
                false
            }
        }
    }

    /// Handles what a task or another worker sent. A new connection is returned: it needs a task that drives it.
    pub(crate) fn handle(&mut self, event: Event, clients: &mut impl Replies) -> Option<ConnectionId> {
        self.now = Instant::now();
        clients.clock(self.now);
        self.look();
        match event {
            Event::Made { lane, usage, switched, result } => return self.made(lane, usage, switched, result, clients),
            Event::Late { lane, key, made } => return self.arrived_late(lane, key, made),
            Event::Permit(permit) => {
                self.queued = false;
                if let Some((lane, usage)) = self.next_starved() {
                    self.dial(lane, usage, permit);
                    self.queue_for_permit();
                }
            }
            Event::Slot { client, slot } => self.slot_came(client, slot),
            Event::Rotate => {
                self.rotating = false;
                self.rotate();
            }
            Event::Link => self.link_changed(clients),
            Event::Breaker(change) => self.breaker_changed(change, clients),
            Event::Probe => self.probe(),
            Event::Prove => self.prove(),
            Event::Check(check) => self.check(check),
            Event::Settled => self.release_publishers(),
            Event::Renew => self.renew(),
            Event::Kill(client, _unsettled) => {
                if let Some((client, topics)) = clients.kill(client) {
                    self.forget(client, topics);
                }
            }
            Event::Controlled { recipient, report } => self.controlled(&recipient, report, clients),
            Event::Unblock(client, with_error) => clients.unblock(client, with_error),
        }
        None
    }

    /// Housekeeping, ten times a second: deadlines and silence, PINGs, retirement, and connections that another worker needs.
    pub(crate) fn tick(&mut self, clients: &mut impl Replies) {
        self.now = Instant::now();
        clients.clock(self.now);
        self.shared.beat(self.worker);
        self.look();
        self.trial = None;
        self.bury();
        self.tell_orphans(clients);
        self.watch(clients);
        self.tend();
        self.rotate_leases(clients);
        if self.shared.permits.is_wanted() {
            self.rotate();
        }
        if self.now >= self.refused_until {
            self.askers.drain().for_each(|(_, waker)| waker.wake());
        }
        self.pool.trim();
    }

    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.entry(id).map(|entry| &mut entry.connection)
    }

    fn entry(&mut self, id: ConnectionId) -> Option<&mut Entry> {
        self.connections.get_mut(id.slot).filter(|entry| entry.serial == id.serial)
    }

    fn ids(&self) -> Vec<ConnectionId> {
        self.connections.iter().map(|(slot, entry)| ConnectionId { slot, serial: entry.serial }).collect()
    }

    fn remove(&mut self, id: ConnectionId) -> Option<Entry> {
        self.connection(id)?;
        let entry = self.connections.remove(id.slot);
        if entry.connection.is_withdrawn() {
            self.withdrawn -= 1;
        }
        if entry.usage == Use::Lease {
            self.forget_lease(id);
        } else if !entry.connection.is_sidelined() {
            self.shared.count_usable(false);
        }
        if let Some(lane) = self.lanes.get_mut(entry.lane) {
            lane.remove(id);
        }
        Some(entry)
    }

    fn take(&mut self, id: ConnectionId) -> Option<(Made, LaneId)> {
        let entry = self.remove(id)?;
        Some((entry.connection.release(entry.renewal), entry.lane))
    }

    /// Closes a connection at rest, for that reason; its permit passes on.
    fn discard(&mut self, id: ConnectionId, reason: &str) {
        self.shared.metrics.disconnects.with_label_values(&[reason]).inc();
        drop(self.take(id));
    }
}

/// A length of time in ticks, at least one.
fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX / 2).max(1)
}
