//! The bound on upstream connections: one process-wide count of permits.
//!
//! A connection holds a [`Permit`] from before it is dialled until after it is closed, so the count can never exceed
//! `--pool-size`, whatever the number of workers, databases and protocols. The count changes only then; the request path
//! does no more here than look, by a relaxed load, whether a permit is free or wanted ([`Permits::is_wanted`]).
//!
//! A worker that finds none free joins a first-come, first-served queue; the next permit to be freed is handed to it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Takes a permit to the worker that waited for it. It gives the permit back if the worker is gone.
pub(crate) type Delivery = Box<dyn FnOnce(Permit) + Send>;

/// All permits of the process.
pub(crate) struct Permits {
    total: usize,
    state: Mutex<State>,
    waiting: AtomicUsize,
    /// What `state.free` is, to be looked at without the lock.
    free: AtomicUsize,
}

struct State {
    free: usize,
    queue: VecDeque<Delivery>,
}

/// The right to one upstream connection; dropping it passes it on.
pub(crate) struct Permit {
    permits: Arc<Permits>,
}

impl Permits {
    /// `total` permits, all free.
    pub(crate) fn new(total: usize) -> Arc<Self> {
        let state = State { free: total, queue: VecDeque::new() };
        Arc::new(Self { total, state: Mutex::new(state), waiting: AtomicUsize::new(0), free: AtomicUsize::new(total) })
    }

    /// How many there are in all.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// How many are taken.
    pub(crate) fn used(&self) -> usize {
        self.total - self.free.load(Ordering::Relaxed).min(self.total)
    }

    /// How many workers wait for one.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// A permit, if one is free and nobody waits for it already.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        if self.free.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut state = self.lock();
        state.free = state.free.checked_sub(1)?;
        self.free.store(state.free, Ordering::Relaxed);
        Some(Permit { permits: Arc::clone(self) })
    }

    /// Joins the queue: `deliver` is called once, with the first permit that comes free for it.
    pub(crate) fn wait(self: &Arc<Self>, deliver: Delivery) {
        let mut state = self.lock();
        if state.free == 0 {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            state.queue.push_back(deliver);
            return;
        }
        state.free -= 1;
        self.free.store(state.free, Ordering::Relaxed);
        drop(state);
        deliver(Permit { permits: Arc::clone(self) });
    }

    /// True while a worker waits for a permit: whoever has a connection to spare should close it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.waiting() > 0
    }

    fn release(self: &Arc<Self>) {
        let next = {
            let mut state = self.lock();
            let next = state.queue.pop_front();
            if next.is_none() {
                state.free += 1;
                self.free.store(state.free, Ordering::Relaxed);
            }
            next
        };
        // Outside the lock: a delivery that finds its worker gone drops the permit, which comes back here.
        if let Some(deliver) = next {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            deliver(Permit { permits: Arc::clone(self) });
        }
    }

    /// Nothing that runs under the lock can panic half-way, so a poisoned lock still guards good data.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_the_total() {
        let permits = Permits::new(2);
        let (first, second) = (permits.try_acquire(), permits.try_acquire());
        assert!(first.is_some() && second.is_some());
        assert!(permits.try_acquire().is_none());
        drop(first);
        assert!(permits.try_acquire().is_some());
    }

    #[test]
    fn a_freed_permit_goes_to_whoever_waited_first() {
        let permits = Permits::new(1);
        let held = permits.try_acquire();
        let order = Arc::new(Mutex::new(Vec::new()));
        for name in ["first", "second"] {
            let order = Arc::clone(&order);
            permits.wait(Box::new(move |permit| order.lock().expect("not poisoned").push((name, permit))));
        }
        assert!(permits.is_wanted());
        drop(held);
        assert_eq!(order.lock().expect("not poisoned").iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["first"]);
        let delivered = order.lock().expect("not poisoned").pop();
        drop(delivered);
        assert_eq!(order.lock().expect("not poisoned").iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["second"]);
        assert!(!permits.is_wanted());
    }

    #[test]
    fn a_delivery_whose_worker_is_gone_passes_the_permit_on() {
        let permits = Permits::new(1);
        let held = permits.try_acquire();
        permits.wait(Box::new(drop));
        permits.wait(Box::new(drop));
        drop(held);
        assert!(permits.try_acquire().is_some(), "the permit is free again");
    }

    #[test]
    fn waiting_while_one_is_free_is_served_at_once() {
        let permits = Permits::new(1);
        let served = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&served);
        permits.wait(Box::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        assert_eq!(served.load(Ordering::Relaxed), 1);
    }
}
