//! The bound on leases: how many connections clients may have for themselves, over the whole process.
//!
//! Leases take connections from the same pool as lanes do, and come in two sorts. One that *blocks* waits for other
//! clients, perhaps for ever; the others are held for the length of a transaction or as long as their client likes. Of
//! `--pool-size` two for each worker are kept for the lanes, and a quarter of the rest, but at least one, for leases that do not block, so
//! that job workers that wait cannot starve transactions, nor both of them the lanes.
//!
//! Who finds none free waits in one queue, first come, first served among those that the same slot would suit.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Clients that may wait for a lease at once, over the whole process.
const MAX_WAITING: usize = 1000;

/// Takes a slot to the worker whose client waited for it. It gives the slot back if the client is gone.
pub(crate) type Delivery = Box<dyn FnOnce(Slot) + Send>;

/// Why a client holds a connection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Its request is large, and others would wait behind it.
    Big,
    /// It waits for other clients.
    Blocking,
    /// It set something on its connection, or asked of it.
    ClientState,
    /// It sees all commands.
    Monitor,
    /// Every client has one (`--mode session`).
    Session,
    /// Its transaction cannot be sent in one piece.
    Transaction,
    /// Its command is not known, so nothing is known of what it leaves behind.
    Unknown,
    /// It watches keys.
    Watch,
}

impl Cause {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Self; 8] = [
        Self::Big,
        Self::Blocking,
        Self::ClientState,
        Self::Monitor,
        Self::Session,
        Self::Transaction,
        Self::Unknown,
        Self::Watch,
    ];

    /// What logs and metrics call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Big => "big",
            Self::Blocking => "blocking",
            Self::ClientState => "client_state",
            Self::Monitor => "monitor",
            Self::Session => "session",
            Self::Transaction => "transaction",
            Self::Unknown => "unknown",
            Self::Watch => "watch",
        }
    }

    /// Whether such a lease waits for other clients, perhaps for ever.
    pub(crate) fn blocks(self) -> bool {
        self == Self::Blocking
    }
}

/// All slots of the process.
pub(crate) struct Quota {
    /// Leases in all, and those of them that may block.
    total: usize,
    blocking: usize,
    state: Mutex<State>,
    /// Those in the queue that would block, to be looked at without the lock.
    blocked_out: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// How many are held, by cause.
    held: [usize; Cause::ALL.len()],
    queue: VecDeque<Waiting>,
    /// Counts those who ever waited.
    tickets: u64,
}

struct Waiting {
    ticket: u64,
    cause: Cause,
    deliver: Delivery,
}

/// The right to one lease; dropping it passes it on.
pub(crate) struct Slot {
    quota: Arc<Quota>,
    cause: Cause,
}

/// A place in the queue; dropping it gives the place up.
pub(crate) struct Ticket {
    quota: Arc<Quota>,
    number: u64,
}

impl Quota {
    /// The slots of a pool of that size, shared by so many workers.
    pub(crate) fn new(pool_size: usize, workers: usize) -> Arc<Self> {
        let total = pool_size.saturating_sub(2 * workers);
        Arc::new(Self {
            total,
            blocking: total.saturating_sub((total / 4).max(1)),
            state: Mutex::default(),
            blocked_out: AtomicUsize::new(0),
        })
    }

    /// A slot, if one is free.
    pub(crate) fn try_take(self: &Arc<Self>, cause: Cause) -> Option<Slot> {
        let mut state = self.lock();
        self.take(&mut state, cause)
    }

    /// Joins the queue: `deliver` is called once, with the first slot that is free for it, unless the ticket is dropped
    /// before. None if the queue is full.
    pub(crate) fn wait(self: &Arc<Self>, cause: Cause, deliver: Delivery) -> Option<Ticket> {
        let (number, slot) = {
            let mut state = self.lock();
            if state.queue.len() >= MAX_WAITING {
                return None;
            }
            state.tickets += 1;
            let number = state.tickets;
            match self.take(&mut state, cause) {
                Some(slot) => (number, slot),
                None => {
                    state.queue.push_back(Waiting { ticket: number, cause, deliver });
                    self.count(&state);
                    return Some(Ticket { quota: Arc::clone(self), number });
                }
            }
        };
        deliver(slot);
        Some(Ticket { quota: Arc::clone(self), number })
    }

    /// Clients that block and wait for their slot.
    pub(crate) fn blocked_out(&self) -> usize {
        self.blocked_out.load(Ordering::Relaxed)
    }

    /// How many there are in all.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// How many are held for each cause, and how many clients wait for one.
    pub(crate) fn held(&self) -> ([(Cause, usize); Cause::ALL.len()], usize) {
        let state = self.lock();
        let mut held = Cause::ALL.map(|cause| (cause, 0));
        held.iter_mut().zip(state.held).for_each(|((_, shown), held)| *shown = held);
        (held, state.queue.len())
    }

    /// How many are held for each cause, for people: `blocking=14 watch=2`.
    pub(crate) fn summary(&self) -> String {
        let state = self.lock();
        let held = Cause::ALL.iter().zip(state.held).filter(|(_, held)| *held > 0);
        held.map(|(cause, held)| format!("{}={held}", cause.name())).collect::<Vec<_>>().join(" ")
    }

