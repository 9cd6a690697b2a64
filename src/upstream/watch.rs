//! The watch over connections, ten times a second: deadlines, silence, and what is done about them.
//!
//! A connection that misses a deadline and is silent takes no new request until it has caught up; one that goes on answering
//! is slow, and stays. One that is silent for a second while
//! something is due makes us ask for a sign of life elsewhere. If there is one, only this connection is stuck: reads that
//! wait on it are asked elsewhere. If there is none until a request's deadline, Redis hangs: the breaker trips, and
//! everybody on every worker is answered at once. What is kept then, connections at rest and a dial that nobody answers
//! yet, tells by its first byte that Redis is back.

use std::time::Duration;

use tokio::time::Instant;

use super::breaker::{Change, Reason, State};
use super::connection::{MAX_IN_FLIGHT, Replies, Slot, Traits};
use super::error::{Error, Why};
use super::lane::{ConnectionId, Use};
use super::supervisor::Link;
use super::{ClientKey, Message, PING, TICK, Upstream};

/// While the server recovers, so many requests may be in flight on a connection; twice as many after each good tick.
pub(super) const FIRST_WINDOW: usize = 32;

/// Silence that makes us ask for a sign of life; a quarter of the deadline where that is less.
const SILENCE: Duration = Duration::from_secs(1);

/// An idle connection is asked PING this often, give or take a tenth, so that neither side nor a firewall between forgets
/// it, and so that we know whether it works.
pub(super) const PING_AFTER: Duration = Duration::from_secs(10);

/// A PING that is not answered within this is a failed health check.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// While the breaker is open and there are connections, they are asked PING this often.
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// An idle connection is closed after this long, but for the worker's last.
const RETIRE_AFTER: Duration = Duration::from_secs(60);

/// So many requests in flight that nobody waits for any more end a connection.
const MAX_LATE: usize = 256;

/// What a slow server makes much of is logged no more often, in ticks.
const REPORT_EVERY: u32 = 100;

/// A worker that did not run for so many ticks has replies to read before it may judge anybody.
const ASLEEP: u32 = 5;

impl Upstream {
    /// One look at everything.
    pub(super) fn watch(&mut self, clients: &mut impl Replies) {
        let elapsed = self.now.saturating_duration_since(self.origin).as_millis() / TICK.as_millis();
        let before = std::mem::replace(&mut self.ticks, u32::try_from(elapsed).unwrap_or(u32::MAX / 2));
        self.shared.hear(self.heard);
        self.budget.deposit(std::mem::take(&mut self.sent));
        self.budget.tick();
        let asleep = self.ticks.saturating_sub(before) > ASLEEP;
        if asleep && !std::mem::replace(&mut self.overslept, asleep) {
            return;
        }
        self.overslept = asleep;
        let passes_on_readonly = self.shared.ask(|supervisor| supervisor.passes_on_readonly(self.now));
        let mut failed = false;
        for id in self.ids() {
            if self.is_lease(id) {
                self.watch_lease(id, clients);
                continue;
            }
            self.connection(id).into_iter().for_each(|connection| connection.pass_on_readonly(passes_on_readonly));
            failed |= self.end_slot(id);
            self.sweep(id, clients);
            self.listen(id, clients);
        }
        self.report();
        self.take_stock();
        self.remind_lessees();
        if !failed {
            self.widen();
        }
        for lane in 0..self.lanes.len() {
            // Their connection may have left service since, or their dial was withheld.
            if self.lanes.get(lane).is_some_and(|lane| !lane.parked.is_empty() || !lane.waiting.is_empty()) {
                self.obtain_if_bare(lane);
                self.place_parked(lane);
            }
        }
        self.fail_overdue_parked(clients);
        self.watch_feed(clients);
    }

