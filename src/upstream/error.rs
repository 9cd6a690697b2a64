//! What can go wrong between us and Redis, and what the client is told.
//!
//! Two codes are ours, and every client library tried fails fast on them, once, without reconnecting: `UNAVAILABLE` (the
//! command was not sent) and `INDETERMINATE` (it may have run). Their texts avoid words that some libraries match on.

use std::fmt;
use std::io;

/// Why an upstream connection could not be made, or was given up.
#[derive(Debug, Clone)]
pub(crate) enum Error {
    /// The host name has no address: the resolver's words.
    Resolve(String),
    /// The dial failed: address and the system's words.
    Connect(String),
    /// Dial and handshake together took longer than the connect timeout.
    Timeout,
    /// The server ended the connection.
    Closed,
    /// The server answered a handshake step with an error: step and its error line, without the `-`.
    Refused { step: &'static str, reply: String },
    /// The server refuses this database: its error line, without the `-`.
    Database(String),
    /// The bytes received are no valid reply, or one nobody asked for.
    Protocol(String),
    /// Reading or writing failed: the system's words.
    Io(String),
}

impl Error {
    /// The whole error reply for a request that found no connection.
    pub(crate) fn reply(&self) -> Vec<u8> {
        match self {
            Self::Database(reply) => format!("-{reply}\r\n").into_bytes(),
            Self::Resolve(_)
            | Self::Connect(_)
            | Self::Timeout
            | Self::Closed
            | Self::Refused { .. }
            | Self::Protocol(_)
            | Self::Io(_) => NOT_SENT.to_vec(),
        }
    }
}

/// The reply to a request that was not sent.
pub(crate) const NOT_SENT: &[u8] = b"-UNAVAILABLE no upstream connection, command not sent\r\n";

/// The reply to a request that was sent, at least in part, and whose answer will not come.
pub(crate) const MAY_HAVE_RUN: &[u8] =
    b"-INDETERMINATE upstream link dropped before the reply, the command may have run\r\n";

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(reason) => write!(f, "cannot resolve the upstream's name: {reason}"),
            Self::Connect(reason) => write!(f, "cannot connect: {reason}"),
            Self::Timeout => f.write_str("no connection within the connect timeout"),
            Self::Closed => f.write_str("the upstream ended the connection"),
            Self::Refused { step, reply } => write!(f, "the upstream refused {step}: `{reply}`"),
            Self::Database(reply) => write!(f, "the upstream refused the database: `{reply}`"),
            Self::Protocol(reason) => write!(f, "the upstream broke the protocol: {reason}"),
            Self::Io(reason) => write!(f, "the upstream connection failed: {reason}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}
