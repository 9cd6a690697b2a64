//! Listening and accepting, apart from the workers: a worker that is busy does not make new clients wait.
//!
//! A listener accepts in batches and hands each socket to the worker with the fewest clients. At the client limit the
//! newcomer is told so in Redis' own words. When descriptors run out it pauses instead of spinning: the pending
//! connection stays in the backlog, and accepting it would fail again at once.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::Census;
use crate::lifecycle::Stage;
use crate::observe::metrics::Metrics;
use crate::transport::{Accepted, lacks_ipv6};

/// Connections the kernel holds for us until they are accepted.
const BACKLOG: i32 = 4096;

/// Sockets accepted in one go, before other tasks have their turn.
const BATCH: usize = 64;

/// Pause after accepting failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Clients beyond the limit that are told so at the same time; further ones are just closed.
const MAX_REFUSALS: usize = 256;

/// How long a refused client has to take the message.
const LINGER: Duration = Duration::from_secs(1);

const TOO_MANY: &[u8] = b"-ERR max number of clients reached\r\n";

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// IP address and port; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// True if only this machine can connect.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// True for an IPv6 address.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        matches!(self, Self::Tcp(address) if address.is_ipv6())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An accepted socket on its way to a worker.
pub(crate) struct Newcomer {
    pub(crate) socket: Accepted,
    /// It came over a strict listener.
    pub(crate) strict: bool,
}

/// A listener as metrics have it.
pub(super) fn label(strict: bool) -> &'static str {
    if strict { "strict" } else { "ordinary" }
}

/// A socket that listens.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A worker, as the listeners see it.
#[derive(Clone)]
pub(crate) struct Seat {
    /// Takes accepted sockets.
    pub(crate) clients: mpsc::UnboundedSender<Newcomer>,
    /// How many clients it has.
    pub(crate) count: Arc<AtomicUsize>,
}

/// Where accepted sockets go.
#[derive(Clone)]
pub(crate) struct Reception {
    seats: Vec<Seat>,
    census: Arc<Census>,
    max_clients: usize,
    strict: bool,
    refusals: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Reception {
    pub(crate) fn new(seats: Vec<Seat>, census: Arc<Census>, max_clients: usize, metrics: Arc<Metrics>) -> Self {
        Self { seats, census, max_clients, strict: false, refusals: Arc::new(Semaphore::new(MAX_REFUSALS)), metrics }
    }

    /// The same, for clients that never get an empty answer in an outage.
    pub(crate) fn strict(&self) -> Self {
        Self { strict: true, ..self.clone() }
    }

    /// Gives a socket to the worker with the fewest clients, or refuses it.
    fn receive(&self, socket: Accepted) {
        if self.census.clients.fetch_add(1, Ordering::Relaxed) >= self.max_clients {
            self.census.clients.fetch_sub(1, Ordering::Relaxed);
            self.metrics.rejected.with_label_values(&["max_clients"]).inc();
            self.refuse(socket);
            return;
        }
        self.metrics.accepted.with_label_values(&[label(self.strict)]).inc();
        self.census.strict.fetch_add(usize::from(self.strict), Ordering::Relaxed);
        let Some(seat) = self.seats.iter().min_by_key(|seat| seat.count.load(Ordering::Relaxed)) else { return };
        seat.count.fetch_add(1, Ordering::Relaxed);
        // A worker only ends with the process.
        drop(seat.clients.send(Newcomer { socket, strict: self.strict }));
    }

    fn refuse(&self, socket: Accepted) {
        let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() else { return };
        tokio::spawn(async move {
            let _permit = permit;
            // Whether the client took the message is its own affair.
            let _ = timeout(LINGER, tell(socket)).await;
        });
    }
}

/// Writes the refusal and waits for the client to hang up, lest a reset overtake the message.
async fn tell(socket: Accepted) -> io::Result<()> {
    async fn say(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) -> io::Result<()> {
        stream.write_all(TOO_MANY).await?;
        stream.shutdown().await?;
        let mut discarded = [0; 4096];
        for _ in 0..16 {
            if stream.read(&mut discarded).await? == 0 {
                break;
            }
        }
        Ok(())
    }
    match socket {
        Accepted::Tcp(stream) => say(tokio::net::TcpStream::from_std(stream)?).await,
        Accepted::Unix(stream) => say(tokio::net::UnixStream::from_std(stream)?).await,
    }
}

/// Binds all addresses of a `setting`. Where the machine has no IPv6, the loopback address of it is left out, as long as another
/// is left.
///
/// # Errors
/// The first that cannot be bound, and the remedy.
pub(crate) fn bind_all(addresses: &[ListenAddress], setting: &str) -> Result<Vec<Listener>, String> {
    let mut listeners = Vec::new();
    for address in addresses {
        match bind(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if addresses.len() > 1 && address.is_ipv6() && address.is_local() && lacks_ipv6(&error) => {
                tracing::warn!(%address, "not listening there: this machine has no IPv6");
            }
            Err(error) => {
                return Err(format!("cannot listen on `{address}`: {error}; choose another address with {setting}"));
            }
        }
    }
    Ok(listeners)
}

/// Binds an address.
///
/// # Errors
/// Those of `bind(2)` and `listen(2)`.
fn bind(address: &ListenAddress) -> io::Result<Listener> {
    match address {
        ListenAddress::Tcp(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.set_reuse_address(true)?;
            // Accepted sockets inherit it on Linux, which saves a system call for each.
            socket.set_tcp_nodelay(true)?;
            socket.bind(&SockAddr::from(*address))?;
            listen(socket).and_then(|socket| TcpListener::from_std(socket.into())).map(Listener::Tcp)
        }
        ListenAddress::Unix(path) => {
            remove_stale(path)?;
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.bind(&SockAddr::unix(path)?)?;
            listen(socket)
                .and_then(|socket| UnixListener::from_std(socket.into()))
                .map(|listener| Listener::Unix(listener, path.clone()))
        }
    }
}

fn listen(socket: Socket) -> io::Result<Socket> {
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Removes the socket file of a process that is gone; one that still answers is in use.
fn remove_stale(path: &PathBuf) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        return std::fs::remove_file(path);
    }
    Ok(())
}