    /// Notes what there is just now, for metrics.
    fn take_stock(&self) {
        let (mut busy, mut idle, mut held, mut in_flight) = (0, 0, 0, 0);
        for (_, entry) in &self.connections {
            in_flight += entry.connection.in_flight() as u64;
            match (entry.holder.is_some(), entry.connection.in_flight()) {
                (true, _) => held += 1,
                (false, 0) => idle += 1,
                (false, _) => busy += 1,
            }
        }
        busy += self.subscriptions.held() as u64;
        self.cells.in_flight.set(in_flight);
        for (cell, count) in self.cells.connections.iter().zip([busy, idle, held, self.making as u64]) {
            cell.set(count);
        }
    }

    /// Logs what was not answered or refused, once in a while: a slow server makes much of both.
    fn report(&mut self) {
        let (requests, hangs, due) = self.overdue;
        if requests > 0 && (hangs || self.ticks >= due) {
            tracing::warn!(requests, hangs, "no reply before the deadline");
            self.overdue = (0, false, self.ticks + REPORT_EVERY);
        }
        let (clients, due) = self.crowded;
        if clients > 0 && self.ticks >= due {
            let held = self.shared.leases();
            tracing::warn!(clients, held, "no connection of their own for clients in time, see --pool-size");
            self.crowded = (0, self.ticks + REPORT_EVERY);
        }
        let (requests, due) = self.overloads;
        if requests > 0 && self.ticks >= due {
            tracing::warn!(requests, "refused what a slow upstream could not answer in time");
            self.overloads = (0, self.ticks + REPORT_EVERY);
        }
    }

    /// Tells the breaker how a connection fared in this tick; true if badly.
    fn end_slot(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.connection(id) else { return false };
        let (slot, view, now) = (connection.end_slot(), connection.view(), self.now);
        match slot {
            Slot::Nothing => {}
            Slot::Success => self.shared.tell(|breaker| {
                breaker.success(view.generation, now);
                breaker.health_check(true, now);
                // While open only our own PINGs are sent.
                if view.state == State::Open {
                    breaker.probe_succeeded(now);
                }
            }),
            Slot::Failure => self.shared.blame("unavailable_reply", |breaker| {
                breaker.failure(view.generation, now);
                breaker.probe_failed(now);
            }),
        }
        slot == Slot::Failure
    }

    /// Answers those whose deadline has passed on this connection.
    fn sweep(&mut self, id: ConnectionId, clients: &mut impl Replies) {
        let now_ticks = self.ticks;
        let Some(connection) = self.connection(id) else { return };
        let overdue = connection.take_overdue(now_ticks);
        if overdue.is_empty() {
            return;
        }
        let (silent_since, view, late) = (connection.silent_since(), connection.view(), connection.late());
        let silent = silent_since.map_or(Duration::ZERO, |since| self.now.saturating_duration_since(since));
        let quiet = self.shared.config.request_timeout / 4 * 3;
        let hangs = overdue.iter().any(|request| !request.entry.traits.is_slow())
            && silent >= quiet
            && self.now.checked_sub(quiet).is_some_and(|then| !self.shared.heard_since(then));
        let unsent = overdue.iter().any(|request| !request.sent);
        self.overdue.0 += overdue.len();
        self.overdue.1 |= hangs;
        let flows = !unsent && late < MAX_LATE && !self.is_stuck(silent_since, silent);
        if !flows {
            self.sideline(id);
        }
        let fenced = if flows { self.may_fence(id) } else { self.fence_off(id, &overdue) };
        for request in &overdue {
            self.fail(request, Why::Deadline, fenced, clients);
        }
        clients.flush(&[]);
        if flows {
            overdue.iter().for_each(|request| clients.kept(request.entry.client, id));
        }
        self.attend_to(id, clients);
        if hangs {
            self.shared.blame("timeout", |breaker| breaker.hang(self.now));
            self.look();
        } else {
            self.shared.blame("timeout", |breaker| breaker.failure(view.generation, self.now));
        }
        if unsent || late >= MAX_LATE {
            // What was not sent must never be.
            self.lose(id, &Error::Silent, clients);
        }
        if hangs && self.view.state == State::Open {
            self.shared.supervise(|supervisor| supervisor.lost(false, true, self.now));
            self.abandon(clients);
        }
    }

