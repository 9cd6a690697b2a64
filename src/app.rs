//! Composition: the components of the process, from the first to the last.
//!
//! Each is a function that starts it and one that ends it, on the state that they share ([`Process`]); the table at the
//! top says in which order they come. What is bound is bound before anything is dialled, and clients are taken in last.

use std::fmt;
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::admin;
use crate::buffer::Memory;
use crate::client::Census;
use crate::client::listener::{self, Listener, Reception};
use crate::config::Config;
use crate::lifecycle::drain::drain;
use crate::lifecycle::graph::{Component, Graph};
use crate::lifecycle::reload::Reload;
use crate::lifecycle::signals::{Signals, Told};
use crate::lifecycle::{Lifecycle, Phase, Stage};
use crate::observe::log::{Lines, Log};
use crate::observe::metrics::Metrics;
use crate::secret;
use crate::upstream::Shared;
use crate::upstream::breaker::Mode;
use crate::version;
use crate::worker::{self, Setup};

/// Open files besides those of clients and upstream connections.
const SPARE_FILES: u64 = 32;

/// CLIENT IDs begin above this, at a random point, so that they are not mistaken for ids out of the server's CLIENT LIST.
const FIRST_ID: u64 = 1 << 48;

/// Who asks for the end where no signal does.
const OVER_HTTP: &str = "/quitquitquit";

/// What the start of a component may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What the process is made of.
static COMPONENTS: [Component<Process>; 7] = [
    Component {
        name: "config",
        needs: &[],
        critical: true,
        limit: LIMIT,
        start: |process| Box::pin(async move { process.raise_file_limit() }),
        stop: |_| {},
    },
    Component {
        name: "secrets",
        needs: &["config"],
        critical: true,
        limit: LIMIT,
        start: |process| Box::pin(async move { secret::read_all(process.config.secrets()).await }),
        stop: |_| {},
    },
    Component {
        name: "http",
        needs: &["config"],
        critical: true,
        limit: LIMIT,
        start: |process| Box::pin(async move { process.start_http() }),
        stop: |_| {},
    },
    Component {
        name: "listeners",
        needs: &["config"],
        critical: true,
        limit: LIMIT,
        start: |process| Box::pin(async move { process.bind() }),
        stop: |process| locked(&process.listeners).clear(),
    },
    Component {
        name: "workers",
        needs: &["secrets", "listeners"],
        critical: true,
        limit: LIMIT,
        start: |process| Box::pin(async move { process.start_workers() }),
        stop: |process| drop(locked(&process.reception).take()),
    },
    Component {
        name: "upstream",
        needs: &["workers"],
        critical: false,
        // It has its own.
        limit: Duration::MAX,
        start: |process| Box::pin(async move { process.reach_upstream().await }),
        stop: |_| {},
    },
    Component {
        name: "accept",
        needs: &["workers"],
        critical: true,
        limit: LIMIT,
        start: |process| Box::pin(async move { process.accept() }),
        stop: |process| locked(&process.accepting).abort_all(),
    },
];

/// Why the proxy could not start.
#[derive(Debug)]
pub enum Error {
    /// A component could not be started: what is wrong, and how to mend it.
    Component(String),
    /// The system has no signal handler or epoll instance to give.
    System(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Component(problem) => f.write_str(problem),
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

/// What the components share.
struct Process {
    config: Config,
    lifecycle: Arc<Lifecycle>,
    /// What the log has written.
    lines: Arc<Lines>,
    /// What all buffers take.
    memory: Arc<Memory>,
    upstream: Arc<Shared>,
    census: Arc<Census>,
    /// How far the process is with taking its leave.
    stage: watch::Sender<Stage>,
    /// Sockets that listen, and whether their clients get the error while Redis cannot be asked.
    listeners: Mutex<Vec<(Listener, bool)>>,
    /// The way to the workers, which end when it is gone.
    reception: Mutex<Option<Reception>>,
    /// The tasks of the listeners.
    accepting: Mutex<JoinSet<()>>,
    /// Tells that files are to be read again.
    reload: Notify,
}

/// Serves until it is told to stop. Returns the exit code: 0, or that of the signal that did not let it finish.
///
/// # Errors
/// Why it could not start.
pub fn run(config: &Config, log: Log) -> Result<u8, Error> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(config, log));
    // A file that is still being read, from a disk that does not answer, must not hold up the end.
    runtime.shutdown_background();
    ended
}

