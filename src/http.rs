//! HTTP ports: sockets, connections and their limits. Who opens one says what is answered, by a [`Site`].
//!
//! There are so many places. Who comes when all are taken gets that of the connection that has been idle for longest, where
//! half a request counts as none, and so does half a handshake: whoever holds connections open, or sends slowly, keeps
//! nobody else out. Only answers being made are not interrupted.

mod message;

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, pending};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::transport::lacks_ipv6;
use message::Room;
pub use message::{Answer, BodyLimits, Whole, answer, closing, text, with};

/// Connections the kernel holds until they are accepted.
const BACKLOG: i32 = 256;

/// Fields of a request's head, and the bytes of it.
const MAX_FIELDS: usize = 64;
const MAX_HEAD: usize = 16 * 1024;

/// Pause after accepting failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Limits of an HTTP port.
#[derive(Debug)]
pub struct Limits {
    /// Connections at once.
    pub places: usize,
    /// A connection's first request must be there within this, with all that comes before it.
    pub first: Duration,
    /// A request's head must come within this, from the moment that the last answer left.
    pub idle: Duration,
    /// An answer must be made within this, and taken within as long again.
    pub answer: Duration,
    /// Bodies.
    pub body: BodyLimits,
}

/// What is behind an HTTP port.
pub trait Site: Send + Sync + 'static {
    /// What HTTP is spoken over.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin;

    /// Makes that of a connection.
    fn open(&self, stream: TcpStream) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Answers a request; `is_near`: of somebody on this machine. Its body was read, or is to be refused so.
    fn answer(
        &self,
        is_near: bool,
        head: &Request<()>,
        body: Result<Whole, StatusCode>,
    ) -> impl Future<Output = Answer> + Send;

    /// Notes what was refused with this status before it was a request.
    fn refused_unread(&self, _status: StatusCode) {}

    /// Notes why a connection could not begin, or did not end well.
    fn failed(&self, _error: &(dyn Error + 'static)) {}
}

/// Opens a socket; where `[::]` cannot be had, since the machine has no IPv6, on all addresses of IPv4.
///
/// # Errors
/// Those of `bind(2)` and its like.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    listen_by(address, open)
}

fn listen_by<Listener>(address: SocketAddr, open: impl Fn(SocketAddr) -> io::Result<Listener>) -> io::Result<Listener> {
    match open(address) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && lacks_ipv6(&error) => {
            open((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        opened => opened,
    }
}

fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // `[::]` is meant to be everywhere: a cluster's probes come over IPv4 or IPv6.
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Accepts until it is told to end, and then until everybody has what they asked for.
pub async fn run<S: Site>(
    listener: TcpListener,
    site: Arc<S>,
    limits: &'static Limits,
    mut ending: watch::Receiver<bool>,
) {
    let places = Arc::new(Places::new(limits.places));
    let room = Room::new();
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = told(&mut ending) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                failing = false;
                let place = tokio::select! {
                    place = Places::take(&places) => place,
                    () = told(&mut ending) => break,
                };
                let is_near = is_near(&stream, peer.ip());
                let caller = Caller { is_near, place, room: room.clone(), ending: ending.clone() };
                tokio::spawn(serve(stream, caller, Arc::clone(&site), limits));
                // Who was let in is heard before the next one may take the place.
                tokio::task::yield_now().await;
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "cannot accept HTTP connections, pausing for 100 ms at a time");
                }
                failing = true;
                sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    places.left().await;
}

/// Waits until it is to end; for ever if nobody can say so any more.
async fn told(ending: &mut watch::Receiver<bool>) {
    if ending.wait_for(|ending| *ending).await.is_err() {
        pending::<()>().await;
    }
}

/// True if both ends are on this machine's loopback device. A mesh that takes in connections from elsewhere hands them on from
/// a loopback address (127.0.0.6), but to the pod's own.
fn is_near(stream: &TcpStream, peer: IpAddr) -> bool {
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    is_loopback(peer) && stream.local_addr().is_ok_and(|local| is_loopback(local.ip()))
}