    /// Whether a connection is worse than others: silent, though the server has answered what it was asked later, or though
    /// nothing comes from it at all. One that goes on answering, or has to wait for its turn at a server that does, is slow:
    /// another would be no better.
    fn is_stuck(&self, silent_since: Option<Instant>, silent: Duration) -> bool {
        let heard = self.now.checked_sub(self.silence()).is_some_and(|then| self.shared.heard_since(then));
        let overtaken = silent_since.is_some_and(|since| self.shared.is_proved_since(since));
        silent >= self.silence() && (overtaken || !heard)
    }

    /// Silence that makes us ask for a sign of life.
    fn silence(&self) -> Duration {
        SILENCE.min(self.shared.config.request_timeout / 4)
    }

    /// Minds a connection on which something is due and nothing comes.
    fn listen(&mut self, id: ConnectionId, clients: &mut impl Replies) {
        let now = self.now;
        let timeout = self.shared.config.request_timeout;
        let (now_ticks, silence) = (self.ticks, self.silence());
        let Some(entry) = self.entry(id) else { return };
        let silent =
            entry.connection.silent_since().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if silent < silence {
            (entry.questioned, entry.struck) = (None, false);
            return;
        }
        // A client that has got half a reply cannot be told anything: it is not kept waiting.
        let patience = if entry.connection.is_streaming() { timeout } else { timeout.saturating_mul(2) };
        if silent >= patience && (entry.connection.is_streaming() || !entry.connection.has_time_left(now_ticks)) {
            self.lose(id, &Error::Silent, clients);
            return;
        }
        if silent >= PING_TIMEOUT && !entry.struck && !entry.connection.is_awaited() {
            entry.struck = true;
            self.shared.metrics.silent_checks.inc();
            self.shared.note_silence(now - silent);
            self.shared.blame("health_check", |breaker| breaker.health_check(false, now));
            return;
        }
        match entry.questioned {
            None => {
                entry.questioned = Some(now);
                self.ask_for_life(id);
            }
            Some(asked) => {
                let in_service = !entry.connection.is_sidelined();
                let again = now.saturating_duration_since(asked) >= silence;
                if self.shared.is_proved_since(asked) {
                    if again {
                        // What was heard long ago proves nothing when the deadline comes.
                        self.entry(id).into_iter().for_each(|entry| entry.questioned = Some(now));
                        self.shared.broadcast(|| super::Event::Prove);
                    }
                    if in_service {
                        tracing::warn!("a connection is stuck while the upstream answers on others");
                    }
                    self.sideline(id);
                    self.fence_off(id, &[]);
                    self.move_stranded(id, clients);
                }
            }
        }
    }

    /// Asks for a sign of life on other connections, and for one more of the same lane if that has no other.
    fn ask_for_life(&mut self, id: ConnectionId) {
        self.shared.broadcast(|| super::Event::Prove);
        let Some(lane) = self.entry(id).map(|entry| entry.lane) else { return };
        let alone = self.connections.iter().all(|(_, entry)| entry.lane != lane || entry.questioned.is_some());
        // A server that says anything at all is busy, and a dial would keep it busier; the PINGs find out what they can.
        let heard = self.now.checked_sub(self.silence()).is_some_and(|then| self.shared.heard_since(then));
        if alone
            && !heard
            && self.shared.link() == Link::Up
            && self.lanes.get(lane).is_some_and(|lane| lane.pending == 0 && !lane.starved)
            && let Some(permit) = self.shared.permits.try_acquire()
        {
            self.dial(lane, Use::Normal, permit);
        }
    }

