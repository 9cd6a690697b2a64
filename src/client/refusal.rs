//! The texts of what is refused here: commands that cannot share a connection, clients that may not give commands yet.
//!
//! A command that nobody knows is answered as Redis would answer it: several client libraries read these words.

use crate::command::route::Cause;
use crate::resp::build;
use crate::resp::request::Args;
use crate::upstream::Identity;

/// Before a password was given.
pub(super) const NOAUTH: &str = "NOAUTH Authentication required.";

/// How much of an unknown command's arguments Redis quotes, in bytes.
const QUOTED: usize = 128;

/// Appends the error for a request that cannot share a connection.
pub(super) fn refuse(cause: Cause, args: &Args<'_>, identity: &Identity, out: &mut Vec<u8>) {
    let mut words = args.clone();
    let name = text(words.next().unwrap_or_default(), QUOTED);
    let second = text(words.next().unwrap_or_default(), QUOTED);
    let old = identity.is_before(7, 0);
    let error = match cause {
        Cause::Unknown => unknown_command(&name, args, old),
        Cause::UnknownSubcommand => unknown_subcommand(&name, &second, old),
        Cause::ClientState if name.eq_ignore_ascii_case("client") => {
            needs_own_connection(&format!("CLIENT {}", second.to_uppercase()))
        }
        Cause::Blocking | Cause::ClientState | Cause::Subscription | Cause::Transaction => {
            needs_own_connection(&name.to_uppercase())
        }
    };
    build::error(&error, out);
}

/// The error for a command that would need an upstream connection of its own.
pub(super) fn needs_own_connection(command: &str) -> String {
    format!("ERR '{command}' needs an upstream connection of its own, which outrigger does not offer yet")
}

/// The words changed with Redis 7.
fn unknown_command(name: &str, args: &Args<'_>, old: bool) -> String {
    let (quote, end) = if old { ('`', ", ") } else { ('\'', " ") };
    let mut quoted = String::new();
    for arg in args.clone().skip(1) {
        if quoted.len() >= QUOTED {
            break;
        }
        let room = QUOTED - quoted.len();
        quoted.push_str(&format!("{quote}{}{quote}{end}", text(arg, room)));
    }
    format!("ERR unknown command {quote}{name}{quote}, with args beginning with: {quoted}")
}

fn unknown_subcommand(container: &str, name: &str, old: bool) -> String {
    let container = container.to_uppercase();
    if old {
        format!("ERR Unknown subcommand or wrong number of arguments for '{name}'. Try {container} HELP.")
    } else {
        format!("ERR unknown subcommand '{name}'. Try {container} HELP.")
    }
}

fn text(bytes: &[u8], limit: usize) -> String {
    String::from_utf8_lossy(bytes.get(..limit).unwrap_or(bytes)).into_owned()
}
