//! How a lane comes by a connection: on demand, one more when it is busy, and by a probe when Redis was gone.
//!
//! Whether a dial may begin is the supervisor's to say ([`super::supervisor`]). A request waits for a connection only while
//! nobody knows that there is none to be had; from the first dial that fails until one succeeds, requests are answered at
//! once, and the supervisor sends a worker to probe from time to time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};

use super::breaker::State;
use super::connect::{self, Attempt, LaneKey, Peer, Progress, Protocol};
use super::connection::{Connection, Made, Replies};
use super::error::Error;
use super::lane::{ConnectionId, Lane, LaneId, Use};
use super::pool::Permit;
use super::shared::Shared;
use super::subscription;
use super::supervisor::{Link, Supervisor};
use super::watch::FIRST_WINDOW;
use super::{Entry, Event, GROW_AT, Reserve, Upstream, Want};
use crate::transport::Transport;

/// Bounds of the pause after an attempt that failed for one lane: it doubles from the first to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// The same where attempts take too long: a server that is slow already is not to be kept busy with handshakes.
const LONG_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// How long one attempt is carried on in the background after it was given up, if something took our connection: a frozen
/// server that wakes up, or one that has loaded its data, is noticed at once.
const LINGER: Duration = Duration::from_secs(600);

/// So many attempts are carried on at once in the process.
const LINGERERS: usize = 2;