async fn serve(config: &Config, log: Log) -> Result<u8, Error> {
    // First of all, so that none of them ends us half-way.
    let mut signals = Signals::listen()?;
    let process = Arc::new(Process::new(config, &log)?);
    let lifecycle = &process.lifecycle;
    let mut graph = Graph::new(&COMPONENTS, Arc::clone(&process), Arc::clone(lifecycle))
        .map_err(|flaw| Error::Component(flaw.to_string()))?;
    let started = tokio::select! {
        started = graph.start() => started,
        asked_by = asked_to_stop(&mut signals, lifecycle, &process.reload) => {
            tracing::info!(asked_by, "stopping before all has started");
            lifecycle.enter(Phase::Draining);
            graph.stop().await;
            return Ok(0);
        }
    };
    if let Err(problem) = started {
        graph.stop().await;
        return Err(Error::Component(problem));
    }
    lifecycle.enter(Phase::Serving);
    let reload = Reload::new(
        config.secrets().cloned().collect(),
        Arc::clone(process.upstream.metrics()),
        log,
        config.log_file.clone().map(|file| (config.log_setting(), file)),
    );
    let watched = Arc::clone(&process);
    tokio::spawn(async move { reload.watch(&watched.reload, || watched.upstream.password_changed()).await });
    let asked_by = asked_to_stop(&mut signals, lifecycle, &process.reload).await;
    lifecycle.enter(Phase::Draining);
    let code = tokio::select! {
        () = process.drain(asked_by) => 0,
        told = told_again(asked_by, &mut signals, &process.reload) => {
            tracing::warn!(signal = told.name(), "told twice to stop: ending at once");
            told.code()
        }
    };
    graph.stop().await;
    Ok(code)
}

/// Waits until a signal or somebody else asks the process to stop; returns who.
async fn asked_to_stop(signals: &mut Signals, lifecycle: &Lifecycle, reload: &Notify) -> &'static str {
    loop {
        tokio::select! {
            told = signals.next() => match told {
                Told::Terminate | Told::Interrupt => return told.name(),
                Told::Reload => reload.notify_one(),
            },
            () = lifecycle.stop_asked() => return OVER_HTTP,
        }
    }
}

/// Waits until a signal asks the process once more to stop. Who has asked over HTTP is followed by an orchestrator's signal as
/// a matter of course: that is no second one.
async fn told_again(asked_by: &str, signals: &mut Signals, reload: &Notify) -> Told {
    let mut told_once = asked_by != OVER_HTTP;
    loop {
        match signals.next().await {
            told @ (Told::Terminate | Told::Interrupt) if told_once => return told,
            Told::Terminate | Told::Interrupt => told_once = true,
            Told::Reload => reload.notify_one(),
        }
    }
}

impl Process {
    fn new(config: &Config, log: &Log) -> Result<Self, Error> {
        let metrics = Metrics::new(config.workers, config.slow_from, config.http.is_none());
        let metrics = Arc::new(metrics.map_err(|error| Error::Component(error.to_string()))?);
        Ok(Self {
            config: config.clone(),
            lifecycle: Lifecycle::new(),
            lines: log.lines(),
            memory: Arc::new(Memory::new(config.memory_limit)),
            upstream: Shared::new(config.upstream.clone(), metrics, random()),
            census: Arc::new(Census::new(first_id())),
            stage: watch::Sender::new(Stage::Serving),
            listeners: Mutex::default(),
            reception: Mutex::default(),
            accepting: Mutex::default(),
            reload: Notify::new(),
        })
    }

