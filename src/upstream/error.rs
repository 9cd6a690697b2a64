//! What can go wrong between us and Redis, and what the client is told.
//!
//! Two codes are ours, and every client library tried fails fast on them, once, without reconnecting: `UNAVAILABLE` (the
//! command was not sent, or not run) and `INDETERMINATE` (it may have run; the word is Jepsen's). Their texts avoid words
//! that some libraries match on, and take for a reason to try again or to reconnect.

use std::fmt;
use std::io;

use super::supervisor::DialFailure;
use crate::observe::cells::{self, Given};

/// Why an upstream connection could not be made, was given up, or is not to be had.
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
    /// No reply came for too long.
    Silent,
    /// The breaker is open, or the operator keeps us apart: nothing is sent.
    Open,
    /// More is in flight than the server answers before the deadline, at the rate it shows.
    Overloaded,
    /// The request has waited until its deadline.
    Overdue,
    /// The dial did not leave: too many have left just now.
    Withheld,
    /// Too many clients wait for a connection of their own, or this one has waited long enough.
    NoLease,
    /// The server has become a replica, and there is a primary elsewhere.
    Replica,
}

impl Error {
    /// Whether the server says of itself that it cannot serve just now, and may soon.
    pub(crate) fn is_for_now(&self) -> bool {
        matches!(self, Self::Refused { reply, .. } if cannot_serve(reply.as_bytes()))
    }

    /// Whether it concerns one database, or one protocol: what the server refuses in one protocol it may grant in the
    /// other (before Redis 6 it knows no HELLO).
    pub(crate) fn is_of_lane(&self) -> bool {
        let of_protocol = |reply: &str| reply.starts_with("ERR unknown command") || reply.starts_with("NOPROTO");
        match self {
            Self::Database(_) => true,
            Self::Refused { step: "HELLO", reply } => of_protocol(reply),
            _ => false,
        }
    }

    /// What kind of failure this is to whoever decides when to dial again.
    pub(crate) fn dial_failure(&self) -> DialFailure {
        match self {
            // Neither costs the server anything, and names are asked for every five seconds only.
            Self::Connect(_) | Self::Resolve(_) => DialFailure::Refused,
            Self::Refused { step: "HELLO" | "AUTH", .. } if !self.is_for_now() => DialFailure::Password,
            Self::Closed | Self::Io(_) => DialFailure::Closed,
            Self::Timeout
            | Self::Refused { .. }
            | Self::Database(_)
            | Self::Protocol(_)
            | Self::Silent
            | Self::Open
            | Self::Overloaded
            | Self::Overdue
            | Self::Withheld
            | Self::NoLease
            | Self::Replica => DialFailure::TimedOut,
        }
    }

    /// Why a connection ended, or a dial failed, as metrics have it.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Resolve(_) => "dns",
            Self::Connect(_) => "refused",
            Self::Timeout | Self::Silent | Self::Overdue => "timeout",
            Self::Closed => "eof",
            Self::Refused { step: "HELLO" | "AUTH", .. } if !self.is_for_now() && !self.is_of_lane() => "auth",
            Self::Protocol(_) => "protocol",
            Self::Io(_) => "reset",
            Self::Replica => "readonly",
            Self::Refused { .. }
            | Self::Database(_)
            | Self::Open
            | Self::Overloaded
            | Self::Withheld
            | Self::NoLease => "other",
        }
    }

    /// What the end of a connection counts against Redis as, as metrics have it.
    pub(crate) fn fault(&self) -> &'static str {
        if matches!(self, Self::Protocol(_)) { "protocol" } else { "disconnect" }
    }

    /// Why a request was not sent, for its client.
    pub(crate) fn why(&self) -> Why {
        match self {
            Self::Open => Why::Open,
            Self::Overloaded => Why::Overloaded,
            Self::Overdue => Why::Overdue,
            Self::NoLease => Why::NoLease,
            Self::Resolve(_)
            | Self::Connect(_)
            | Self::Timeout
            | Self::Closed
            | Self::Refused { .. }
            | Self::Database(_)
            | Self::Protocol(_)
            | Self::Io(_)
            | Self::Silent
            | Self::Withheld => Why::NoConnection,
            Self::Replica => Why::Replica,
        }
    }
}