/// What there is to know of a connection.
struct Caller {
    is_near: bool,
    place: Place,
    room: Room,
    ending: watch::Receiver<bool>,
}

async fn serve<S: Site>(stream: TcpStream, caller: Caller, site: Arc<S>, limits: &'static Limits) {
    let Caller { is_near, place, room, mut ending } = caller;
    let stream = tokio::select! {
        stream = site.open(stream) => stream,
        () = place.wanted.notified() => return,
        () = sleep_until(place.deadline(limits)) => return,
        () = told(&mut ending) => return,
    };
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "an HTTP connection could not begin");
            return site.failed(&error);
        }
    };
    let answer = service_fn(|request| {
        let (place, site, room) = (&place, &site, &room);
        async move {
            // Who does not end what it asks is idle: its place may go to another.
            let (head, body) = room.read(request, limits.body).await;
            place.set_busy(true, Instant::now());
            let answer = site.answer(is_near, &head, body).await;
            place.set_busy(false, Instant::now());
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_HEAD)
        // Who has said all it has to say is answered all the same.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = pin!(connection);
    let mut is_ending = false;
    loop {
        tokio::select! {
            // The connection first: a request that is there already is answered, and its place then is not free.
            biased;
            ended = &mut connection => {
                return ended.unwrap_or_else(|error| failed(&error, &*site));
            }
            () = place.wanted.notified() => {
                // When the answer has left, whoever wants the place is told, and asks for it again.
                if !place.is_busy() {
                    return;
                }
            }
            () = sleep_until(place.deadline(limits)) => {
                if place.deadline(limits) <= Instant::now() {
                    return;
                }
            }
            () = told(&mut ending), if !is_ending => {
                connection.as_mut().graceful_shutdown();
                is_ending = true;
            }
        }
    }
}

/// A connection did not end well. What a stranger sends is its own affair; what hyper has refused by itself, a head that is none
/// or too long, is noted.
fn failed(error: &hyper::Error, site: &impl Site) {
    tracing::debug!(%error, "an HTTP connection failed");
    site.failed(error);
    let too_long = error.is_parse_too_large();
    if error.is_parse() {
        site.refused_unread(if too_long {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        } else {
            StatusCode::BAD_REQUEST
        });
    }
}

/// All places.
struct Places {
    most: usize,
    seats: Mutex<Slab<Seat>>,
    /// A place came free, or may be had now.
    changed: Notify,
}

struct Seat {
    busy: bool,
    /// It has been answered before.
    known: bool,
    /// Since when.
    since: Instant,
    wanted: Arc<Notify>,
}

/// One connection's place; dropping it gives it back.
struct Place {
    places: Arc<Places>,
    number: usize,
    /// Somebody else needs it.
    wanted: Arc<Notify>,
}

impl Places {
    fn new(most: usize) -> Self {
        Self { most, seats: Mutex::default(), changed: Notify::new() }
    }

    /// A place, as soon as there is one.
    async fn take(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.try_take(Instant::now()) {
                return place;
            }
            // If that was before, the notification is kept for us.
            self.changed.notified().await;
        }
    }

    /// A place if one is free; else whoever has been idle for longest is told to leave.
    fn try_take(self: &Arc<Self>, now: Instant) -> Option<Place> {
        let mut seats = self.seats();
        if seats.len() < self.most {
            let wanted = Arc::new(Notify::new());
            let number = seats.insert(Seat { busy: false, known: false, since: now, wanted: Arc::clone(&wanted) });
            return Some(Place { places: Arc::clone(self), number, wanted });
        }
        let idle = seats.iter().filter(|(_, seat)| !seat.busy);
        idle.min_by_key(|(_, seat)| seat.since).into_iter().for_each(|(_, seat)| seat.wanted.notify_one());
        None
    }

    /// Waits until all places are free. Nobody may ask for one meanwhile.
    async fn left(&self) {
        while !self.seats().is_empty() {
            self.changed.notified().await;
        }
    }

    fn seats(&self) -> MutexGuard<'_, Slab<Seat>> {
        // Nothing that runs under the lock can panic half-way, so a poisoned one still guards good data.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn set_busy(&self, busy: bool, now: Instant) {
        if let Some(seat) = self.places.seats().get_mut(self.number) {
            (seat.busy, seat.since) = (busy, now);
            seat.known |= !busy;
        }
        if !busy {
            self.places.changed.notify_one();
        }
    }

    fn is_busy(&self) -> bool {
        self.places.seats().get(self.number).is_some_and(|seat| seat.busy)
    }

    /// When it is to end, unless something happens.
    fn deadline(&self, limits: &Limits) -> Instant {
        self.places.seats().get(self.number).map_or_else(Instant::now, |seat| {
            let within = match (seat.busy, seat.known) {
                (true, _) => limits.answer,
                (false, false) => limits.first,
                // Between taking an answer and asking again, which HTTP's own timer minds.
                (false, true) => limits.answer.max(limits.idle),
            };
            seat.since + within
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.seats().try_remove(self.number);
        self.places.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const PLACES: usize = 64;

    /// The addresses that are tried where none can be had for this reason.
    fn tried(address: &str, error: i32) -> Vec<String> {
        let tried = RefCell::new(Vec::new());
        let opened = listen_by(address.parse().expect("an address"), |address| -> io::Result<()> {
            tried.borrow_mut().push(address.to_string());
            Err(io::Error::from_raw_os_error(error))
        });
        assert!(opened.is_err());
        tried.into_inner()
    }

    #[test]
    fn where_there_is_no_ipv6_everywhere_is_that_of_ipv4() {
        assert_eq!(tried("[::]:8443", libc::EAFNOSUPPORT), ["[::]:8443", "0.0.0.0:8443"]);
        assert_eq!(tried("[::]:8443", libc::EADDRNOTAVAIL), ["[::]:8443", "0.0.0.0:8443"]);
        assert_eq!(tried("[::]:8443", libc::EADDRINUSE), ["[::]:8443"]);
        assert_eq!(tried("[::1]:8443", libc::EADDRNOTAVAIL), ["[::1]:8443"]);
    }

    fn places() -> Arc<Places> {
        Arc::new(Places::new(PLACES))
    }

    /// All places, each taken a moment after the one before.
    fn all(places: &Arc<Places>, now: &mut Instant) -> Vec<Place> {
        let mut next = || {
            *now += Duration::from_millis(1);
            places.try_take(*now).expect("there is one")
        };
        (0..PLACES).map(|_| next()).collect()
    }

    #[tokio::test]
    async fn who_comes_last_gets_the_place_of_who_was_idle_for_longest() {
        let (places, mut now) = (places(), Instant::now());
        let mut taken = all(&places, &mut now);
        taken[0].set_busy(true, now);
        let next = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take().await }
        });
        taken[1].wanted.notified().await;
        assert!(!next.is_finished(), "it leaves when it can");
        assert!(taken[0].is_busy() && !taken[1].is_busy());
        drop(taken.remove(1));
        let place = next.await.expect("it does not panic");
        assert_eq!(places.seats().len(), PLACES);
        drop(place);
        drop(taken);
        assert_eq!(places.seats().len(), 0);
    }

    #[tokio::test]
    async fn answers_being_made_are_not_interrupted() {
        let (places, mut now) = (places(), Instant::now());
        let mut taken = all(&places, &mut now);
        taken.iter().for_each(|place| place.set_busy(true, now));
        let next = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take().await }
        });
        tokio::task::yield_now().await;
        taken[5].set_busy(false, now);
        taken[5].wanted.notified().await;
        drop(taken.remove(5));
        drop(next.await.expect("it does not panic"));
    }
}
