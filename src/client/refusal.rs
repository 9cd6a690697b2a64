//! The texts of what is refused here: clients that may not give commands yet, what is for replicas, and what is wrong inside
//! a transaction.
//!
//! What Redis refuses too is refused in its words: several client libraries read them.

use crate::command::table;
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

/// What cannot be done on behalf of a client while its MULTI is open at the server.
pub(super) const NOT_IN_MULTI: &str = "ERR CLIENT REPLY, and subscriptions in RESP3, cannot stand in a transaction; the \
                                       transaction is discarded";

/// What CLIENT UNBLOCK … ERROR says to the client that waits.
pub(super) const UNBLOCKED: &str = "UNBLOCKED client unblocked via CLIENT UNBLOCK";

/// How much of a client's words Redis quotes, in bytes.
const QUOTED: usize = 128;

/// Appends the error for what no client is offered.
pub(super) fn refuse(name: &[u8], out: &mut Vec<u8>) {
    let name = quoted(name, QUOTED).to_ascii_uppercase();
    build::error(
        [b"ERR '", name.as_slice(), b"' is not for clients of outrigger: replicas connect to Redis itself"].concat(),
        out,
    );
}

/// Appends the error for what the operator denies. Redis' code for what an ACL denies: libraries know it.
pub(super) fn deny(args: &Args<'_>, out: &mut Vec<u8>) {
    let mut words = args.clone();
    let name = words.next().unwrap_or_default();
    let subcommand = words.next().filter(|_| table::find(name).is_some_and(table::Command::is_container));
    let name = [Some(name), subcommand].into_iter().flatten().map(|word| quoted(word, QUOTED).to_ascii_lowercase());
    let name = name.collect::<Vec<_>>().join(b"|".as_slice());
    build::error(
        [b"NOPERM the '", name.as_slice(), b"' command is denied by outrigger (--deny-commands)"].concat(),
        out,
    );
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

/// Appends the error for a request of a client in RESP2 that is subscribed to something. What is wrong with the request in
/// itself comes first.
pub(super) fn while_subscribed(args: &Args<'_>, identity: &Identity, out: &mut Vec<u8>) {
    let old = identity.is_before(7, 0);
    let mut words = args.clone();
    let name = words.next().unwrap_or_default();
    let Some(container) = table::find(name) else { return unknown(args, identity, out) };
    // Before Redis 7 subcommands are arguments.
    let found = if old { Some(container) } else { table::of_request(args.clone()) };
    let Some(command) = found else {
        return build::error(unknown_subcommand(name, words.next().unwrap_or_default(), old), out);
    };
    let name = command.name;
    if name == "exec" && !command.accepts(args.len()) {
        return build::error(aborted(&wrong_arity(name)), out);
    }
    if !command.accepts(args.len()) || (command.is_container() && args.len() == 1 && name != "command") {
        return build::error(format!("ERR wrong number of arguments for '{name}' command"), out);
    }
    let code = if name == "exec" { "EXECABORT Transaction discarded because of:" } else { "ERR" };
    let kinds = if old { "(P)SUBSCRIBE / (P)UNSUBSCRIBE" } else { "(P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE" };
    let text = format!("{code} Can't execute '{name}': only {kinds} / PING / QUIT / RESET are allowed in this context");
    build::error(text, out);
}

/// Appends the error for a command that the server does not know.
pub(super) fn unknown(args: &Args<'_>, identity: &Identity, out: &mut Vec<u8>) {
    let name = args.clone().next().unwrap_or_default();
    build::error(unknown_command(quoted(name, QUOTED), args, identity.is_before(7, 0)), out);
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