    /// Asks for a sign of life on the connection with the least to do, but for those whose silence raised the question.
    pub(super) fn prove(&mut self) {
        let candidates = self.ids().into_iter().filter(|id| {
            self.connections.get(id.slot).is_some_and(|entry| {
                entry.usage != Use::Lease
                    && entry.questioned.is_none()
                    && entry.connection.has_room()
                    && !entry.connection.is_being_asked()
            })
        });
        let load = |id: &ConnectionId| self.connections.get(id.slot).map(|entry| entry.connection.in_flight());
        if let Some(id) = candidates.min_by_key(load) {
            self.ask(id, ClientKey::PROOF);
        }
    }

    fn ping(&mut self, id: ConnectionId) {
        self.ask(id, ClientKey::PING);
    }

    /// Sends a PING of our own.
    pub(super) fn ask(&mut self, id: ConnectionId, client: ClientKey) {
        self.send(id, Message::unasked(client, Traits::default()), PING);
    }

    /// Has reads that wait on a stuck connection asked elsewhere, once two fifths of their time have passed.
    fn move_stranded(&mut self, id: ConnectionId, clients: &mut impl Replies) {
        let due = self.ticks + self.limit / 5 * 3;
        let Some(entry) = self.entry(id) else { return };
        let lane = entry.lane;
        let mut stranded = entry.connection.take_stranded(due);
        stranded.sort_by_key(|request| (request.entry.client.slot, request.entry.client.generation));
        if stranded.is_empty() {
            return;
        }
        // If the budget is used up they are asked again all the same: they were taken back, and this happens once.
        let _ = self.budget.withdraw(stranded.len() as u64);
        stranded.into_iter().for_each(|request| self.park(lane, request, clients));
        self.obtain_if_bare(lane);
        self.place_parked(lane);
    }

    /// Takes a connection out of service until it shows that it works.
    pub(super) fn sideline(&mut self, id: ConnectionId) {
        let Some(entry) = self.entry(id).filter(|entry| !entry.connection.is_sidelined()) else { return };
        entry.connection.sideline(true);
        entry.connection.wake_waiting();
        let lane = entry.lane;
        self.lanes.get_mut(lane).into_iter().for_each(|lane| lane.remove(id));
        self.shared.count_usable(false);
    }

