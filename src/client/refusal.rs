//! The texts of what is refused here: commands that cannot share a connection, clients that may not give commands yet, and
//! what is wrong inside a transaction.
//!
//! What Redis refuses too is refused in its words: several client libraries read them.

use super::transaction::Need;
use crate::command::route::Cause;
use crate::resp::build;
use crate::resp::request::Args;
use crate::upstream::Identity;

/// Before a password was given.
pub(super) const NOAUTH: &str = "NOAUTH Authentication required.";

/// EXEC of a block in which a command was refused.
pub(super) const EXECABORT: &str = "EXECABORT Transaction discarded because of previous errors.";

/// MULTI inside a block, which goes on.
pub(super) const NESTED_MULTI: &str = "ERR MULTI calls can not be nested";

/// WATCH inside a block, which goes on.
pub(super) const WATCH_INSIDE: &str = "ERR WATCH inside MULTI is not allowed";

/// A block of more than is sent in one piece.
const TOO_LARGE: &str = "ERR a transaction of more than 1000 commands or 1 MiB needs an upstream connection of its own, which \
                         outrigger does not offer yet";

/// How much of an unknown command's arguments Redis quotes, in bytes.
const QUOTED: usize = 128;

/// Appends the error for a request that cannot share a connection.
pub(super) fn refuse(cause: Option<Cause>, args: &Args<'_>, identity: &Identity, out: &mut Vec<u8>) {
    let mut words = args.clone();
    let name = quoted(words.next().unwrap_or_default(), QUOTED);
    let second = quoted(words.next().unwrap_or_default(), QUOTED);
    let old = identity.is_before(7, 0);
    let error = match cause {
        Some(Cause::Unknown) => unknown_command(name, args, old),
        Some(Cause::UnknownSubcommand) => unknown_subcommand(name, second, old),
        Some(Cause::ClientState) if name.eq_ignore_ascii_case(b"client") => {
            needs_own_connection(&[b"CLIENT ", second.to_ascii_uppercase().as_slice()].concat())
        }
        Some(Cause::Blocking | Cause::ClientState) | None => needs_own_connection(&name.to_ascii_uppercase()),
    };
    build::error(error, out);
}

/// Appends the error for a request that cannot be part of a block on a shared connection.
pub(super) fn refuse_in_block(need: Need, args: &Args<'_>, identity: &Identity, out: &mut Vec<u8>) {
    let cause = match need {
        Need::Command => Cause::ClientState,
        Need::Unknown => Cause::Unknown,
        Need::UnknownSubcommand => Cause::UnknownSubcommand,
        Need::Size => return build::error(TOO_LARGE, out),
    };
    refuse(Some(cause), args, identity, out);
}

/// A request with too many arguments, or too few; the name is that of the table.
pub(super) fn wrong_arity(command: &str) -> Vec<u8> {
    format!("ERR wrong number of arguments for '{command}' command").into_bytes()
}

/// What Valkey says of a command that it does not take inside a block: since 9 it names it.
pub(super) fn not_allowed_inside(command: &str, version: (u32, u32)) -> Vec<u8> {
    let name = if version < (9, 0) { String::new() } else { format!(" '{command}'") };
    format!("ERR Command{name} not allowed inside a transaction").into_bytes()
}

/// An EXEC that is refused for this reason, which is an error line.
pub(super) fn aborted(reason: &[u8]) -> Vec<u8> {
    let reason = reason.strip_prefix(b"ERR ").unwrap_or(reason);
    [b"EXECABORT Transaction discarded because of: ", reason].concat()
}

/// The error for a command that would need an upstream connection of its own.
pub(super) fn needs_own_connection(command: &[u8]) -> Vec<u8> {
    [b"ERR '", command, b"' needs an upstream connection of its own, which outrigger does not offer yet"].concat()
}

/// The words changed with Redis 7. Arguments are quoted as they are, text or not.
fn unknown_command(name: &[u8], args: &Args<'_>, old: bool) -> Vec<u8> {
    let (quote, end) = if old { (b"`".as_slice(), b"`, ".as_slice()) } else { (b"'".as_slice(), b"' ".as_slice()) };
    let mut error = [b"ERR unknown command ".as_slice(), quote, name, quote, b", with args beginning with: "].concat();
    let mut room = QUOTED;
    for arg in args.clone().skip(1) {
        let arg = quoted(arg, room);
        error.extend_from_slice(&[quote, arg, end].concat());
        room = room.saturating_sub(quote.len() + arg.len() + end.len());
        if room == 0 {
            break;
        }
    }
    error
}

fn unknown_subcommand(container: &[u8], name: &[u8], old: bool) -> Vec<u8> {
    let container = container.to_ascii_uppercase();
    let what: &[u8] =
        if old { b"ERR Unknown subcommand or wrong number of arguments for '" } else { b"ERR unknown subcommand '" };
    [what, name, b"'. Try ", &container, b" HELP."].concat()
}

/// CLIENT SETINFO for something else than a library's name and version, which servers before 7.2 do not know at all.
pub(super) fn unknown_attribute(attribute: &[u8], identity: &Identity) -> Vec<u8> {
    if identity.is_before(7, 2) {
        return unknown_subcommand(b"CLIENT", b"SETINFO", identity.is_before(7, 0));
    }
    [b"ERR Unrecognized option '", quoted(attribute, QUOTED), b"'"].concat()
}

fn quoted(bytes: &[u8], limit: usize) -> &[u8] {
    bytes.get(..limit).unwrap_or(bytes)
}