    fn count(&self, state: &State) {
        let blocked_out = state.queue.iter().filter(|waiting| waiting.cause.blocks()).count();
        self.blocked_out.store(blocked_out, Ordering::Relaxed);
    }

    fn take(self: &Arc<Self>, state: &mut State, cause: Cause) -> Option<Slot> {
        let held: usize = state.held.iter().sum();
        let blocked: usize =
            Cause::ALL.iter().zip(state.held).filter(|(cause, _)| cause.blocks()).map(|(_, held)| held).sum();
        if held >= self.total || (cause.blocks() && blocked >= self.blocking) {
            return None;
        }
        state.held.get_mut(cause as usize).into_iter().for_each(|held| *held += 1);
        Some(Slot { quota: Arc::clone(self), cause })
    }

    fn release(self: &Arc<Self>, cause: Cause) {
        let served = {
            let mut state = self.lock();
            state.held.get_mut(cause as usize).into_iter().for_each(|held| *held = held.saturating_sub(1));
            let causes: Vec<Cause> = state.queue.iter().map(|waiting| waiting.cause).collect();
            let first =
                causes.iter().enumerate().find_map(|(place, cause)| Some((place, self.take(&mut state, *cause)?)));
            let served = first.and_then(|(place, slot)| Some((state.queue.remove(place)?, slot)));
            self.count(&state);
            served
        };
        // Outside the lock: a delivery that finds its client gone drops the slot, which comes back here.
        if let Some((waiting, slot)) = served {
            (waiting.deliver)(slot);
        }
    }

    /// Nothing that runs under the lock can panic half-way, so a poisoned lock still guards good data.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// What it is held for.
    pub(crate) fn cause(&self) -> Cause {
        self.cause
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.quota.release(self.cause);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let number = self.number;
        let mut state = self.quota.lock();
        let place = state.queue.iter().position(|waiting| waiting.ticket == number);
        let gone = place.and_then(|place| state.queue.remove(place));
        self.quota.count(&state);
        drop(state);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(quota: &Arc<Quota>, cause: Cause) -> Vec<Slot> {
        std::iter::from_fn(|| quota.try_take(cause)).collect()
    }

    /// A delivery that keeps what it gets, and whom it was for.
    fn to(list: &Arc<Mutex<Vec<(&'static str, Slot)>>>, name: &'static str) -> Delivery {
        let list = Arc::clone(list);
        Box::new(move |slot| list.lock().expect("not poisoned").push((name, slot)))
    }

    fn names(list: &Arc<Mutex<Vec<(&'static str, Slot)>>>) -> Vec<&'static str> {
        list.lock().expect("not poisoned").iter().map(|(name, _)| *name).collect()
    }

    #[test]
    fn lanes_and_leases_that_do_not_block_have_their_reserves() {
        let quota = Quota::new(20, 1);
        let blocking = taken(&quota, Cause::Blocking);
        assert_eq!(blocking.len(), 14);
        let others = taken(&quota, Cause::Watch);
        assert_eq!(others.len(), 4);
        assert_eq!(quota.summary(), "blocking=14 watch=4");
        drop(blocking);
        assert_eq!(taken(&quota, Cause::Watch).len(), 14, "what blocked may be had by all");
    }

    #[test]
    fn a_slot_goes_to_the_first_whom_it_suits() {
        let quota = Quota::new(6, 1);
        let (mut blocking, watch) = (taken(&quota, Cause::Blocking), taken(&quota, Cause::Watch));
        assert_eq!((blocking.len(), watch.len()), (3, 1));
        let served = Arc::default();
        let first = quota.wait(Cause::Blocking, to(&served, "blocks"));
        let second = quota.wait(Cause::Watch, to(&served, "watches"));
        assert!(first.is_some() && second.is_some());
        assert_eq!(quota.blocked_out(), 1);
        drop(watch);
        assert_eq!(names(&served), ["watches"], "one that blocks may not have the reserve");
        blocking.pop();
        assert_eq!(names(&served), ["watches", "blocks"]);
        assert_eq!(quota.blocked_out(), 0);
    }

    #[test]
    fn who_gives_up_waiting_is_passed_over() {
        let quota = Quota::new(3, 1);
        let held = taken(&quota, Cause::Watch);
        let served = Arc::default();
        let gone = quota.wait(Cause::Watch, to(&served, "gone"));
        let stays = quota.wait(Cause::Watch, to(&served, "stays"));
        drop(gone);
        drop(held);
        assert_eq!(names(&served), ["stays"]);
        drop(stays);
    }

    #[test]
    fn the_queue_is_bounded() {
        let quota = Quota::new(2, 1);
        let tickets: Vec<_> = (0..=MAX_WAITING).map(|_| quota.wait(Cause::Watch, Box::new(drop))).collect();
        assert_eq!(tickets.iter().flatten().count(), MAX_WAITING);
        drop(tickets);
        assert_eq!(quota.lock().queue.len(), 0);
    }

    #[test]
    fn a_delivery_whose_client_is_gone_passes_the_slot_on() {
        let quota = Quota::new(3, 1);
        let held = taken(&quota, Cause::Watch);
        let tickets = [quota.wait(Cause::Watch, Box::new(drop)), quota.wait(Cause::Blocking, Box::new(drop))];
        drop(held);
        assert!(quota.try_take(Cause::Watch).is_some(), "it is free again");
        drop(tickets);
    }
}
