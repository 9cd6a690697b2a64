//! Composition: binds, starts the workers, accepts until told to stop.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin;
use crate::buffer::Memory;
use crate::client::listener::{self, Listener, Reception};
use crate::client::{Census, ListenAddress};
use crate::config::Config;
use crate::lifecycle::{Lifecycle, Phase};
use crate::observe::metrics::Metrics;
use crate::upstream::Shared;
use crate::worker::{self, Setup};

/// Open files besides those of clients and upstream connections.
const SPARE_FILES: u64 = 32;

/// CLIENT IDs begin above this, at a random point, so that they are not mistaken for ids out of the server's CLIENT LIST.
const FIRST_ID: u64 = 1 << 48;

/// Why the proxy could not start.
#[derive(Debug)]
pub enum Error {
    /// An address cannot be listened on.
    Bind(ListenAddress, io::Error),
    /// There is no HTTP port.
    Http(admin::Error),
    /// The system has no thread, signal handler or epoll instance to give.
    System(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(address, error) => write!(
                f,
                "cannot listen on `{address}`: {error}; choose another address with --listen (OUTRIGGER_LISTEN)"
            ),
            Self::Http(error) => error.fmt(f),
            Self::System(error) => write!(f, "cannot start: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Why it could not start.
pub fn run(config: &Config) -> Result<(), Error> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(config))
}

async fn serve(config: &Config) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    raise_file_limit(config);
    let lifecycle = Lifecycle::new();
    let http = config.http.as_ref().map(admin::bind).transpose().map_err(Error::Http)?;
    let listeners = bind_all(&config.clients.listen)?;
    let strict_listeners = bind_all(&config.clients.listen_strict)?;
    let off = config.http.is_none();
    let metrics = Metrics::new(config.workers, config.slow_from, off).map_err(io::Error::other)?;
    let shared = Shared::new(config.upstream.clone(), Arc::new(metrics), random());
    let census = Arc::new(Census::new(first_id()));
    let memory = Arc::new(Memory::new(config.memory_limit));
    if let Some(http) = http {
        http.start(admin::Sources {
            upstream: Arc::clone(&shared),
            census: Arc::clone(&census),
            memory: Arc::clone(&memory),
            lifecycle: Arc::clone(&lifecycle),
            settings: config.shown.clone(),
        })?;
    }
    let reception = start_workers(config, &shared, census, &memory)?;
    let upstream = &config.upstream;
    tracing::info!(
        upstream = %upstream.target.address,
        database = upstream.target.database,
        pool_size = upstream.pool_size,
        workers = config.workers,
        version = env!("CARGO_PKG_VERSION"),
        "forwarding"
    );
    tokio::spawn(shared.watch());
    for listener in listeners {
        tracing::info!(address = %listener.address()?, "listening");
        tokio::spawn(listener.run(reception.clone()));
    }
    for listener in strict_listeners {
        tracing::info!(address = %listener.address()?, strict = true, "listening");
        tokio::spawn(listener.run(reception.strict()));
    }
    lifecycle.enter(Phase::Serving);
    tokio::select! {
        () = lifecycle.stop_asked() => tracing::info!("stopping"),
        _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "stopping"),
        _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "stopping"),
    }
    Ok(())
}

/// Binds all addresses. Where the machine has no IPv6, the loopback address of it is left out, as long as another is left.
fn bind_all(addresses: &[ListenAddress]) -> Result<Vec<Listener>, Error> {
    let mut listeners = Vec::new();
    for address in addresses {
        match listener::bind(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if addresses.len() > 1 && address.is_ipv6() && address.is_local() && lacks_ipv6(&error) => {
                tracing::warn!(%address, "not listening there: this machine has no IPv6");
            }
            Err(error) => return Err(Error::Bind(address.clone(), error)),
        }
    }
    Ok(listeners)
}

fn lacks_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// Asks for as many open files as we may have, and says so if they are too few: each client is one.
fn raise_file_limit(config: &Config) {
    let needed = config.clients.max_clients as u64 + config.upstream.pool_size as u64 + SPARE_FILES;
    let limit = getrlimit(Resource::Nofile);
    // Refused only if we are not what we think we are; then the warning below says what matters.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    if let Some(allowed) = getrlimit(Resource::Nofile).current.filter(|allowed| *allowed < needed) {
        tracing::warn!(allowed, needed, "the limit of open files is too low for --max-clients: raise it (ulimit -n)");
    }
}

fn start_workers(
    config: &Config,
    shared: &Arc<Shared>,
    census: Arc<Census>,
    memory: &Arc<Memory>,
) -> Result<Reception, Error> {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..config.workers).map(|_| mpsc::unbounded_channel()).unzip();
    shared.connect_workers(senders.clone());
    let seats = senders
        .into_iter()
        .zip(receivers)
        .enumerate()
        .map(|(index, (sender, events))| {
            worker::start(Setup {
                index,
                clients: config.clients.clone(),
                upstream: Arc::clone(shared),
                memory: Arc::clone(memory),
                census: Arc::clone(&census),
                sender,
                events,
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Reception::new(seats, census, config.clients.max_clients, Arc::clone(shared.metrics())))
}

/// A random start for the ids: two proxies in front of one server must not give the same.
fn first_id() -> u64 {
    FIRST_ID + (random() >> 17)
}

fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
