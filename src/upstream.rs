//! One worker's side towards Redis: its lanes and their connections.
//!
//! A session asks for a connection ([`Upstream::reserve`]) and then sends on it ([`Upstream::send`]); the task of the
//! connection writes, reads, and hands the replies to whoever implements [`Replies`] ([`Upstream::drive`]). Connections
//! are made on demand by short-lived tasks, whose results come back as an [`Event`].
//!
//! - [`lane`]: which connections agree on what. [`connection`]: one socket and its in-flight queue.
//! - [`connect`]: dial and handshake. [`pool`]: the bound on connections. [`sharing`]: who gets one when none is left.
//! - [`error`]: what can go wrong, and what the client is told.
//!
//! What this module does not know: clients (only keys and wakers), commands, and other workers (only permits).

pub(crate) mod connect;
mod connection;
mod error;
mod lane;
mod pool;
mod sharing;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

pub use connect::{Address, Identity, Target};
pub(crate) use connect::{LaneKey, Protocol};
pub(crate) use connection::{ClientKey, InFlight, Outcome, Replies};
use connection::{Connection, READ_BUFFER};
pub(crate) use error::{Error, MAY_HAVE_RUN, NOT_SENT};
use lane::Lane;
pub(crate) use lane::{ConnectionId, LaneId, Use};
use pool::{Permit, Permits};

use crate::buffer::{ChunkPool, Memory};
use crate::transport::Transport;

/// From so many requests in flight on it, a lane gets one more connection.
const GROW_AT: usize = 512;

/// Lanes a worker may have; a server with more than half as many databases has not been met.
const MAX_LANES: usize = 4096;

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// An idle connection is asked PING this often, so that neither side nor a firewall between forgets it.
const PING_AFTER: Duration = Duration::from_secs(10);

/// An idle connection is closed after this long, but for the worker's last.
const RETIRE_AFTER: Duration = Duration::from_secs(60);

/// Bounds of the pause after a failed attempt: it doubles from the first to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Dials under way at once in the whole process.
const DIALS: usize = 2;

/// Settings of the upstream side.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where Redis is.
    pub target: Target,
    /// Most upstream connections of the process.
    pub pool_size: usize,
    /// Dial and handshake together.
    pub connect_timeout: Duration,
    /// Databases that are accepted unseen while Redis cannot be asked: 0 to this, exclusive.
    pub databases: u32,
    /// Workers that share the pool.
    pub workers: usize,
    /// Our host's name, as CLIENT LIST on the server shows it.
    pub host: String,
}

/// What all workers share.
pub(crate) struct Shared {
    config: Config,
    permits: Arc<Permits>,
    dials: Semaphore,
    /// How many dials failed, and how the last did: who waits for its turn to dial need not find out again.
    failed: Mutex<(u64, Option<Error>)>,
    identity: Identity,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Arc<Self> {
        let permits = Permits::new(config.pool_size);
        Arc::new(Self {
            permits,
            dials: Semaphore::new(DIALS),
            failed: Mutex::default(),
            identity: Identity::default(),
            config,
        })
    }

    /// Dials when it is its turn, unless another attempt fails meanwhile: one cause is one failure.
    async fn dial(&self, key: LaneKey, name: &str) -> Result<Transport, Error> {
        let before = self.failed().0;
        // Closed never: the semaphore lives as long as the process.
        let _turn = self.dials.acquire().await.map_err(|_| Error::Closed)?;
        match &*self.failed() {
            (count, Some(error)) if *count != before => return Err(error.clone()),
            _ => {}
        }
        let (config, identity) = (&self.config, &self.identity);
        let result = connect::connect(&config.target, key, name, identity, config.connect_timeout).await;
        match &result {
            // What is refused for one database or protocol may be granted for another.
            Ok(_) | Err(Error::Database(_) | Error::Refused { .. }) => {}
            Err(error) => {
                let mut failed = self.failed();
                *failed = (failed.0 + 1, Some(error.clone()));
            }
        }
        result
    }

