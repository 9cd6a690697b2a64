//! The texts of what is refused here: commands that cannot share a connection, clients that may not give commands yet.
//!
//! A command that nobody knows is answered as Redis would answer it: several client libraries read these words.

use crate::command::route::{Cause, Route};
use crate::command::table;
use crate::resp::build;
use crate::resp::request::Args;
use crate::upstream::Identity;

/// Before a password was given.
pub(super) const NOAUTH: &str = "NOAUTH Authentication required.";

/// EXEC after a MULTI that was refused.
pub(super) const EXECABORT: &str = "EXECABORT Transaction discarded because of previous errors.";

/// A command after a MULTI that was refused.
pub(super) const AFTER_MULTI: &str = "ERR not run: it follows a MULTI, and outrigger does not offer transactions yet";

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

/// The error for a command that would need an upstream connection of its own.
pub(super) fn needs_own_connection(command: &[u8]) -> Vec<u8> {
    [b"ERR '", command, b"' needs an upstream connection of its own, which outrigger does not offer yet"].concat()
}

/// Appends the error for a request of a client in RESP2 that is subscribed to something. What is wrong with the request in
/// itself comes first.
pub(super) fn while_subscribed(route: Route, args: &Args<'_>, identity: &Identity, out: &mut Vec<u8>) {
    let old = identity.is_before(7, 0);
    let container = || args.clone().next().and_then(table::find);
    let command = match (route, old) {
        (Route::Leased(cause @ Cause::Unknown), _) | (Route::Leased(cause @ Cause::UnknownSubcommand), false) => {
            return refuse(Some(cause), args, identity, out);
        }
        // Before Redis 7 subcommands are arguments.
        (_, true) => container(),
        (_, false) => table::of_request(args.clone()).or_else(container),
    };
    let Some(command) = command else { return };
    let name = command.name;
    if !command.accepts(args.len()) || (command.is_container() && args.len() == 1 && name != "command") {
        return build::error(format!("ERR wrong number of arguments for '{name}' command"), out);
    }
    let code = if name == "exec" { "EXECABORT Transaction discarded because of:" } else { "ERR" };
    let kinds = if old { "(P)SUBSCRIBE / (P)UNSUBSCRIBE" } else { "(P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE" };
    let text = format!("{code} Can't execute '{name}': only {kinds} / PING / QUIT / RESET are allowed in this context");
    build::error(text, out);
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