impl Listener {
    /// The address bound, with the port that the system chose.
    ///
    /// # Errors
    /// Those of `getsockname(2)`.
    pub(crate) fn address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(ListenAddress::Tcp),
            Self::Unix(_, path) => Ok(ListenAddress::Unix(path.clone())),
        }
    }

    /// Accepts until the process takes its leave.
    pub(crate) async fn run(self, reception: Reception, mut stage: watch::Receiver<Stage>) {
        let mut paused = false;
        loop {
            let accepted = tokio::select! {
                accepted = self.batch(&reception) => accepted,
                _ = stage.wait_for(|stage| *stage != Stage::Serving) => return self.close(&reception),
            };
            match accepted {
                Ok(()) if paused => {
                    paused = false;
                    tracing::info!("accepting clients again");
                }
                Ok(()) => {}
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    if !paused {
                        tracing::warn!(%error, "cannot accept clients, pausing for 100 ms at a time");
                    }
                    paused = true;
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Takes in who is connected already, as far as the system is concerned: closing would reset them.
    fn close(self, reception: &Reception) {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Ok(socket)) = self.poll_accept(&mut cx) {
            reception.receive(socket);
        }
    }

    /// Waits for a client, and accepts it and whoever stands behind it.
    async fn batch(&self, reception: &Reception) -> io::Result<()> {
        reception.receive(std::future::poll_fn(|cx| self.poll_accept(cx)).await?);
        let waker = std::task::Waker::noop();
        for _ in 1..BATCH {
            // The noop waker is replaced as soon as we wait again.
            match self.poll_accept(&mut std::task::Context::from_waker(waker)) {
                Poll::Ready(socket) => reception.receive(socket?),
                Poll::Pending => break,
            }
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    fn poll_accept(&self, cx: &mut std::task::Context<'_>) -> Poll<io::Result<Accepted>> {
        match self {
            Self::Tcp(listener) => listener.poll_accept(cx).map(|accepted| Ok(Accepted::Tcp(accepted?.0.into_std()?))),
            Self::Unix(listener, _) => {
                listener.poll_accept(cx).map(|accepted| Ok(Accepted::Unix(accepted?.0.into_std()?)))
            }
        }
    }
}

/// Removes the file of a unix socket.
impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // If it is gone already, somebody else has tidied up.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// True if only the one connection failed, not accepting as such.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
