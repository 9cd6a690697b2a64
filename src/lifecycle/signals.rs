//! What the process is told by signals.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit codes of a process that was ended by a signal begin above this, as shells have it.
const SIGNALLED: u8 = 128;

/// The signals that the process listens to. As long as this is there, none of them ends it by itself.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// A signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// SIGTERM: stop.
    Terminate,
    /// SIGINT: stop.
    Interrupt,
    /// SIGHUP: read again what may have changed.
    Reload,
}

impl Told {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Reload => "SIGHUP",
        }
    }

    /// The exit code of a process that it ends at once.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Reload => SIGNALLED + 1,
            Self::Interrupt => SIGNALLED + 2,
            Self::Terminate => SIGNALLED + 15,
        }
    }
}

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// Those of `sigaction(2)`.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal; nothing is lost when it is not waited for.
    pub async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Terminate,
            _ = self.interrupt.recv() => Told::Interrupt,
            _ = self.hangup.recv() => Told::Reload,
        }
    }
}
