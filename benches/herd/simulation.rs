//! The events in their order, and the server that everybody wants.
//!
//! The server has one core, a queue of [`BACKLOG`] connections to be accepted, and a fixed cost for each. A dial that finds
//! the queue full is dropped and times out, as does one while packets are lost. What requests cost the server is left out:
//! it is the same for every way to reconnect. Nor are there retransmissions of a dropped SYN, which would help all alike.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use crate::sidecar::{Next, Sidecar};
use crate::tally::{Nanos, Tally};

/// Connections that wait to be accepted: Redis' `tcp-backlog`.
const BACKLOG: usize = 511;

/// A dial that is not answered is given up after the connect timeout.
const CONNECT_TIMEOUT: Nanos = 2_000_000_000;

/// There and back, between sidecar and server, if nobody waits.
const ROUND_TRIP: Nanos = 200_000;

/// All notice the loss within so long.
const NOTICED_WITHIN: Nanos = 1_000_000;

/// Whoever does not serve so long after the return never will.
const PATIENCE: Nanos = 600_000_000_000;

/// What happens to the server, and to how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outage {
    pub(crate) sidecars: u32,
    pub(crate) fault: Fault,
    pub(crate) length: Duration,
}

/// What becomes of dials while it is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// They are refused at once.
    Refuses,
    /// They are not answered.
    Silent,
}

/// What became of all.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) dials: Tally,
    /// When the server was back.
    pub(crate) returned: Nanos,
    /// Connections made in the second after that.
    pub(crate) first_second: usize,
    sidecars: usize,
    /// How long after the return each sidecar served, the first to do so first.
    served: Vec<Nanos>,
}

impl Outcome {
    /// When this part of the sidecars served again, from the return on.
    pub(crate) fn served_after(&self, part: f64) -> Option<Duration> {
        let count = (self.sidecars as f64 * part).ceil() as usize;
        self.served.get(count.checked_sub(1)?).copied().map(Duration::from_nanos)
    }
}

/// Lets `sidecars` lose the server, until all have it back. A connection costs the server a `handshake`.
pub(crate) fn run<S: Sidecar>(outage: &Outage, handshake: Duration, sidecars: Vec<S>) -> Outcome {
    let mut world = World::new(outage, handshake, sidecars);
    while let Some(Reverse((at, _, event))) = world.queue.pop() {
        if world.outcome.served.len() == world.sidecars.len() || at > world.outcome.returned + PATIENCE {
            break;
        }
        world.now = at;
        world.happen(event);
    }
    world.outcome
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Lost(usize),
    Wake(usize),
    Refused(usize),
    TimedOut(usize),
    /// The server is done with the connection at the head of its queue.
    HandshakeDone,
}

struct World<S> {
    outage: Outage,
    handshake: Nanos,
    now: Nanos,
    /// By time; those of the same moment in the order in which they were planned.
    queue: BinaryHeap<Reverse<(Nanos, u64, Event)>>,
    planned: u64,
    sidecars: Vec<S>,
    serves: Vec<bool>,
    /// Connections to be accepted, the one being served at the head: whose, and when it is given up.
    backlog: VecDeque<(usize, Nanos)>,
    outcome: Outcome,
}

impl<S: Sidecar> World<S> {
    fn new(outage: &Outage, handshake: Duration, sidecars: Vec<S>) -> Self {
        let outcome = Outcome {
            dials: Tally::default(),
            returned: NOTICED_WITHIN + outage.length.as_nanos() as Nanos,
            first_second: 0,
            sidecars: sidecars.len(),
            served: Vec::new(),
        };
        let mut world = Self {
            outage: *outage,
            handshake: handshake.as_nanos() as Nanos,
            now: 0,
            queue: BinaryHeap::new(),
            planned: 0,
            serves: vec![false; sidecars.len()],
            sidecars,
            backlog: VecDeque::new(),
            outcome,
        };
        let mut random = fastrand::Rng::with_seed(0);
        for id in 0..world.sidecars.len() {
            world.plan(random.u64(..NOTICED_WITHIN), Event::Lost(id));
        }
        world
    }

    fn plan(&mut self, at: Nanos, event: Event) {
        self.planned += 1;
        self.queue.push(Reverse((at, self.planned, event)));
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        let (id, next) = match event {
            Event::Lost(id) => (id, self.sidecars[id].lost(now)),
            Event::Wake(id) => (id, self.sidecars[id].wake(now)),
            Event::Refused(id) => (id, self.sidecars[id].refused(now)),
            Event::TimedOut(id) => (id, self.sidecars[id].timed_out(now)),
            Event::HandshakeDone => {
                let Some((id, given_up)) = self.backlog.pop_front() else { return };
                if !self.backlog.is_empty() {
                    self.serve_the_head();
                }
                (id, self.handshake_done(id, given_up))
            }
        };
        match next {
            Next::Dial => self.dial(id),
            Next::Wake(at) => self.plan(at.max(now), Event::Wake(id)),
            Next::Nothing => {}
        }
        if self.sidecars[id].serves() && !self.serves[id] {
            self.serves[id] = true;
            self.outcome.served.push(now.saturating_sub(self.outcome.returned));
        }
    }

    fn dial(&mut self, id: usize) {
        self.outcome.dials.count(self.now);
        let is_back = self.now >= self.outcome.returned || self.outage.length.is_zero();
        match self.outage.fault {
            Fault::Refuses if !is_back => self.plan(self.now + ROUND_TRIP, Event::Refused(id)),
            Fault::Refuses | Fault::Silent if is_back && self.backlog.len() < BACKLOG => {
                self.backlog.push_back((id, self.now + CONNECT_TIMEOUT));
                if self.backlog.len() == 1 {
                    self.serve_the_head();
                }
            }
            Fault::Refuses | Fault::Silent => self.plan(self.now + CONNECT_TIMEOUT, Event::TimedOut(id)),
        }
    }

    fn serve_the_head(&mut self) {
        self.plan(self.now + self.handshake, Event::HandshakeDone);
    }

    fn handshake_done(&mut self, id: usize, given_up: Nanos) -> Next {
        if self.now > given_up {
            return self.sidecars[id].timed_out(self.now);
        }
        self.outcome.first_second += usize::from(self.now < self.outcome.returned + 1_000_000_000);
        self.sidecars[id].connected(self.now)
    }
}
