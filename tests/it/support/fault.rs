//! A proxy with faults: it stands before a real server and does to its connections what networks, machines and bugs do.
//!
//! It begins by passing everything on. A test [switches](FaultProxy::switch) it while it runs, for the connections that
//! exist, for those to come, or for both. What becomes of one connection is in [`link`]; here are the faults, the port that
//! stays ours while nobody listens on it, and what a test may count.
//!
//! Requests must be arrays of bulk strings, and there must be one reply for each, in order.

mod link;
mod tests;

use super::Server;
use link::{Exchange, Link};
use socket2::{Domain, SockRef, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// How long a dial to a door that is full is tried, until it counts as unanswered.
const UNANSWERED: Duration = Duration::from_millis(100);

/// What happens to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing bad.
    Pass,
    /// Nobody listens. Connections that exist are reset.
    Refuse,
    /// Packets vanish: dials get no answer, and bytes on connections that exist are thrown away. A connection that lost
    /// some stays silent when the fault is over.
    BlackHole,
    /// Nothing moves. Everything is kept, and delivered when the fault is over; dials too.
    Hang,
    /// The same for replies only: requests still arrive.
    HangReplies,
    /// Connections are reset, new ones once they are accepted.
    Reset,
    /// The same with an orderly end.
    HangUp,
    /// Each connection is reset in the middle of the reply by which this many bytes of replies have passed.
    ResetWithin(usize),
    /// Each connection falls silent there, and stays so.
    SilentWithin(usize),
    /// Replies come in pieces of so many bytes, so far apart.
    Drip {
        /// Length of a piece.
        bytes: usize,
        /// Time before each.
        every: Duration,
    },
    /// The server takes this long for each reply, one after the other, whatever the number of connections.
    Slow(Duration),
    /// What is no RESP comes instead of each reply.
    Garbage,
    /// A reply that nobody asked for follows each after which nothing is due. (While something is due it cannot be told from
    /// the reply to that; no proxy could notice in time.)
    Extra,
    /// Every request is answered so, and does not reach the server.
    Answer(&'static str),
    /// The same, but handshakes succeed, as they do while a server loads its data.
    AnswerAfterHandshake(&'static str),
    /// The password is refused, and everything else for want of one.
    WrongPassword,
    /// What a careless proxy does, once, to a command of this name: by this a test's checker is shown to find it.
    Planted(Plant, &'static str),
}

impl Fault {
    /// Whether no connection outlives it.
    const fn ends_connections(self) -> bool {
        matches!(self, Self::Refuse | Self::Reset | Self::HangUp)
    }
}

/// One fault of a careless proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// A request is sent twice.
    Resend,
    /// Two connections get each other's replies, whatever the command.
    Swap,
    /// A request said to be indeterminate runs after the next of its connection that has the same name.
    Late,
    /// A request said to be indeterminate runs after a later one of its connection that writes another key, but before
    /// the next of its own name: what the keys hold does not show it, only a read of its key between the two.
    Overtaken,
    /// A request said to be not sent was sent.
    Deny,
}

/// The proxy; it ends all its connections when dropped.
pub struct FaultProxy {
    hub: Arc<Hub>,
    door: Mutex<Door>,
    /// Bound and not listening: it keeps the port ours, and dials to it are refused.
    _reserved: Socket,
}

/// The listening socket.
enum Door {
    /// There is none: dials are refused.
    Closed,
    /// A thread accepts.
    Open(Socket),
    /// Nobody accepts and there is no room to wait: dials get no answer. The connections fill the room.
    Full { _listener: Socket, _waiting: Vec<TcpStream> },
}

/// What all threads share.
struct Hub {
    address: SocketAddr,
    ahead: Mutex<Ahead>,
    ahead_changed: Condvar,
    links: Mutex<Vec<Weak<Link>>>,
    dials: Mutex<Vec<Instant>>,
    strikes: AtomicUsize,
    /// Held by the connection whose reply a slow server is at.
    busy: Mutex<()>,
    /// Whether a fault that happens once is still to happen.
    armed: AtomicBool,
    exchange: Exchange,
}

/// What awaits new connections.
struct Ahead {
    fault: Fault,
    target: String,
    /// A server to turn to once a reply begins so.
    next: Option<(&'static [u8], String)>,
}

impl FaultProxy {
    /// A proxy before `server`, on a port of its own.
    pub fn before(server: &Server) -> Self {
        Self::toward(&server.address())
    }

    /// The same before whatever listens at `target`.
    pub fn toward(target: &str) -> Self {
        let reserved = bound((Ipv4Addr::LOCALHOST, 0).into());
        let address = reserved.local_addr().ok().and_then(|address| address.as_socket()).expect("it is bound");
        let hub = Arc::new(Hub {
            address,
            ahead: Mutex::new(Ahead { fault: Fault::Pass, target: target.to_owned(), next: None }),
            ahead_changed: Condvar::new(),
            links: Mutex::default(),
            dials: Mutex::default(),
            strikes: AtomicUsize::new(0),
            busy: Mutex::default(),
            armed: AtomicBool::new(false),
            exchange: Exchange::default(),
        });
        let door = Mutex::new(Door::open(&hub));
        Self { hub, door, _reserved: reserved }
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        self.hub.address.to_string()
    }

    /// From now on this happens to all connections.
    pub fn switch(&self, fault: Fault) {
        self.switch_new(fault);
        self.switch_existing(fault);
    }

    /// From now on this happens to connections made from now on.
    pub fn switch_new(&self, fault: Fault) {
        let mut door = locked(&self.door);
        self.hub.armed.store(matches!(fault, Fault::Planted(..)), SeqCst);
        locked(&self.hub.ahead).fault = fault;
        self.hub.ahead_changed.notify_all();
        match (fault, &*door) {
            (Fault::Refuse, _) => *door = Door::Closed,
            (Fault::BlackHole, _) => {
                *door = Door::Closed;
                *door = Door::full(self.hub.address);
            }
            (_, Door::Open(_)) => {}
            (_, Door::Closed | Door::Full { .. }) => {
                *door = Door::Closed;
                *door = Door::open(&self.hub);
            }
        }
    }

    /// From now on this happens to the connections that exist.
    pub fn switch_existing(&self, fault: Fault) {
        self.hub.links().iter().for_each(|link| link.turn(fault));
    }

    /// New connections go to another server.
    pub fn retarget(&self, target: &str) {
        target.clone_into(&mut locked(&self.hub.ahead).target);
    }

    /// The same, once a reply begins with `start`.
    pub fn retarget_upon(&self, start: &'static [u8], target: &str) {
        locked(&self.hub.ahead).next = Some((start, target.to_owned()));
    }

    /// When connections were accepted.
    pub fn dials(&self) -> Vec<Instant> {
        locked(&self.hub.dials).clone()
    }

    /// How many connections there are.
    pub fn connected(&self) -> usize {
        self.hub.links().len()
    }

    /// How often a fault has done something to a connection or to what it carried.
    pub fn strikes(&self) -> usize {
        self.hub.strikes.load(SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.switch(Fault::HangUp);
    }
}

impl Door {
    fn open(hub: &Arc<Hub>) -> Self {
        let listener = bound(hub.address);
        listener.listen(BACKLOG).expect("the port is ours");
        let accepting = listener.try_clone().expect("a socket can be shared").into();
        let hub = Arc::clone(hub);
        thread::spawn(move || accept(&accepting, &hub));
        Self::Open(listener)
    }

    fn full(address: SocketAddr) -> Self {
        let listener = bound(address);
        listener.listen(0).expect("the port is ours");
        let dials = std::iter::repeat_with(|| TcpStream::connect_timeout(&address, UNANSWERED));
        let waiting = dials.map_while(Result::ok).collect();
        Self::Full { _listener: listener, _waiting: waiting }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Self::Open(listener) = self {
            // The thread that accepts has it open too: this is what ends both.
            listener.shutdown(Shutdown::Both).expect("it listens");
        }
    }
}

impl Hub {
    fn strike(&self) {
        self.strikes.fetch_add(1, SeqCst);
    }

    /// True once after a fault that happens once was switched on.
    fn strike_once(&self) -> bool {
        let is_due = self.armed.swap(false, SeqCst);
        self.strikes.fetch_add(usize::from(is_due), SeqCst);
        is_due
    }

    /// The connections that exist.
    fn links(&self) -> Vec<Arc<Link>> {
        let mut links = locked(&self.links);
        links.retain(|link| link.strong_count() > 0);
        links.iter().filter_map(Weak::upgrade).collect()
    }

    /// Turns to another server if this reply is the sign to do so.
    fn note(&self, reply: &[u8]) {
        let mut ahead = locked(&self.ahead);
        if let Some((_, target)) = ahead.next.take_if(|(start, _)| reply.starts_with(start)) {
            ahead.target = target;
        }
    }

    /// What awaits a new connection, and where it leads; waits while nothing moves.
    fn ahead(&self) -> (Fault, String) {
        let ahead = locked(&self.ahead);
        let ahead = self.ahead_changed.wait_while(ahead, |ahead| ahead.fault == Fault::Hang);
        let ahead = ahead.unwrap_or_else(PoisonError::into_inner);
        (ahead.fault, ahead.target.clone())
    }
}

/// Accepts until the listener is shut down.
fn accept(listener: &TcpListener, hub: &Arc<Hub>) {
    while let Ok((client, _)) = listener.accept() {
        locked(&hub.dials).push(Instant::now());
        let (fault, target) = hub.ahead();
        if fault.ends_connections() {
            hub.strike();
            if fault != Fault::HangUp {
                reset_at_end(&client);
            }
        } else if let Ok(server) = TcpStream::connect(target) {
            let mut links = locked(&hub.links);
            let link = Link::start(hub, client, server);
            links.push(Arc::downgrade(&link));
            // Read under the lock that a switch takes: either it sees this connection, or we see what it switched to.
            let fault = locked(&hub.ahead).fault;
            link.turn(fault);
        } else {
            reset_at_end(&client);
        }
    }
}

/// A socket bound to `address`, next to others that are.
fn bound(address: SocketAddr) -> Socket {
    let bind = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    bind().unwrap_or_else(|error| panic!("cannot bind {address}: {error}"))
}

/// Makes the end of a connection a reset.
fn reset_at_end(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("lingering can be switched off");
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