    /// Puts a connection back into service that has just shown that it works, unless it still has to catch up.
    pub(super) fn reinstate(&mut self, id: ConnectionId) {
        let Some(entry) = self.entry(id) else { return };
        if entry.connection.late() > 0 || entry.connection.is_withdrawn() {
            return;
        }
        entry.connection.sideline(false);
        (entry.questioned, entry.struck) = (None, false);
        let (lane, usage) = (entry.lane, entry.usage);
        self.shared.count_usable(true);
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.add(id, usage);
            lane.failure = None;
            lane.wake_waiting();
        }
        if matches!(self.shared.link(), Link::Down | Link::Doubtful) {
            tracing::info!("the upstream gives a sign of life");
            self.shared.supervise(|supervisor| supervisor.revived(self.now));
        }
        self.shared.tell(|breaker| {
            breaker.probe_succeeded(self.now);
        });
        self.look();
        self.place_parked(lane);
    }

    /// The breaker changed: everybody who waits is answered or goes on.
    pub(super) fn breaker_changed(&mut self, change: Change, clients: &mut impl Replies) {
        match change.to {
            State::Open if change.reason == Reason::Hang => {
                self.abandon(clients);
                self.check_feed();
            }
            State::Closed if change.from == State::HalfOpen => {
                self.window = FIRST_WINDOW;
                self.set_windows();
            }
            State::Isolated => self.forget_starved(),
            State::Open | State::Closed | State::HalfOpen | State::Starting | State::Disabled => {}
        }
        self.fail_parked(clients);
        self.resume_feed();
        self.lanes.iter_mut().for_each(super::Lane::wake_waiting);
        self.wake_lessees();
        self.connections.iter_mut().for_each(|(_, entry)| entry.connection.wake_waiting());
    }

    /// Redis hangs: every client is answered in this turn, and connections that owe an answer are closed. A slow command
    /// keeps its connection while it has time left; those at rest are kept, and have to show that they work.
    fn abandon(&mut self, clients: &mut impl Replies) {
        let horizon = self.ticks + self.limit;
        for id in self.ids() {
            let lease = self.is_lease(id);
            let Some(connection) = self.connection(id).filter(|_| !lease) else { continue };
            let mut taken = connection.take_overdue(horizon);
            let (awaited, late) = (connection.is_awaited(), connection.late());
            self.sideline(id);
            if awaited {
                // It stays, so what waits to be sent may yet be, and what was sent may yet run.
                taken.iter_mut().for_each(|request| request.sent = true);
                taken.iter().for_each(|request| self.fail(request, Why::Deadline, false, clients));
                // Their next requests go elsewhere, behind a fence.
                taken.iter().for_each(|request| clients.kept(request.entry.client, id));
            } else if late > 0 {
                let fenced = self.fence_off(id, &taken);
                taken.iter().for_each(|request| self.fail(request, Why::Deadline, fenced, clients));
                self.end(id);
            } else if self.connection(id).is_some_and(|connection| connection.is_at_rest()) {
                self.ping(id);
            }
        }
        clients.flush(&[]);
        self.fail_parked(clients);
    }

    fn widen(&mut self) {
        if self.window < MAX_IN_FLIGHT {
            self.window = (2 * self.window).min(MAX_IN_FLIGHT);
            self.set_windows();
        }
    }

    fn set_windows(&mut self) {
        let window = self.window;
        let lanes = self.connections.iter_mut().filter(|(_, entry)| entry.usage != Use::Lease);
        lanes.for_each(|(_, entry)| entry.connection.set_window(window));
    }

    /// Keeps connections at rest alive, asks those of an open breaker whether Redis serves again, retires what is not needed;
    /// nothing while the operator keeps us apart.
    pub(super) fn tend(&mut self) {
        if self.view.state == State::Isolated {
            return;
        }
        let now = self.now;
        let lanes = self.connections.iter().filter(|(_, entry)| entry.usage != Use::Lease).count();
        let mut spare = lanes.saturating_sub(1);
        let state = self.view.state;
        for id in self.ids() {
            let (lease, held, warm) = (self.is_lease(id), self.is_held(id), self.is_warm(id));
            let Some(connection) = self.connection(id).filter(|connection| connection.is_at_rest() && !held) else {
                continue;
            };
            let resting = now.saturating_duration_since(connection.active());
            let usable = !connection.is_sidelined();
            let unused = now.saturating_duration_since(connection.used()) >= RETIRE_AFTER;
            if lease {
                if unused && !warm {
                    self.discard(id, "idle");
                } else if resting >= jittered(id, PING_AFTER) {
                    self.ping(id);
                }
            } else if spare > 0 && unused {
                spare -= 1;
                self.discard(id, "idle");
            } else if state == State::HalfOpen && usable {
                // Whoever has no clients just now finds out for them.
                if let Some(trial) = self.shared.guard.try_trial(now) {
                    self.trial = Some(trial);
                    self.ping(id);
                }
            } else if (state == State::Open && usable && resting >= PROBE_EVERY && self.may_probe())
                || resting >= jittered(id, PING_AFTER)
            {
                self.ping(id);
            }
        }
    }

    pub(super) fn may_probe(&self) -> bool {
        self.shared.guard.with(|breaker| breaker.may_probe(self.now)).0
    }
}

/// The time give or take a tenth, the same for one connection.
pub(super) fn jittered(id: ConnectionId, time: Duration) -> Duration {
    // A prime far from the modulus scatters consecutive serials.
    let thousandths = 900 + u32::try_from(id.serial.wrapping_mul(7919) % 201).unwrap_or_default();
    time / 1000 * thousandths
}
