//! What clients are answered while Redis cannot be asked, as typed.
//!
//! Apart from the other settings because `explain` takes these too.

use clap::ValueEnum;

use crate::command::degrade::{Policy, Reads, Writes};

/// Settings as typed.
#[derive(Debug, clap::Args)]
pub struct Degrade {
    /// What reads are answered while Redis cannot be asked. "Nothing there" is a lie where Redis is not a cache: queues look
    /// empty, sessions look logged out, deny-lists let everybody in; use --strict-prefix for these, or `error`.
    #[arg(long, env = "OUTRIGGER_DEGRADE_READS", value_name = "ANSWER", default_value = "empty")]
    pub degrade_reads: DegradeReads,

    /// What writes are answered while Redis cannot be asked. `drop` keeps the old value in Redis: only for caches whose
    /// keys expire.
    #[arg(long, env = "OUTRIGGER_DEGRADE_WRITES", value_name = "ANSWER", default_value = "error")]
    pub degrade_writes: DegradeWrites,

    /// Requests for keys that begin with this always get the error while Redis cannot be asked: sessions, locks, deny-lists.
    /// May be given several times.
    #[arg(long, env = "OUTRIGGER_STRICT_PREFIX", value_name = "PREFIX", value_delimiter = ',')]
    pub strict_prefix: Vec<String>,
}

/// What reads are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DegradeReads {
    /// What an empty Redis would answer.
    Empty,
    /// The same, but only for GET, MGET, HGET and HMGET; other reads get the error.
    Values,
    /// The error.
    Error,
}

/// What writes are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DegradeWrites {
    /// The error.
    Error,
    /// OK, and nothing is written: SET without conditions, SETEX, PSETEX and MSET, if they were not sent yet; other writes
    /// get the error.
    Drop,
}

impl Degrade {
    /// The same in the words of the part that decides. An empty prefix is none: it comes from an empty variable.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let prefixes = self.strict_prefix.iter().filter(|prefix| !prefix.is_empty());
        Policy {
            reads: match self.degrade_reads {
                DegradeReads::Empty => Reads::Empty,
                DegradeReads::Values => Reads::Values,
                DegradeReads::Error => Reads::Error,
            },
            writes: match self.degrade_writes {
                DegradeWrites::Error => Writes::Error,
                DegradeWrites::Drop => Writes::Drop,
            },
            strict_prefixes: prefixes.map(|prefix| prefix.as_bytes().into()).collect(),
        }
    }
}