    /// Asks for as many open files as we may have, and says so if they are too few: each client is one.
    #[expect(clippy::unnecessary_wraps, reason = "as every component")]
    fn raise_file_limit(&self) -> Result<(), String> {
        let needed = self.config.clients.max_clients as u64 + self.config.upstream.pool_size as u64 + SPARE_FILES;
        let limit = getrlimit(Resource::Nofile);
        // Refused only if we are not what we think we are; then the warning below says what matters.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        if let Some(allowed) = getrlimit(Resource::Nofile).current.filter(|allowed| *allowed < needed) {
            tracing::warn!(
                allowed,
                needed,
                "the limit of open files is too low for --max-clients: raise it (ulimit -n)"
            );
        }
        Ok(())
    }

    /// Opens the HTTP port, if there is to be one, so that the start itself can be watched.
    fn start_http(&self) -> Result<(), String> {
        let Some(config) = &self.config.http else { return Ok(()) };
        let server = admin::bind(config).map_err(|error| error.to_string())?;
        let sources = admin::Sources {
            upstream: Arc::clone(&self.upstream),
            census: Arc::clone(&self.census),
            memory: Arc::clone(&self.memory),
            lifecycle: Arc::clone(&self.lifecycle),
            lines: Arc::clone(&self.lines),
            settings: self.config.shown.clone(),
        };
        server.start(sources).map_err(|error| format!("cannot start the HTTP port: {error}"))
    }

    fn bind(&self) -> Result<(), String> {
        let clients = &self.config.clients;
        let usual = listener::bind_all(&clients.listen, "--listen (OUTRIGGER_LISTEN)")?;
        let strict = listener::bind_all(&clients.listen_strict, "--listen-strict (OUTRIGGER_LISTEN_STRICT)")?;
        let all = usual.into_iter().map(|listener| (listener, false));
        *locked(&self.listeners) = all.chain(strict.into_iter().map(|listener| (listener, true))).collect();
        Ok(())
    }

    fn start_workers(&self) -> Result<(), String> {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..self.config.workers).map(|_| mpsc::unbounded_channel()).unzip();
        self.upstream.connect_workers(senders.clone());
        let seats = senders
            .into_iter()
            .zip(receivers)
            .enumerate()
            .map(|(index, (sender, events))| {
                worker::start(Setup {
                    index,
                    clients: self.config.clients.clone(),
                    upstream: Arc::clone(&self.upstream),
                    memory: Arc::clone(&self.memory),
                    census: Arc::clone(&self.census),
                    sender,
                    events,
                    stage: self.stage.subscribe(),
                })
            })
            .collect::<io::Result<Vec<_>>>()
            .map_err(|error| format!("cannot start a worker: {error}; give fewer --workers (OUTRIGGER_WORKERS)"))?;
        let metrics = Arc::clone(self.upstream.metrics());
        let reception = Reception::new(seats, Arc::clone(&self.census), self.config.clients.max_clients, metrics);
        *locked(&self.reception) = Some(reception);
        let upstream = &self.config.upstream;
        tracing::info!(
            upstream = %upstream.target.address,
            database = upstream.target.database,
            pool_size = upstream.pool_size,
            workers = self.config.workers,
            version = version::VERSION,
            "forwarding"
        );
        if upstream.breaker.mode == Mode::Isolated {
            tracing::warn!(
                "isolated from Redis from the start by --breaker isolated: POST /breaker/release with the admin token ends it"
            );
        }
        tokio::spawn(Arc::clone(&self.upstream).watch());
        Ok(())
    }

    /// Waits for the first connection, which the supervisor makes; whatever becomes of it later is the supervisor's. Isolated,
    /// there is none to wait for, and nothing has failed.
    async fn reach_upstream(&self) -> Result<(), String> {
        let address = &self.config.upstream.target.address;
        let limit = self.config.upstream.connect_timeout;
        self.upstream.not_isolated().await;
        let reached = timeout(limit, self.upstream.reached()).await;
        reached.map_err(|_| format!("{address} was not reached: see --upstream (OUTRIGGER_UPSTREAM)"))
    }

    fn accept(&self) -> Result<(), String> {
        let reception = locked(&self.reception).clone().ok_or("there are no workers")?;
        let accepting = &mut *locked(&self.accepting);
        for (listener, strict) in mem::take(&mut *locked(&self.listeners)) {
            let address = listener.address().map_err(|error| format!("cannot ask for an address: {error}"))?;
            let reception = if strict {
                tracing::info!(%address, strict = true, "listening");
                reception.strict()
            } else {
                tracing::info!(%address, "listening");
                reception.clone()
            };
            accepting.spawn(listener.run(reception, self.stage.subscribe()));
        }
        Ok(())
    }

    /// Takes leave of the clients.
    async fn drain(&self, asked_by: &'static str) {
        let begun = Instant::now();
        let clients = || self.census.count();
        let found = clients();
        tracing::info!(asked_by, clients = found, "draining");
        let mut accepting = mem::take(&mut *locked(&self.accepting));
        let closed = async move { while accepting.join_next().await.is_some() {} };
        let cut_off = drain(self.config.drain, &self.stage, closed, clients).await;
        let seconds = begun.elapsed().as_secs_f64();
        if cut_off == 0 {
            tracing::info!(clients = found, seconds, "drained");
        } else {
            tracing::warn!(clients = found, cut_off, seconds, "drained, but for those who did not come to rest");
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that runs under these locks can panic half-way, so a poisoned one still guards good data.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A random start for the ids: two proxies in front of one server must not give the same.
fn first_id() -> u64 {
    FIRST_ID + (random() >> 17)
}

fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
