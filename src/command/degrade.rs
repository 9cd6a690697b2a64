//! What a client is answered while no server can be asked.
//!
//! One sentence is the rule: a read is answered as an empty server would answer it; what would change data, wait, or depend
//! on the state of a connection gets an error. What the empty server would say is a fact about each command and stands in
//! the [table]; here the request's arguments are applied to it, and then what the operator wants ([`Policy`]).
//!
//! Arguments are judged only as far as the reply depends on them: to a request that the server would refuse, an empty
//! answer is as wrong as any other, unless it is seen at no cost that there is none.

mod shape;
#[cfg(test)]
mod tests;

use super::keys::{asks_to_block, is, keys, number};
use super::table::{self, Command, Keys, Kind};

pub use super::table::Empty;

/// Which reads are answered as an empty server would.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// All that can be.
    #[default]
    Empty,
    /// Only `GET`, `MGET`, `HGET` and `HMGET`, whose callers expect a miss.
    Values,
    /// None: all get the error.
    Error,
}

/// What becomes of writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writes {
    /// They get the error.
    #[default]
    Error,
    /// `SET` without conditions, `SETEX`, `PSETEX` and `MSET` are dropped and get `+OK`, if nothing of them was sent.
    Drop,
}

/// What the operator wants.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Which reads are answered.
    pub reads: Reads,
    /// What becomes of writes.
    pub writes: Writes,
    /// A request for a key that begins with one of these gets the error, and so does one for the keyspace as a whole
    /// (`KEYS`, `SCAN`, `DBSIZE`, `RANDOMKEY`) if there is any.
    pub strict_prefixes: Vec<Box<[u8]>>,
}

/// What a client is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Degraded {
    /// What an empty server would say.
    Empty(Empty),
    /// `+OK`, for a plain write that is dropped.
    Dropped,
    /// A minimal `INFO`, which some clients need before they give any other command.
    Info,
    /// The reply that the server last gave to `COMMAND`.
    CommandList,
    /// The error.
    Refused,
}

/// The commands of [`Reads::Values`].
const VALUES: &[&str] = &["get", "hget", "hmget", "mget"];

/// Decides for a request; `args` is the whole of it, the name first. `sent` says that bytes of it may have reached a server:
/// then a write is never dropped. `strict` says that its client must always get the error; but `INFO` and `COMMAND` are
/// answered all the same, since without them it would not get to its first command.
pub fn degrade<'a>(
    args: impl Iterator<Item = &'a [u8]> + Clone,
    sent: bool,
    strict: bool,
    policy: &Policy,
) -> Degraded {
    let Some(command) = table::of_request(args.clone()) else { return Degraded::Refused };
    let count = args.clone().count();
    match command.name {
        "info" => return Degraded::Info,
        "command" if count == 1 => return Degraded::CommandList,
        _ => {}
    }
    if strict || !command.accepts(count) || !has_ordinary_keys(command, args.clone(), policy) {
        return Degraded::Refused;
    }
    let answered = match policy.reads {
        Reads::Empty => !asks_to_block(command, args.clone()),
        Reads::Values => VALUES.contains(&command.name),
        Reads::Error => false,
    };
    if answered && let Some(empty) = shape::reply(command, args.clone()) {
        return Degraded::Empty(empty);
    }
    if policy.writes == Writes::Drop && !sent && is_plain_write(command, args, count) {
        return Degraded::Dropped;
    }
    Degraded::Refused
}

/// Whether the request names keys if its command takes any, and none of them is strict.
fn has_ordinary_keys<'a>(command: &Command, args: impl Iterator<Item = &'a [u8]> + Clone, policy: &Policy) -> bool {
    if command.keys == Keys::None {
        // A read without keys is about all of them.
        return command.kind != Kind::Read || policy.strict_prefixes.is_empty();
    }
    let (mut any, mut strict) = (false, false);
    keys(command, args, |key| {
        any = true;
        strict |= policy.strict_prefixes.iter().any(|prefix| key.starts_with(prefix));
    });
    any && !strict
}

/// Whether a request stores a value and asks nothing about the one before: its reply can only be `+OK`.
fn is_plain_write<'a>(command: &Command, mut args: impl Iterator<Item = &'a [u8]>, count: usize) -> bool {
    match command.name {
        "mset" => count % 2 == 1,
        "psetex" | "setex" => args.nth(2).is_some_and(is_time),
        "set" => match (args.nth(3), args.next(), args.next()) {
            (None, ..) => true,
            (Some(option), None, _) => is(option, b"keepttl"),
            (Some(option), Some(time), None) => {
                let names: [&[u8]; 4] = [b"ex", b"px", b"exat", b"pxat"];
                names.iter().any(|name| is(option, name)) && is_time(time)
            }
            _ => false,
        },
        _ => false,
    }
}

fn is_time(text: &[u8]) -> bool {
    number(text).is_some_and(|time| time > 0)
}
