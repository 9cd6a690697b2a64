//! Sharing few connections among many lanes: who gets a connection when there is no permit left.
//!
//! A lane that has no connection and finds no permit takes over an idle one of this worker, else it queues. While one
//! queues, connections that have served their lane for [`QUANTUM`] are withdrawn, come to rest within the time of their last
//! requests, and are switched to the lane that waited longest (or closed, if it is another worker that waits and this one
//! holds more than its share). So every lane is served in turn, however small the pool.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use super::connection::Connection;
use super::lane::{ConnectionId, LaneId, Use};
use super::{Event, Upstream};

/// How long a connection serves its lane before it is given to another that waits.
const QUANTUM: Duration = Duration::from_millis(10);

/// A connection at rest for so long is not in the middle of a client's requests.
const UNUSED: Duration = Duration::from_millis(1);

impl Upstream {
    /// Gets a lane a connection: with a free permit a new one, else an idle one of another lane, else by queueing.
    pub(super) fn obtain(&mut self, lane: LaneId, usage: Use) {
        if let Some(idle) = self.spare_lease().filter(|_| usage == Use::Lease) {
            self.switch(idle, lane, usage);
        } else if let Some(permit) = self.shared.permits.try_acquire() {
            self.dial(lane, usage, permit);
        } else if self.owed() == 0
            && let Some(idle) = self.idle_connection()
        {
            self.switch(idle, lane, usage);
        } else {
            if let Some(state) = self.lanes.get_mut(lane).filter(|_| usage != Use::Lease) {
                state.starved = true;
            }
            self.starved.push_back((lane, if usage == Use::Lease { usage } else { Use::Normal }));
            self.queue_for_permit();
            self.rotate_later();
        }
    }

    /// A connection at rest that has had its quantum or is not in use, the longest unused first.
    fn idle_connection(&self) -> Option<ConnectionId> {
        let past = |instant: Instant| self.now.saturating_duration_since(instant);
        let idle = self.connections.iter().filter(|(_, entry)| {
            let connection = &entry.connection;
            connection.is_at_rest()
                && entry.holder.is_none()
                && !connection.is_sidelined()
                && (past(connection.since()) >= QUANTUM || past(connection.active()) >= UNUSED)
        });
        let oldest = idle.min_by_key(|(_, entry)| entry.connection.used());
        oldest.map(|(slot, entry)| ConnectionId { slot, serial: entry.serial })
    }

    /// Joins the process-wide queue, while lanes wait here and this worker has less than its share.
    pub(super) fn queue_for_permit(&mut self) {
        if self.queued || self.starved.is_empty() || self.held() >= self.shared.fair_share() {
            return;
        }
        self.queued = true;
        let events = self.events.clone();
        self.shared.permits.wait(Box::new(move |permit| {
            // If the worker is gone the event is dropped, and the permit with it: it passes on.
            drop(events.send(Event::Permit(permit)));
        }));
    }

    pub(super) fn rotate_later(&mut self) {
        if self.rotating {
            return;
        }
        self.rotating = true;
        let events = self.events.clone();
        spawn_local(async move {
            sleep(QUANTUM).await;
            drop(events.send(Event::Rotate));
        });
    }

    /// Serves the lanes that wait: with permits that have come free, and with connections that had their quantum, at once if
    /// at rest, else once they come to rest.
    pub(super) fn rotate(&mut self) {
        self.now = Instant::now();
        while !self.starved.is_empty()
            && let Some(permit) = self.shared.permits.try_acquire()
        {
            if let Some((lane, usage)) = self.next_starved() {
                self.dial(lane, usage, permit);
            }
        }
        let mut ids = self.ids();
        ids.sort_by_key(|id| self.connections.get(id.slot).map(|entry| entry.connection.since()));
        for id in ids {
            let wanted = self.shared.permits.is_wanted();
            if self.leaving() >= self.starved.len() + self.owed().max(usize::from(wanted)) {
                break;
            }
            if self.is_held(id) {
                continue;
            }
            let (now, crowded) = (self.now, !self.starved.is_empty() || self.owed() > 0);
            let Some(connection) = self.connection(id).filter(|connection| !connection.is_withdrawn()) else {
                continue;
            };
            let rested = connection.is_at_rest();
            if now.saturating_duration_since(connection.since()) >= QUANTUM && (rested || crowded) {
                self.withdraw(id);
                self.hand_over_if_at_rest(id);
            }
        }
        self.queue_for_permit();
        if !self.starved.is_empty() {
            self.rotate_later();
        }
    }

    pub(super) fn withdraw(&mut self, id: ConnectionId) {
        let Some(entry) = self.connections.get_mut(id.slot).filter(|entry| !entry.connection.is_withdrawn()) else {
            return;
        };
        entry.connection.withdraw();
        entry.connection.wake_waiting();
        self.withdrawn += 1;
        if let Some(lane) = self.lanes.get_mut(entry.lane) {
            lane.remove(id);
        }
        self.forget_lease(id);
    }

    pub(super) fn hand_over_if_at_rest(&mut self, id: ConnectionId) {
        let ready = |connection: &mut Connection| connection.is_withdrawn() && connection.is_at_rest();
        if !self.connection(id).is_some_and(ready) {
            return;
        }
        let current = self.shared.renewals.load(Ordering::Relaxed);
        let renewed = self.entry(id).is_some_and(|entry| entry.renewal < current);
        let lane = self.entry(id).map(|entry| entry.lane);
        // At rest nothing can run there any more; but it may be about to be killed.
        let fences = self.fences.len();
        self.fences.retain(|fence| fence.against() != id);
        let fenced = self.fences.len() < fences;
        // What this worker has beyond its share goes to the others first; a replica is of no use to anybody.
        match if renewed || fenced || self.owed() > 0 { None } else { self.next_starved() } {
            Some((lane, usage)) => self.switch(id, lane, usage),
            None => self.discard(id, if renewed { "readonly" } else { "idle" }),
        }
        if renewed {
            lane.into_iter().for_each(|lane| self.obtain_if_bare(lane));
        }
    }

    /// Connections withdrawn that will soon come to rest.
    fn leaving(&self) -> usize {
        let leaves = |connection: &Connection| connection.is_withdrawn() && !connection.is_sidelined();
        self.connections.iter().filter(|(_, entry)| leaves(&entry.connection)).count()
    }

    /// Permits this worker holds.
    fn held(&self) -> usize {
        self.connections.len() + self.making + self.subscriptions.held()
    }

    /// How many connections this worker has beyond its share, while another waits for one.
    fn owed(&self) -> usize {
        if self.shared.permits.is_wanted() { self.held().saturating_sub(self.shared.fair_share()) } else { 0 }
    }

    pub(super) fn next_starved(&mut self) -> Option<(LaneId, Use)> {
        let (lane, usage) = self.starved.pop_front()?;
        if let Some(state) = self.lanes.get_mut(lane).filter(|_| usage != Use::Lease) {
            state.starved = false;
        }
        Some((lane, usage))
    }
}