    fn failed(&self) -> MutexGuard<'_, (u64, Option<Error>)> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the server said of itself, once it was reached.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The database of a client that never said SELECT.
    pub(crate) fn default_database(&self) -> u32 {
        self.config.target.database
    }

    /// Databases that are accepted unseen while Redis cannot be asked: 0 to this, exclusive.
    pub(crate) fn databases(&self) -> u32 {
        self.config.databases
    }

    /// Connections a worker may keep while another waits for a permit.
    fn fair_share(&self) -> usize {
        (self.permits.total() / self.config.workers.max(1)).max(1)
    }
}

/// What comes back to a worker from the tasks that make connections, and from other workers.
pub(crate) enum Event {
    /// An attempt to get a connection for a lane ended.
    Made { lane: LaneId, usage: Use, switched: bool, result: Result<(Transport, Permit), Error> },
    /// A permit came free for this worker.
    Permit(Permit),
    /// A lane has waited for a quantum: time to look whose connection it gets.
    Rotate,
}

/// The answer to [`Upstream::reserve`].
pub(crate) enum Reserve {
    /// Send on this one, before anything else happens.
    Ready(ConnectionId),
    /// Not now; the waker is called when asking again makes sense.
    Wait,
    /// No connection is to be had now.
    Unavailable(Error),
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

struct Entry {
    connection: Connection,
    serial: u64,
    lane: LaneId,
}

/// One worker's upstream connections.
pub(crate) struct Upstream {
    shared: Arc<Shared>,
    worker: usize,
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
    /// Lanes that wait for a connection somebody gives up, first come, first served.
    starved: VecDeque<LaneId>,
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
    pool: ChunkPool,
    buffer: Box<[u8]>,
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
            pool: ChunkPool::new(memory),
            shared,
            worker,
            events,
            lanes: Vec::new(),
            by_key: HashMap::new(),
            vacant: Vec::new(),
            databases: HashSet::new(),
            refused_until: Instant::now(),
            askers: HashMap::new(),
            connections: Slab::new(),
            serial: 0,
            starved: VecDeque::new(),
            queued: false,
            rotating: false,
            withdrawn: 0,
            making: 0,
            failures: 0,
            buffer: vec![0; READ_BUFFER].into_boxed_slice(),
            now: Instant::now(),
        }
    }

    /// What all workers share.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
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

    /// True if the connection belongs to that lane.
    pub(crate) fn is_of_lane(&self, id: ConnectionId, lane: LaneId) -> bool {
        self.connections.get(id.slot).is_some_and(|entry| entry.serial == id.serial && entry.lane == lane)
    }

    /// Finds the connection for a client's next request.
    pub(crate) fn reserve(&mut self, want: Want, waker: &Waker) -> Reserve {
        if let Some(id) = want.bound {
            return match self.connection(id) {
                Some(connection) if connection.has_room() => Reserve::Ready(id),
                Some(connection) => {
                    connection.wait(want.client, waker);
                    Reserve::Wait
                }
                // Cannot happen: a connection that goes answers its clients first, and they are free then.
                None => Reserve::Unavailable(Error::Closed),
            };
        }
        let Some(best) = self.least_loaded(want.lane, want.usage) else {
            return self.need(want, waker);
        };
        self.grow(want, best);
        match self.connection(best) {
            Some(connection) if connection.has_room() => Reserve::Ready(best),
            Some(connection) => {
                connection.wait(want.client, waker);
                Reserve::Wait
            }
            None => Reserve::Unavailable(Error::Closed),
        }
    }

    /// Sends a request on a connection that [`Upstream::reserve`] has just named; its bytes are copied.
    pub(crate) fn send(&mut self, id: ConnectionId, client: ClientKey, muted: bool, request: &[u8]) {
        if let Some(entry) = self.connections.get_mut(id.slot).filter(|entry| entry.serial == id.serial) {
            entry.connection.send(client, muted, request, &mut self.pool);
        }
    }

    /// As [`Upstream::send`] for a large request, which is not copied.
    pub(crate) fn send_owned(&mut self, id: ConnectionId, client: ClientKey, muted: bool, request: Vec<u8>) {
        if let Some(connection) = self.connection(id) {
            connection.send_owned(client, muted, request);
        }
    }

    /// One turn of a connection's task; ready when the connection is no more.
    pub(crate) fn drive(&mut self, id: ConnectionId, cx: &mut Context<'_>, clients: &mut impl Replies) -> Poll<()> {
        self.now = Instant::now();
        let now = self.now;
        let Some(entry) = self.connections.get_mut(id.slot).filter(|entry| entry.serial == id.serial) else {
            return Poll::Ready(());
        };
        if let Err(error) = entry.connection.turn(cx, &mut self.buffer, &mut self.pool, clients, now) {
            self.lose(id, &error, clients);
            return Poll::Ready(());
        }
        if self.withdrawn > 0 {
            self.hand_over_if_at_rest(id);
        }
        Poll::Pending
    }

    /// Handles what a task or another worker sent. A new connection is returned: it needs a task that drives it.
    pub(crate) fn handle(&mut self, event: Event) -> Option<ConnectionId> {
        self.now = Instant::now();
        if matches!(event, Event::Made { .. }) {
            self.making -= 1;
        }
        match event {
            Event::Made { lane, usage, result: Ok((transport, permit)), .. } => {
                self.failures = 0;
                Some(self.install(lane, usage, transport, permit))
            }
            // It was an old connection that had gone meanwhile, which says nothing about a new one.
            Event::Made { lane, switched: true, result: Err(Error::Closed | Error::Io(_)), .. } => {
                self.doubt_server();
                self.lanes.get_mut(lane).into_iter().for_each(|lane| lane.pending -= 1);
                self.obtain(lane, Use::Normal);
                None
            }
            Event::Made { lane, result: Err(error), .. } => {
                self.attempt_failed(lane, &error);
                None
            }
            Event::Permit(permit) => {
                self.queued = false;
                if let Some(lane) = self.next_starved() {
                    self.dial(lane, Use::Normal, permit);
                    self.queue_for_permit();
                }
                None
            }
            Event::Rotate => {
                self.rotating = false;
                self.rotate();
                None
            }
        }
    }

    /// Housekeeping, several times a second: PINGs, retirement, and connections that another worker needs.
    pub(crate) fn tick(&mut self) {
        self.now = Instant::now();
        let now = self.now;
        let mut spare = self.connections.len().saturating_sub(1);
        for id in self.ids() {
            let Some(connection) = self.connection(id).filter(|connection| connection.is_at_rest()) else { continue };
            if spare > 0 && now.saturating_duration_since(connection.used()) >= RETIRE_AFTER {
                spare -= 1;
                self.discard(id);
            } else if now.saturating_duration_since(connection.active()) >= PING_AFTER {
                self.send(id, ClientKey::NOBODY, true, PING);
            }
        }
        if self.shared.permits.is_wanted() {
            self.rotate();
        }
        if self.now >= self.refused_until {
            self.askers.drain().for_each(|(_, waker)| waker.wake());
        }
        self.pool.trim();
    }

    /// Makes the first connection at start, so that the first client finds one and we learn who the server is.
    pub(crate) fn warm_up(&mut self, key: LaneKey) {
        let lane = self.lane(key);
        self.obtain(lane, Use::Normal);
    }

    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(id.slot).filter(|entry| entry.serial == id.serial).map(|entry| &mut entry.connection)
    }

    fn least_loaded(&self, lane: LaneId, usage: Use) -> Option<ConnectionId> {
        let candidates = self.lanes.get(lane)?.candidates(usage);
        let load = |id: &ConnectionId| {
            let connection = self.connections.get(id.slot).map(|entry| &entry.connection);
            connection.map_or(
                usize::MAX,
                |connection| if connection.has_room() { connection.in_flight() } else { usize::MAX },
            )
        };
        match candidates {
            [only] => Some(*only),
            several => {
                let roomy = several.iter().find(|id| load(id) < GROW_AT);
                roomy.or_else(|| several.iter().min_by_key(|id| load(id))).copied()
            }
        }
    }

    /// Gets a lane one more connection where its present ones are busy, or where it has none for this use. Only a free
    /// permit is taken for it: growth never takes a connection from another lane.
    fn grow(&mut self, want: Want, best: ConnectionId) {
        let Some(state) = self.lanes.get(want.lane) else { return };
        let lacks_own = want.usage == Use::Bulk && state.bulk.is_empty();
        let busy = self
            .connections
            .get(best.slot)
            .is_some_and(|entry| entry.connection.in_flight() >= GROW_AT || !entry.connection.has_room());
        if !(lacks_own || busy) {
            return;
        }
        let paused = state.failure.as_ref().is_some_and(|(_, until)| self.now < *until);
        if state.pending == 0
            && !paused
            && !self.shared.permits.is_wanted()
            && self.starved.is_empty()
            && let Some(permit) = self.shared.permits.try_acquire()
        {
            self.dial(want.lane, want.usage, permit);
        }
    }

    /// The lane has no connection: says so while an attempt has just failed, else starts one and lets the client wait.
    fn need(&mut self, want: Want, waker: &Waker) -> Reserve {
        self.now = Instant::now();
        let now = self.now;
        let Some(lane) = self.lanes.get_mut(want.lane) else { return Reserve::Unavailable(Error::Closed) };
        if let Some((error, until)) = &lane.failure
            && now < *until
        {
            return Reserve::Unavailable(error.clone());
        }
        lane.waiting.insert(want.client, waker.clone());
        if lane.pending == 0 && !lane.starved {
            self.obtain(want.lane, Use::Normal);
        }
        Reserve::Wait
    }

    fn ids(&self) -> Vec<ConnectionId> {
        self.connections.iter().map(|(slot, entry)| ConnectionId { slot, serial: entry.serial }).collect()
    }

    fn dial(&mut self, lane: LaneId, usage: Use, permit: Permit) {
        let Some(state) = self.lanes.get_mut(lane) else { return };
        state.pending += 1;
        self.making += 1;
        let (key, shared, events) = (state.key, Arc::clone(&self.shared), self.events.clone());
        let name = format!("outrigger:{}:{}:lane", shared.config.host, self.worker);
        spawn_local(async move {
            // The wait for one's turn counts: no client waits longer than the connect timeout.
            let attempt = timeout(shared.config.connect_timeout, shared.dial(key, &name));
            let result = attempt.await.unwrap_or(Err(Error::Timeout));
            let result = result.map(|transport| (transport, permit));
            drop(events.send(Event::Made { lane, usage, switched: false, result }));
        });
    }

    /// Puts a connection at rest to the use of another lane.
    fn switch(&mut self, id: ConnectionId, to: LaneId) {
        let Some((transport, permit, from)) = self.take(id) else { return };
        let (Some(from), Some(lane)) = (self.lanes.get(from).map(|lane| lane.key), self.lanes.get_mut(to)) else {
            return;
        };
        lane.pending += 1;
        self.making += 1;
        let (key, limit, events) = (lane.key, self.shared.config.connect_timeout, self.events.clone());
        spawn_local(async move {
            let result = connect::switch(transport, from, key, limit).await.map(|transport| (transport, permit));
            drop(events.send(Event::Made { lane: to, usage: Use::Normal, switched: true, result }));
        });
    }

    fn install(&mut self, lane: LaneId, usage: Use, transport: Transport, permit: Permit) -> ConnectionId {
        self.serial += 1;
        let connection = Connection::new(transport, permit, self.now);
        let slot = self.connections.insert(Entry { connection, serial: self.serial, lane });
        let id = ConnectionId { slot, serial: self.serial };
        self.starved.retain(|starved| *starved != lane);
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.pending -= 1;
            lane.starved = false;
            self.databases.insert(lane.key.database);
            lane.failure = None;
            lane.list_mut(usage).push(id);
            lane.wake_waiting();
        }
        id
    }

    fn attempt_failed(&mut self, lane: LaneId, error: &Error) {
        let refused_database = matches!(error, Error::Database(_));
        if !refused_database {
            tracing::warn!(%error, "cannot get an upstream connection");
            self.failures = self.failures.saturating_add(1);
        }
        if let Error::Database(reply) = error
            && reply.contains("out of range")
            && let Some(refused) = self.lanes.get(lane).map(|lane| lane.key.database)
            && self.beyond.as_ref().is_none_or(|(lowest, _)| refused < *lowest)
        {
            self.beyond = Some((refused, error.clone()));
        }
        let pause = PAUSE.0.saturating_mul(1 << self.failures.saturating_sub(1).min(8)).min(PAUSE.1);
        let until = self.now + pause;
        if let Some(state) = self.lanes.get_mut(lane) {
            state.pending -= 1;
        }
        if refused_database {
            self.refused_until = until;
            self.vacate(lane, error, until);
            return;
        }
        // One cause: what failed for this lane would fail for every other that waits. But what the server refuses in one
        // protocol it may grant in the other: before Redis 6 it knows no HELLO.
        let protocol = match error {
            Error::Refused { .. } => self.lanes.get(lane).map(|lane| lane.key.protocol),
            _ => None,
        };
        for (id, state) in self.lanes.iter_mut().enumerate() {
            let concerned = protocol.is_none_or(|protocol| protocol == state.key.protocol);
            if id == lane || (state.pending == 0 && concerned) {
                state.failure = Some((error.clone(), until));
                state.starved = false;
                state.wake_waiting();
            }
        }
        let lanes = &self.lanes;
        self.starved.retain(|id| lanes.get(*id).is_some_and(|lane| lane.starved));
    }

    /// The next connection may reach another server, with other databases.
    fn doubt_server(&mut self) {
        self.shared.identity.doubt();
        self.beyond = None;
    }

    /// The server has refused a lane's database. If that is because there is no such database and no client was ever let
    /// into the lane, it is free for another. Otherwise it remembers the refusal for a while.
    fn vacate(&mut self, id: LaneId, error: &Error, until: Instant) {
        let Some(lane) = self.lanes.get_mut(id) else { return };
        lane.failure = Some((error.clone(), until));
        lane.wake_waiting();
        let key = lane.key;
        let Some(lowest) = self.beyond.as_ref().map(|(lowest, _)| *lowest).filter(|lowest| key.database >= *lowest)
        else {
            return;
        };
        // Nor do those exist that others are about to ask for.
        for (id, lane) in self.lanes.iter_mut().enumerate() {
            let hopeless = !lane.entered && lane.pending == 0 && lane.key.database >= lowest;
            if hopeless && self.by_key.get(&lane.key) == Some(&id) {
                self.by_key.remove(&lane.key);
                self.vacant.push(id);
                lane.starved = false;
                lane.wake_waiting();
            }
        }
        let lanes = &self.lanes;
        self.starved.retain(|id| lanes.get(*id).is_some_and(|lane| lane.starved));
    }

    /// A connection failed: everybody who waits for a reply on it gets an error.
    fn lose(&mut self, id: ConnectionId, error: &Error, clients: &mut impl Replies) {
        let Some(entry) = self.remove(id) else { return };
        self.doubt_server();
        let in_flight = entry.connection.in_flight();
        if in_flight > 0 || !matches!(error, Error::Closed) {
            tracing::warn!(%error, in_flight, "lost an upstream connection");
        } else {
            tracing::info!("the upstream ended an idle connection");
        }
        entry.connection.close(&mut self.pool, clients);
    }

    fn remove(&mut self, id: ConnectionId) -> Option<Entry> {
        self.connection(id)?;
        let entry = self.connections.remove(id.slot);
        if entry.connection.is_withdrawn() {
            self.withdrawn -= 1;
        }
        if let Some(lane) = self.lanes.get_mut(entry.lane) {
            lane.remove(id);
        }
        Some(entry)
    }

    fn take(&mut self, id: ConnectionId) -> Option<(Transport, Permit, LaneId)> {
        let entry = self.remove(id)?;
        let (transport, permit) = entry.connection.release();
        Some((transport, permit, entry.lane))
    }

    /// Closes a connection at rest; its permit passes on.
    fn discard(&mut self, id: ConnectionId) {
        drop(self.take(id));
    }
}
