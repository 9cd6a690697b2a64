//! The HTTP port: probes, health, metrics, a page for people, and what an operator may do to this one process.
//!
//! It has a thread and a runtime of its own, so that whatever is asked here, and however often, the path of a request is not
//! touched. What it knows it reads from what is shared anyway; what changes something needs the token, or is for this
//! machine alone.
//!
//! - [`site`]: which path is answered by what, and who may ask. Connections and their limits are of [`crate::http`].
//! - [`tally`]: what was asked, counted.
//! - [`health`]: whether Redis answers. [`probes`]: whether the process does. [`report`]: all that is known, as JSON.
//! - [`page`]: the same for people, from [`status`]. [`condition`]: how it is in one word, and why.
//! - [`drill`]: an outage on purpose.
//! - [`metrics`]: what was counted, and what there is now.
//! - [`caller`]: the other end of the line: `outrigger wait` and `outrigger healthcheck`.

pub mod caller;
mod condition;
mod drill;
mod health;
mod metrics;
mod page;
mod probes;
mod report;
mod site;
mod status;
mod tally;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::watch;

use crate::buffer::Memory;
use crate::client::Census;
use crate::http::{self, BodyLimits, Limits};
use crate::lifecycle::Lifecycle;
use crate::observe::log::Lines;
use crate::secret::Secret;
use crate::upstream::Shared;
use site::Site;
use tally::Tally;

/// Limits of the port.
static LIMITS: Limits = Limits {
    places: 64,
    first: Duration::from_secs(10),
    idle: Duration::from_secs(5),
    answer: Duration::from_secs(10),
    body: BodyLimits { longest: 8 * 1024, discarded: 256 * 1024, within: Duration::from_secs(5) },
};

/// Settings of the HTTP port.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it is.
    pub address: SocketAddr,
    /// The operator's token; without one nothing that needs it is there.
    pub token: Option<Secret>,
    /// Whoever is on this machine may end the process.
    pub quitquitquit: bool,
    /// Not ready while Redis does not answer.
    pub ready_requires_upstream: bool,
    /// Not started until Redis was reached once.
    pub startup_requires_upstream: bool,
}

/// Where the HTTP port has what it tells.
pub struct Sources {
    /// The upstream side.
    pub(crate) upstream: Arc<Shared>,
    /// The clients.
    pub(crate) census: Arc<Census>,
    /// What all buffers take.
    pub(crate) memory: Arc<Memory>,
    /// How far the process is.
    pub(crate) lifecycle: Arc<Lifecycle>,
    /// What the log has written.
    pub(crate) lines: Arc<Lines>,
    /// The flags in force, without credentials.
    pub(crate) settings: BTreeMap<String, String>,
}

/// Why there is no HTTP port.
#[derive(Debug)]
pub enum Error {
    /// The address cannot be listened on.
    Bind(SocketAddr, io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(address, error) => write!(
                f,
                "cannot listen on `{address}` for HTTP: {error}; choose another address with --http (OUTRIGGER_HTTP), or off"
            ),
        }
    }
}

impl std::error::Error for Error {}

/// The HTTP port, bound. Who connects before it is started waits.
pub struct Server {
    listener: TcpListener,
    tally: Arc<Tally>,
    config: Config,
}

/// Binds the address.
///
/// # Errors
/// Why that failed.
pub fn bind(config: &Config) -> Result<Server, Error> {
    let listener = http::listen(config.address).map_err(|error| Error::Bind(config.address, error))?;
    Ok(Server { listener, tally: Arc::default(), config: config.clone() })
}

impl Server {
    /// The address bound, with the port that the system chose.
    ///
    /// # Errors
    /// Those of `getsockname(2)`.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers from now on, on a thread of its own, until the process ends.
    ///
    /// # Errors
    /// When the system has no thread or no epoll instance to give.
    pub fn start(self, sources: Sources) -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let address = self.address()?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::TcpListener::from_std(self.listener)?
        };
        let site = Site::new(self.config, self.tally, sources);
        let serve = async move {
            tokio::spawn(Arc::clone(&site).watch());
            // It ends with the process.
            http::run(listener, site, &LIMITS, watch::channel(false).1).await;
        };
        thread::Builder::new().name("http".to_owned()).spawn(move || runtime.block_on(serve))?;
        tracing::info!(%address, "http listening");
        Ok(())
    }
}