impl Upstream {
    pub(super) fn least_loaded(&self, lane: LaneId, usage: Use) -> Option<ConnectionId> {
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
    pub(super) fn grow(&mut self, want: Want, best: ConnectionId) {
        let Some(state) = self.lanes.get(want.lane) else { return };
        let lacks_own = want.usage == Use::Bulk && state.bulk.is_empty();
        let busy = self.connections.get(best.slot).is_some_and(|entry| {
            entry.connection.in_flight() >= GROW_AT || entry.connection.is_full() || entry.connection.is_withdrawn()
        });
        if !(lacks_own || busy) {
            return;
        }
        let paused = state.failure.as_ref().is_some_and(|(_, until)| self.now < *until);
        if state.pending == 0
            && !paused
            && self.shared.link() == Link::Up
            && !self.shared.permits.is_wanted()
            && self.starved.is_empty()
            && let Some(permit) = self.shared.permits.try_acquire()
        {
            self.dial(want.lane, want.usage, permit);
        }
    }

    /// The lane has no connection: says so if none is to be had, else starts an attempt and lets the client wait.
    pub(super) fn need(&mut self, want: Want, waker: &Waker) -> Reserve {
        self.now = Instant::now();
        let Some(lane) = self.lanes.get(want.lane) else { return Reserve::Unavailable(Error::Closed) };
        if let Some((error, until)) = lane.failure.clone() {
            let answer = matches!(error, Error::Database(_));
            if self.now < until {
                return Reserve::Unavailable(error);
            }
            // The next attempt may fail as the last did, and take as long: nobody waits for it. A database that was
            // refused is asked for again, though, since the refusal is the answer.
            if !answer {
                self.obtain_if_bare(want.lane);
                return self.refuse(want.lane, error);
            }
        }
        let Some(lane) = self.lanes.get_mut(want.lane) else { return Reserve::Unavailable(Error::Closed) };
        if !self.shared.is_worth_waiting(self.now) {
            return self.refuse(want.lane, Error::Closed);
        }
        lane.waiting.insert(want.client, waker.clone());
        if lane.pending == 0 && !lane.starved {
            self.obtain(want.lane, Use::Normal);
        }
        Reserve::Wait
    }

    /// Dials for a lane, if operator and supervisor let us. If not, the lane's clients wait for what comes of the dial under
    /// way.
    pub(super) fn dial(&mut self, lane: LaneId, usage: Use, permit: Permit) {
        if self.view.state != State::Isolated && self.shared.ask(|supervisor| supervisor.may_dial(self.now)) {
            self.begin_dial(lane, usage, permit);
        } else if usage == Use::Lease {
            self.lease_came();
        }
    }

    /// Dials for a lane; the supervisor has counted the dial.
    fn begin_dial(&mut self, lane: LaneId, usage: Use, permit: Permit) {
        let Some(key) = self.begin_making(lane, usage) else { return };
        let (shared, events) = (Arc::clone(&self.shared), self.events.clone());
        let renewal = shared.renewals.load(Ordering::Relaxed);
        let name = if lane == subscription::LANE {
            format!("outrigger:{}:{}:subscription", shared.config.host, self.worker)
        } else {
            self.own_name(usage)
        };
        spawn_local(async move {
            let progress = Progress::default();
            let attempt = attempt(&shared, key, &name, &progress);
            let mut attempt = std::pin::pin!(attempt);
            let made = move |(transport, peer, asked)| Made { transport, permit, peer, asked, renewal };
            let begun = Instant::now();
            let metrics = Arc::clone(&shared.metrics);
            let report = |result: Result<Made, Error>| {
                if !matches!(result, Err(Error::Withheld)) {
                    metrics.dialled(result.as_ref().map_or_else(Error::reason, |_| "ok"), begun.elapsed());
                }
                drop(events.send(Event::Made { lane, usage, switched: false, result }));
            };
            // Whoever waits is told when there is no use in waiting, though the attempt may go on.
            let error = tokio::select! {
                result = &mut attempt => return report(result.map(made)),
                () = sleep(shared.config.connect_timeout) => Error::Timeout,
                refusal = progress.refusal() => refusal,
            };
            report(Err(error));
            if progress.is_connected() {
                let most = LINGERERS.min(shared.permits.total() - 1);
                if shared.lingering.fetch_add(1, Ordering::AcqRel) < most
                    && let Ok(Ok(late)) = timeout(LINGER, attempt).await
                {
                    drop(events.send(Event::Late { lane, key, made: made(late) }));
                }
                shared.lingering.fetch_sub(1, Ordering::AcqRel);
            }
        });
    }

    /// What the server calls a connection of this use in CLIENT LIST.
    pub(super) fn own_name(&self, usage: Use) -> String {
        let what = if usage == Use::Lease { "lease" } else { "lane" };
        format!("outrigger:{}:{}:{what}", self.shared.config.host, self.worker)
    }

    /// Notes that a connection is being made for a lane, whose key this is.
    fn begin_making(&mut self, lane: LaneId, usage: Use) -> Option<LaneKey> {
        let state = self.lanes.get_mut(lane)?;
        state.pending += usize::from(usage != Use::Lease);
        self.making += 1;
        let key = state.key;
        if lane == subscription::LANE {
            self.expect_feed();
        }
        Some(key)
    }

    /// Notes that a connection is not being made any more, or not for this lane.
    fn end_making(&mut self, lane: LaneId, usage: Use) {
        if usage == Use::Lease {
            self.lease_came();
        } else if let Some(lane) = self.lanes.get_mut(lane) {
            lane.pending -= 1;
        }
    }

    /// Puts a connection at rest to the use of another lane.
    pub(super) fn switch(&mut self, id: ConnectionId, to: LaneId, usage: Use) {
        let Some((made, from)) = self.take(id) else { return };
        let (Some(from), Some(key)) = (self.lanes.get(from).map(|lane| lane.key), self.begin_making(to, usage)) else {
            return;
        };
        let (limit, events) = (self.shared.config.connect_timeout, self.events.clone());
        spawn_local(async move {
            let Made { transport, permit, peer, asked, renewal } = made;
            let result = connect::switch(transport, from, key, limit).await;
            let result = result.map(|transport| Made { transport, permit, peer, asked, renewal });
            drop(events.send(Event::Made { lane: to, usage, switched: true, result }));
        });
    }

    /// An attempt ended. A new connection is returned.
    pub(super) fn made(
        &mut self,
        lane: LaneId,
        usage: Use,
        switched: bool,
        result: Result<Made, Error>,
        clients: &mut impl Replies,
    ) -> Option<ConnectionId> {
        self.making -= 1;
        if lane == subscription::LANE && result.is_err() {
            self.expect_no_feed();
        }
        match result {
            Ok(made) if switched => Some(self.install(lane, usage, made)),
            Ok(made) => Some(self.arrived(lane, usage, made)),
            // It was an old connection that had gone meanwhile, which says nothing about a new one.
            Err(Error::Closed | Error::Io(_)) if switched => {
                self.doubt_server();
                self.end_making(lane, usage);
                if usage == Use::Lease {
                    self.wake_lessees();
                } else {
                    self.obtain(lane, usage);
                }
                None
            }
            // Connections were lost meanwhile, and others find out whether Redis is there.
            Err(Error::Withheld) => {
                self.shared.supervise(Supervisor::withheld);
                self.end_making(lane, usage);
                if !self.shared.is_worth_waiting(self.now) {
                    self.lanes.get_mut(lane).into_iter().for_each(Lane::wake_waiting);
                }
                self.fail_parked(clients);
                None
            }
            Err(error) => {
                self.end_making(lane, usage);
                self.attempt_failed(lane, switched, &error, clients);
                None
            }
        }
    }

    /// A dial succeeded: Redis can be reached, whatever was thought of it before.
    fn arrived(&mut self, lane: LaneId, usage: Use, made: Made) -> ConnectionId {
        self.settle(lane, usage, made, Supervisor::made)
    }

    /// An attempt that was given up has succeeded after all. It is of no use if Redis was found meanwhile, perhaps elsewhere;
    /// while it recovers, only to a lane that has none; nor if its lane has another database by now.
    pub(super) fn arrived_late(&mut self, lane: LaneId, key: LaneKey, made: Made) -> Option<ConnectionId> {
        let link = self.shared.link();
        let state = self.lanes.get_mut(lane).filter(|lane| lane.key == key)?;
        if link == Link::Up || (link == Link::Recovering && !state.normal.is_empty()) {
            return None;
        }
        state.pending += 1;
        Some(self.settle(lane, Use::Normal, made, Supervisor::revived))
    }

    fn settle(
        &mut self,
        lane: LaneId,
        usage: Use,
        made: Made,
        outcome: impl FnOnce(&mut Supervisor, Instant),
    ) -> ConnectionId {
        let was_down = self.shared.link() == Link::Down;
        self.shared.hear(self.now);
        self.shared.prove(made.asked);
        for lane in &mut self.lanes {
            lane.failure = lane.failure.take().filter(|(error, _)| matches!(error, Error::Database(_)));
        }
        if was_down {
            if self.shared.was_usable() {
                self.shared.metrics.reconnects.with_label_values(&["ok"]).inc();
            }
            self.window = FIRST_WINDOW;
            tracing::info!("connected to the upstream again");
        }
        let id = self.install(lane, usage, made);
        // Only now: a link that is up and has no connection is taken for lost.
        self.shared.supervise(|supervisor| outcome(supervisor, self.now));
        self.shared.tell(|breaker| {
            breaker.dial_made(self.now);
            breaker.probe_succeeded(self.now);
        });
        self.look();
        id
    }

    fn install(&mut self, lane: LaneId, usage: Use, made: Made) -> ConnectionId {
        self.failures = 0;
        self.serial += 1;
        self.end_making(lane, usage);
        let id = if lane == subscription::LANE { self.install_feed(made) } else { self.enlist(lane, usage, made) };
        if usage != Use::Lease {
            self.starved.retain(|starved| *starved != (lane, Use::Normal));
            self.lanes.get_mut(lane).into_iter().for_each(|lane| lane.starved = false);
        }
        if let Some(lane) = self.lanes.get_mut(lane) {
            self.databases.insert(lane.key.database);
            lane.failure = None;
            lane.wake_waiting();
        }
        self.place_parked(lane);
        id
    }

    /// Takes a connection into a lane's service.
    fn enlist(&mut self, lane: LaneId, usage: Use, made: Made) -> ConnectionId {
        let renewal = made.renewal;
        let (deadline, cells) = (self.shared.config.request_timeout, Arc::clone(&self.cells));
        let mut connection = Connection::new(made, deadline, self.view, cells, self.now);
        connection.set_window(self.window);
        let serial = self.serial;
        let slot = self.connections.insert(Entry {
            connection,
            serial,
            lane,
            usage,
            questioned: None,
            struck: false,
            renewal,
            holder: None,
            name: Box::default(),
        });
        let id = ConnectionId { slot, serial };
        if usage == Use::Lease {
            self.lease_installed(id);
            return id;
        }
        self.shared.count_usable(true);
        self.lanes.get_mut(lane).into_iter().for_each(|lane| lane.add(id, usage));
        id
    }

    fn attempt_failed(&mut self, lane: LaneId, switched: bool, error: &Error, clients: &mut impl Replies) {
        let server_wide = !error.is_of_lane();
        if !switched {
            self.judge(error, server_wide);
        }
        match error {
            Error::Database(_) => {}
            _ if self.failures == 0 => {
                let next_dial_ms = self.shared.next_dial_ms(self.now);
                tracing::warn!(%error, next_dial_ms, "cannot get an upstream connection");
            }
            _ => tracing::debug!(%error, "cannot get an upstream connection"),
        }
        if !matches!(error, Error::Withheld | Error::Database(_)) {
            self.shared.note_problem(error, true, self.now);
        }
        self.failures = self.failures.saturating_add(1);
        self.give_up_for_now(lane, error, server_wide);
        self.look();
        self.fail_parked(clients);
    }

    /// Tells supervisor and breaker how a dial failed. One that failed for its database or protocol alone was refused by a
    /// server that serves.
    fn judge(&self, error: &Error, server_wide: bool) {
        let (now, usable) = (self.now, self.shared.has_usable());
        if !server_wide {
            self.shared.supervise(|supervisor| supervisor.made(now));
            self.shared.tell(|breaker| {
                breaker.dial_made(now);
                breaker.probe_succeeded(now);
            });
            return;
        }
        if !usable && self.shared.was_usable() {
            self.shared.metrics.reconnects.with_label_values(&["failed"]).inc();
        }
        self.shared.supervise(|supervisor| {
            if !usable {
                supervisor.lost(false, true, now);
            }
            supervisor.failed(error.dial_failure(), now);
        });
        self.shared.blame("connect", |breaker| {
            breaker.dial_refused(now, usable);
            breaker.probe_failed(now);
        });
    }

    /// A lane that could not get a connection asks for none for a moment, nor do others for which the same holds.
    fn give_up_for_now(&mut self, lane: LaneId, error: &Error, server_wide: bool) {
        if let Error::Database(reply) = error
            && reply.contains("out of range")
            && let Some(refused) = self.lanes.get(lane).map(|lane| lane.key.database)
            && self.beyond.as_ref().is_none_or(|(lowest, _)| refused < *lowest)
        {
            self.beyond = Some((refused, error.clone()));
        }
        let (shortest, longest) = if matches!(error, Error::Timeout) { LONG_PAUSE } else { PAUSE };
        let pause = shortest.saturating_mul(1 << self.failures.saturating_sub(1).min(8)).min(longest);
        let until = self.now + pause;
        if matches!(error, Error::Database(_)) {
            self.refused_until = until;
            self.vacate(lane, error, until);
            return;
        }
        let protocol = self.lanes.get(lane).map(|lane| lane.key.protocol).filter(|_| !server_wide);
        for (id, state) in self.lanes.iter_mut().enumerate() {
            let concerned = protocol.is_none_or(|protocol| protocol == state.key.protocol);
            if id == lane || (state.pending == 0 && concerned) {
                state.failure = Some((error.clone(), until));
                state.starved = false;
                state.wake_waiting();
            }
        }
        self.forget_satisfied();
        self.wake_lessees();
    }

    /// Lanes that wait no more are not in the queue.
    fn forget_satisfied(&mut self) {
        let lanes = &self.lanes;
        self.starved.retain(|(id, usage)| *usage == Use::Lease || lanes.get(*id).is_some_and(|lane| lane.starved));
    }

    /// The next connection may reach another server, with other databases.
    pub(super) fn doubt_server(&mut self) {
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
        self.forget_satisfied();
    }

    /// The link changed: whoever waits asks again, and lanes that were told there is nothing to be had may try.
    pub(super) fn link_changed(&mut self, clients: &mut impl Replies) {
        let link = self.shared.link();
        for lane in &mut self.lanes {
            if matches!(link, Link::Up | Link::Recovering) {
                lane.failure = lane.failure.take().filter(|(error, _)| matches!(error, Error::Database(_)));
            }
            lane.wake_waiting();
        }
        self.wake_lessees();
        for lane in 0..self.lanes.len() {
            if self.lanes.get(lane).is_some_and(|lane| !lane.parked.is_empty()) {
                self.obtain_if_bare(lane);
                self.place_parked(lane);
            }
        }
        self.fail_parked(clients);
        self.resume_feed();
    }

    /// Dials once, to see whether Redis is back, for the lane that last missed a connection.
    pub(super) fn probe(&mut self) {
        let database = self.shared.default_database();
        let lane = match self.demand {
            Some(lane) => lane,
            None => self.lane(LaneKey { database, protocol: Protocol::Resp3 }),
        };
        if self.view.state == State::Isolated || self.lanes.get(lane).is_none_or(|lane| lane.pending > 0) {
            return;
        }
        let permit = self.shared.permits.try_acquire().or_else(|| {
            self.end_most_silent();
            self.shared.permits.try_acquire()
        });
        if let Some(permit) = permit
            && self.shared.ask(|supervisor| supervisor.take_probe(self.now))
        {
            self.begin_dial(lane, Use::Normal, permit);
        }
    }

    /// Where all permits are held by connections that do not work, the one silent for longest makes room.
    fn end_most_silent(&mut self) {
        let useless = |entry: &Entry| entry.connection.is_sidelined() && !entry.connection.is_awaited();
        let silent = self.connections.iter().filter(|(_, entry)| useless(entry));
        let most = silent.min_by_key(|(_, entry)| entry.connection.heard());
        if let Some(id) = most.map(|(slot, entry)| ConnectionId { slot, serial: entry.serial }) {
            self.fence_off(id, &[]);
            self.end(id);
        }
    }

    /// The server has become a replica: connections take no more requests, finish what they have, and are closed.
    pub(super) fn renew(&mut self) {
        let current = self.shared.renewals.load(Ordering::Relaxed);
        for id in self.ids() {
            let old = |entry: &mut Entry| {
                // A lease that is held moves when it is given back.
                entry.renewal < current && !entry.connection.is_withdrawn() && entry.holder.is_none()
            };
            if self.entry(id).is_some_and(old) {
                self.withdraw(id);
                self.hand_over_if_at_rest(id);
            }
        }
        self.renew_feed(current);
        let wanting: Vec<LaneId> = (0..self.lanes.len())
            .filter(|id| self.lanes.get(*id).is_some_and(|lane| !lane.waiting.is_empty() || !lane.parked.is_empty()))
            .collect();
        wanting.into_iter().for_each(|lane| self.obtain_if_bare(lane));
    }

    /// True if a connection is being made for a lane.
    pub(crate) fn is_dialling(&self, lane: LaneId) -> bool {
        self.lanes.get(lane).is_some_and(|lane| lane.pending > 0)
    }

    /// Gets a lane a connection if it has none in service and none is being made.
    pub(super) fn obtain_if_bare(&mut self, lane: LaneId) {
        // While the breaker is open it is for the supervisor to say when Redis is asked again.
        let shut = matches!(self.view.state, State::Open | State::Isolated) && !self.may_probe();
        let bare =
            |lane: &Lane| !shut && lane.normal.is_empty() && lane.bulk.is_empty() && lane.pending == 0 && !lane.starved;
        if self.lanes.get(lane).is_some_and(bare)
            && matches!(self.shared.link(), Link::Unknown | Link::Up | Link::Doubtful)
        {
            self.obtain(lane, Use::Normal);
        }
    }
}

/// Waits for its turn and makes a connection.
async fn attempt(
    shared: &Shared,
    lane: LaneKey,
    name: &str,
    progress: &Progress,
) -> Result<(Transport, Option<Peer>, Instant), Error> {
    let turn = shared.dials.acquire().await;
    let config = &shared.config;
    let attempt = Attempt {
        target: &config.target,
        lane,
        name,
        identity: &shared.identity,
        resolver: &shared.resolver,
        leaves: &|| shared.ask(|supervisor| supervisor.leaves(Instant::now())),
        has_left: &|| shared.ask(|supervisor| supervisor.has_left(Instant::now())),
        limit: config.connect_timeout,
        user_timeout: config.request_timeout.saturating_mul(2).max(Duration::from_secs(1)),
        progress,
    };
    let mut dial = std::pin::pin!(connect::connect(&attempt));
    // Only while it is not known to be a matter of patience does it keep others from dialling.
    tokio::select! {
        result = &mut dial => return result,
        () = sleep(config.connect_timeout) => {}
        _ = progress.refusal() => {}
    }
    drop(turn);
    dial.await
}
