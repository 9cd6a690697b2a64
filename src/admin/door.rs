//! Connections of the HTTP port, and their limits.
//!
//! There are so many places. Who comes when all are taken gets that of the connection that has been idle for longest, where
//! half a request counts as none: so whoever holds connections open, or sends slowly, keeps nobody else out. Only answers
//! being made are not interrupted; these take two seconds at most.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use slab::Slab;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::site::{self, Site};

/// Connections at once.
const PLACES: usize = 64;

/// A request's head must come within this, from the moment that the last answer left.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// An answer must be made within this, and taken within as long again.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Fields of a request's head, and the bytes of it.
const MAX_FIELDS: usize = 64;
const MAX_HEAD: usize = 16 * 1024;

/// Pause after accepting failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts for as long as the process lives.
pub(super) async fn run(listener: TcpListener, site: Arc<Site>) {
    tokio::spawn(Arc::clone(&site).watch());
    let places = Arc::new(Places::default());
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                failing = false;
                let place = Places::take(&places).await;
                let is_near = is_near(&stream, peer.ip());
                tokio::spawn(serve(stream, is_near, Arc::clone(&site), place));
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
}

/// True if both ends are on this machine's loopback device. A mesh that takes in connections from elsewhere hands them on from
/// a loopback address (127.0.0.6), but to the pod's own.
fn is_near(stream: &TcpStream, peer: IpAddr) -> bool {
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    is_loopback(peer) && stream.local_addr().is_ok_and(|local| is_loopback(local.ip()))
}

async fn serve(stream: TcpStream, is_near: bool, site: Arc<Site>, place: Place) {
    let answer = service_fn(|request| {
        let (place, site) = (&place, &site);
        async move {
            // Who does not end what it asks is idle: its place may go to another.
            let (head, read) = site::read_whole(request).await;
            place.set_busy(true, Instant::now());
            let answer = site.answer(is_near, &head, read).await;
            place.set_busy(false, Instant::now());
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_HEAD)
        // Who has said all it has to say is answered all the same.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = pin!(connection);
    loop {
        let deadline = place.since() + ANSWER_WITHIN;
        tokio::select! {
            // The connection first: a request that is there already is answered, and its place then is not free.
            biased;
            ended = &mut connection => {
                // What a stranger sends is its own affair.
                if let Err(error) = ended {
                    site.refused_unread(&error);
                    tracing::debug!(%error, "an HTTP connection failed");
                }
                return;
            }
            () = place.wanted.notified() => {
                // When the answer has left, whoever wants the place is told, and asks for it again.
                if !place.is_busy() {
                    return;
                }
            }
            () = sleep_until(deadline) => {
                if place.since() + ANSWER_WITHIN <= Instant::now() {
                    return;
                }
            }
        }
    }
}

/// All places.
#[derive(Default)]
struct Places {
    seats: Mutex<Slab<Seat>>,
    /// A place came free, or may be had now.
    changed: Notify,
}

struct Seat {
    busy: bool,
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
        if seats.len() < PLACES {
            let wanted = Arc::new(Notify::new());
            let number = seats.insert(Seat { busy: false, since: now, wanted: Arc::clone(&wanted) });
            return Some(Place { places: Arc::clone(self), number, wanted });
        }
        let idle = seats.iter().filter(|(_, seat)| !seat.busy);
        idle.min_by_key(|(_, seat)| seat.since).into_iter().for_each(|(_, seat)| seat.wanted.notify_one());
        None
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
        }
        if !busy {
            self.places.changed.notify_one();
        }
    }

    fn is_busy(&self) -> bool {
        self.places.seats().get(self.number).is_some_and(|seat| seat.busy)
    }

    /// Since when it is busy, or idle.
    fn since(&self) -> Instant {
        self.places.seats().get(self.number).map_or_else(Instant::now, |seat| seat.since)
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
    use super::*;

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
        let (places, mut now) = (Arc::new(Places::default()), Instant::now());
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
        let (places, mut now) = (Arc::new(Places::default()), Instant::now());
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
