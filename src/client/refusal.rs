//! The texts of what is refused here: commands that cannot share a connection, clients that may not give commands yet.
//!
//! A command that nobody knows is answered as Redis would answer it: several client libraries read these words.

use crate::command::route::Cause;
use crate::resp::build;
use crate::resp::request::Args;

/// Before a password was given.
pub(super) const NOAUTH: &str = "NOAUTH Authentication required.";


/// How much of an unknown command's arguments Redis quotes, in bytes.
const QUOTED: usize = 128;

/// Appends the error for a request that cannot share a connection.
pub(super) fn refuse(cause: Cause, args: &Args<'_>, out: &mut Vec<u8>) {
    let mut words = args.clone();
    let name = text(words.next().unwrap_or_default(), QUOTED);
    let second = text(words.next().unwrap_or_default(), QUOTED);
    match cause {
        Cause::Unknown => build::error(&unknown_command(&name, args), out),
        Cause::UnknownSubcommand => {
            let container = name.to_uppercase();
            build::error(&format!("ERR unknown subcommand '{second}'. Try {container} HELP."), out);
        }
        Cause::ClientState if name.eq_ignore_ascii_case("client") => {
            build::error(&needs_own_connection(&format!("CLIENT {}", second.to_uppercase())), out);
        }
        Cause::Blocking | Cause::ClientState | Cause::Subscription | Cause::Transaction => {
            build::error(&needs_own_connection(&name.to_uppercase()), out);
        }
    }
}

/// The error for a command that would need an upstream connection of its own.
pub(super) fn needs_own_connection(command: &str) -> String {
    format!("ERR '{command}' needs an upstream connection of its own, which outrigger does not offer yet")
}

/// In the words of redis-server 7.0.
fn unknown_command(name: &str, args: &Args<'_>) -> String {
    let mut quoted = String::new();
    for arg in args.clone().skip(1) {
        if quoted.len() >= QUOTED {
            break;
        }
        let room = QUOTED - quoted.len();
        quoted.push_str(&format!("'{}' ", text(arg, room)));
    }
    format!("ERR unknown command '{name}', with args beginning with: {quoted}")
}

fn text(bytes: &[u8], limit: usize) -> String {
    String::from_utf8_lossy(bytes.get(..limit).unwrap_or(bytes)).into_owned()
}
