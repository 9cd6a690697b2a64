//! A worker: one thread that owns its clients and its upstream connections outright.
//!
//! Nothing on the request path leaves the thread. Each client and each upstream connection has a task, which only calls
//! back into the worker's state ([`DriveClient`], [`DriveConnection`]); that state is borrowed for the length of one poll
//! and never across an await. The order of things in one turn of the runtime's loop: the tasks of all readable clients
//! run first and queue their requests, then the tasks of the connections they woke, each with one write for all of them.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval};

use crate::buffer::Memory;
use crate::client::listener::{Newcomer, Seat};
use crate::client::{self, Census, Clients};
use crate::lifecycle::Stage;
use crate::upstream::{self, ClientKey, ConnectionId, Event, Upstream};

/// Housekeeping happens this often; the sessions' clocks count it.
const TICK: Duration = Duration::from_millis(100);

/// Tasks polled before the runtime looks for new events. More than usual, so that the replies and requests of many
/// clients are gathered into one write.
const TASKS_PER_LOOK: u32 = 256;

/// New clients taken in one go.
const ADMISSIONS: usize = 64;

/// What a worker is started with.
pub(crate) struct Setup {
    pub(crate) index: usize,
    pub(crate) clients: client::Config,
    pub(crate) upstream: Arc<upstream::Shared>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) census: Arc<Census>,
    /// Where its events are sent, and where it takes them.
    pub(crate) sender: mpsc::UnboundedSender<Event>,
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
    /// How far the process is with taking its leave.
    pub(crate) stage: watch::Receiver<Stage>,
}

/// The state of a worker, shared by the tasks of its thread.
struct Worker {
    clients: Clients,
    upstream: Upstream,
}

type Handle = Rc<RefCell<Worker>>;

/// Starts a worker's thread.
///
/// # Errors
/// When the system has no thread or no epoll instance to give.
pub(crate) fn start(setup: Setup) -> io::Result<Seat> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let count = Arc::new(AtomicUsize::new(0));
    let seat = Seat { clients: sender, count: Arc::clone(&count) };
    let (ready, started) = std::sync::mpsc::channel();
    thread::Builder::new().name(format!("worker-{}", setup.index)).spawn(move || {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .event_interval(TASKS_PER_LOOK)
            .build_local(LocalOptions::default());
        match runtime {
            Ok(runtime) => {
                // The starter may have given up meanwhile; then nobody sends clients either.
                drop(ready.send(Ok(())));
                runtime.block_on(run(setup, count, receiver));
            }
            Err(error) => drop(ready.send(Err(error))),
        }
    })?;
    started.recv().unwrap_or_else(|_| Err(io::Error::other("the worker ended at once")))?;
    Ok(seat)
}

/// Runs until the listeners are gone.
async fn run(setup: Setup, count: Arc<AtomicUsize>, mut newcomers: mpsc::UnboundedReceiver<Newcomer>) {
    let (mut events, mut stage) = (setup.events, setup.stage);
    let seat = (setup.index, count);
    let clients =
        Clients::new(&setup.clients, Arc::clone(&setup.upstream), Arc::clone(&setup.memory), setup.census, seat);
    let upstream = Upstream::new(setup.upstream, setup.index, setup.memory, setup.sender);
    let worker = Rc::new(RefCell::new(Worker { clients, upstream }));
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut arrived = Vec::with_capacity(ADMISSIONS);
    loop {
        tokio::select! {
            count = newcomers.recv_many(&mut arrived, ADMISSIONS) => {
                if count == 0 {
                    return;
                }
                arrived.drain(..).for_each(|newcomer| admit(&worker, newcomer));
            }
            Some(event) = events.recv() => handle(&worker, event),
            Ok(()) = stage.changed() => {
                let worker = &mut *worker.borrow_mut();
                worker.upstream.leave_soon();
                worker.clients.part(*stage.borrow_and_update());
            }
            _ = ticks.tick() => {
                let worker = &mut *worker.borrow_mut();
                worker.upstream.tick(&mut worker.clients);
                worker.clients.tick(&worker.upstream);
            }
        }
    }
}

fn admit(worker: &Handle, newcomer: Newcomer) {
    let state = &mut *worker.borrow_mut();
    match newcomer.socket.register() {
        Ok(transport) => {
            let key = state.clients.admit(transport, newcomer.strict, &mut state.upstream);
            spawn_local(DriveClient { worker: Rc::clone(worker), key });
        }
        Err(error) => {
            tracing::warn!(%error, "cannot take in a client");
            state.clients.forget_one(newcomer.strict);
        }
    }
}

fn handle(worker: &Handle, event: Event) {
    let made = {
        let state = &mut *worker.borrow_mut();
        state.upstream.handle(event, &mut state.clients)
    };
    if let Some(id) = made {
        spawn_local(DriveConnection { worker: Rc::clone(worker), id });
    }
}

/// The task of a client.
struct DriveClient {
    worker: Handle,
    key: ClientKey,
}

impl Future for DriveClient {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let worker = &mut *self.worker.borrow_mut();
        worker.clients.drive(self.key, cx, &mut worker.upstream)
    }
}

/// The task of an upstream connection.
struct DriveConnection {
    worker: Handle,
    id: ConnectionId,
}

impl Future for DriveConnection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let worker = &mut *self.worker.borrow_mut();
        worker.upstream.drive(self.id, cx, &mut worker.clients)
    }
}
