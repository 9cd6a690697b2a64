//! The texts of what is refused here.

use crate::resp::build;
use crate::upstream::Identity;

/// Before a password was given.
pub(super) const NOAUTH: &str = "NOAUTH Authentication required.";

/// EXEC after a MULTI that is lost.
pub(super) const EXECABORT: &str = "EXECABORT Transaction discarded because of previous errors.";

/// A command after a MULTI that is lost.
pub(super) const AFTER_MULTI: &str = "ERR not run: its transaction is discarded";

/// What cannot be done on behalf of a client while its MULTI is open at the server.
pub(super) const NOT_IN_MULTI: &str = "ERR AUTH and CLIENT REPLY cannot stand in a transaction that uses a connection of \
                                       its own; the transaction is discarded";

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

/// The error for a command that would need an upstream connection of its own.
pub(super) fn needs_own_connection(command: &[u8]) -> Vec<u8> {
    let command = command.to_ascii_uppercase();
    [b"ERR '", command.as_slice(), b"' needs an upstream connection of its own, which outrigger does not offer yet"]
        .concat()
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
