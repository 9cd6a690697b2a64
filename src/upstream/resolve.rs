//! The upstream's name and its addresses.
//!
//! Asked again on a dial, five seconds after the last answer at the soonest, and one question at a time: whoever dials
//! while the name is being asked for waits for that answer. But one who knows addresses already waits a moment only: a name
//! server that is slow must not keep us from a Redis that is there.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::error::Error;

/// A name is asked for no sooner after the last answer.
const EVERY: Duration = Duration::from_secs(5);

/// How long a dial waits for addresses that may be newer than those it knows.
const PATIENCE: Duration = Duration::from_millis(250);

/// The addresses found last, or why there are none.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    state: Mutex<State>,
    answered: Notify,
}

#[derive(Debug, Default)]
struct State {
    found: Option<Result<Vec<SocketAddr>, Error>>,
    /// The name is being asked for.
    asking: bool,
    /// When the last answer came, or was given up.
    answered: Option<Instant>,
}

impl Resolver {
    /// All addresses of a name.
    ///
    /// # Errors
    /// Nothing was ever found. A name that could be resolved before keeps its addresses: the name server may be gone
    /// while Redis is not.
    pub(crate) async fn addresses(self: &Arc<Self>, host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
        let (begin, known) = {
            let mut state = self.state();
            let begin = !state.asking && state.answered.is_none_or(|at| at.elapsed() >= EVERY);
            state.asking |= begin;
            (begin, matches!(state.found, Some(Ok(_))))
        };
        if begin {
            tokio::spawn(Arc::clone(self).ask(host.to_owned(), port));
        }
        if known {
            // Past that, what is known must do.
            let _ = timeout(PATIENCE, self.answer()).await;
        } else {
            self.answer().await;
        }
        self.state().found.clone().unwrap_or_else(|| Err(Error::Resolve(format!("`{host}` was not asked for"))))
    }

    /// Waits until the name is not being asked for.
    async fn answer(&self) {
        loop {
            let answered = self.answered.notified();
            if !self.state().asking {
                return;
            }
            answered.await;
        }
    }

    async fn ask(self: Arc<Self>, host: String, port: u16) {
        let fresh = match lookup_host((host.as_str(), port)).await.map(Iterator::collect::<Vec<_>>) {
            Ok(addresses) if addresses.is_empty() => Err(Error::Resolve(format!("`{host}` has no address"))),
            Ok(addresses) => Ok(addresses),
            Err(error) => Err(Error::Resolve(format!("`{host}`: {error}"))),
        };
        let mut state = self.state();
        match (&state.found, fresh) {
            (Some(Ok(_)), Err(error)) => tracing::warn!(%error, "trying the addresses that the name had before"),
            (_, fresh) => state.found = Some(fresh),
        }
        state.asking = false;
        state.answered = Some(Instant::now());
        drop(state);
        self.answered.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock can panic half-way, so a poisoned lock still guards good data.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