/// Whether a request whose reply will not come can have run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its last byte was not handed to the kernel: it cannot have run.
    NotSent,
    /// The server refused it before it ran.
    NotRun,
    /// It was sent. Whether it ran is unknown; it will not run any more before a later request of its client.
    Unknown,
    /// It was sent, and nothing keeps the server from running it later.
    Pending,
}

/// Why a request is not answered by Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// There is no connection, and none to be had at once.
    NoConnection,
    /// The breaker is open.
    Open,
    /// See [`Error::Overloaded`].
    Overloaded,
    /// It waited for a connection until its deadline.
    Overdue,
    /// See [`Error::NoLease`].
    NoLease,
    /// No reply came before its deadline.
    Deadline,
    /// The connection it was sent on is gone.
    Lost,
    /// The server says that it cannot serve.
    NotReady,
    /// The server has become a replica.
    Replica,
}

/// Why a request fails, and whether it can have run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) outcome: Outcome,
    pub(crate) why: Why,
}

impl Failure {
    /// A request that was not sent.
    pub(crate) fn not_sent(why: Why) -> Self {
        Self { outcome: Outcome::NotSent, why }
    }

    /// True if nobody knows whether it ran.
    pub(crate) fn may_have_run(self) -> bool {
        matches!(self.outcome, Outcome::Unknown | Outcome::Pending)
    }

    /// The same for the count of a request whose client does not hear of it any more.
    pub(crate) fn for_metrics(self) -> cells::Outcome {
        self.given().outcome()
    }

    /// What a client is given that is told.
    pub(crate) fn given(self) -> Given {
        if self.may_have_run() { Given::Indeterminate } else { Given::Unavailable }
    }

    /// The error line for the client, without the `-`.
    pub(crate) fn text(self) -> String {
        let why = match self.why {
            Why::NoConnection => "no upstream connection",
            Why::Open => "circuit open",
            Why::Overloaded => "overloaded",
            Why::Overdue => "no upstream connection in time",
            Why::NoLease => "all connections for transactions and blocking commands are in use (--pool-size)",
            Why::Deadline => "no reply before the deadline",
            Why::Lost => "upstream link dropped before the reply",
            Why::NotReady => "upstream cannot serve now",
            Why::Replica => "upstream is a replica now",
        };
        match self.outcome {
            Outcome::NotSent => format!("UNAVAILABLE {why}, command not sent"),
            Outcome::NotRun => format!("UNAVAILABLE {why}, command not run"),
            Outcome::Unknown => format!("INDETERMINATE {why}, the command may have run"),
            Outcome::Pending => format!("INDETERMINATE {why}, the command may have run, or may still run"),
        }
    }
}

/// True if an error line, without its `-`, says that the server cannot serve: it refused the command before running it.
pub(crate) fn cannot_serve(line: &[u8]) -> bool {
    [b"LOADING ".as_slice(), b"MASTERDOWN ", b"CLUSTERDOWN ", b"BUSY ", b"ERR max number of clients"]
        .iter()
        .any(|code| line.starts_with(code))
}

/// True if an error line, without its `-`, says that the server is a replica and refused a write.
pub(crate) fn is_readonly(line: &[u8]) -> bool {
    line.starts_with(b"READONLY ")
}

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
            Self::Silent => f.write_str("the upstream was silent for too long"),
            Self::Open => f.write_str("the breaker is open"),
            Self::Overloaded => f.write_str("the upstream is too slow for what it is asked"),
            Self::Overdue => f.write_str("no upstream connection in time"),
            Self::NoLease => f.write_str("all connections for leases are in use"),
            Self::Withheld => f.write_str("the upstream was dialled often enough just now"),
            Self::Replica => f.write_str("the upstream is a replica now"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}
