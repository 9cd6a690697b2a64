//! Where a request goes: answered here, over a shared connection, or over one of the client's own.
//!
//! Questions, in this order. Is it one of the commands that a proxy has to answer itself, because they are about the
//! client's own connection ([`Local`])? Is it known to keep no state on the connection, so that it may travel with other
//! clients' requests ([`Route::Shared`])? Is it part of a transaction, or of a subscription? Everything else needs an
//! upstream connection of its own, and a command that is not in the table is taken for the worst of these:
//! [`Route::Leased`], with the reason.

use std::sync::LazyLock;

use super::keys;
use super::table::{self, Blocks, Command, Kind};

/// Where one request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Answered by the proxy, unless its arguments are wrong: then it travels, so that the words are the server's.
    Local(Local),
    /// Over a connection that other clients use too.
    Shared(Manner),
    /// Part of a transaction.
    Transaction(Transaction),
    /// Subscribes, or undoes it.
    Subscription(Subscription),
    /// Over a connection that the client has for itself.
    Leased(Cause),
    /// Over a connection for this request alone, since the server may be answering nothing else.
    Control,
    /// Not at all: it is for replicas, or for no client of Redis.
    Refused,
}

/// What matters of a request on a shared connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Manner {
    /// It may honestly take long; it keeps apart from the others where it can.
    pub slow: bool,
    /// It only reads, so it may be asked again when it is not known whether it ran.
    pub repeatable: bool,
    /// It runs code of the user: an error in its reply may come from within, after other commands of it have run.
    pub script: bool,
    /// Its reply is remembered, for a time when Redis cannot be asked.
    pub remembered: bool,
    /// It publishes, or tells about subscribers: who asked to subscribe before it is to be among them.
    pub meets_subscribers: bool,
    /// It is `INFO`, to whose reply we may add a section.
    pub informs: bool,
}

/// The commands that are answered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the command of that name")]
pub enum Local {
    Auth,
    ClientGetName,
    ClientId,
    ClientInfo,
    ClientNoEvict,
    ClientNoTouch,
    ClientReply,
    ClientSetInfo,
    ClientSetName,
    Echo,
    Hello,
    Ping,
    Quit,
    Reset,
    Select,
}

/// The commands of transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the command of that name")]
pub enum Transaction {
    Discard,
    Exec,
    Multi,
    Unwatch,
    Watch,
}

/// The commands of subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the command of that name")]
pub enum Subscription {
    Psubscribe,
    Punsubscribe,
    Ssubscribe,
    Subscribe,
    Sunsubscribe,
    Unsubscribe,
}

/// Why a request cannot share a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It asks or commands something that has to do with connections, and leaves nothing behind on its own.
    Administration,
    /// It waits for what other clients do, and everybody behind it would wait too.
    Blocking,
    /// It sets something on the connection.
    ClientState,
    /// It turns the connection into a stream of everybody's commands.
    Monitor,
    /// It waits for replicas, or for the disk, to have what was written.
    Replication,
    /// The command is not in the table.
    Unknown,
    /// The subcommand is not in the table.
    UnknownSubcommand,
}

/// The commands whose name decides all.
const NAMED: &[(&str, Route)] = &[
    ("auth", Route::Local(Local::Auth)),
    ("client|getredir", Route::Leased(Cause::Administration)),
    ("client|getname", Route::Local(Local::ClientGetName)),
    ("client|id", Route::Local(Local::ClientId)),
    ("client|info", Route::Local(Local::ClientInfo)),
    ("client|kill", Route::Leased(Cause::Administration)),
    ("client|list", Route::Leased(Cause::Administration)),
    ("client|no-evict", Route::Local(Local::ClientNoEvict)),
    ("client|no-touch", Route::Local(Local::ClientNoTouch)),
    ("client|pause", Route::Leased(Cause::Administration)),
    ("client|reply", Route::Local(Local::ClientReply)),
    ("client|setinfo", Route::Local(Local::ClientSetInfo)),
    ("client|setname", Route::Local(Local::ClientSetName)),
    ("client|trackinginfo", Route::Leased(Cause::Administration)),
    ("client|unblock", Route::Leased(Cause::Administration)),
    ("client|unpause", Route::Leased(Cause::Administration)),
    ("discard", Route::Transaction(Transaction::Discard)),
    ("echo", Route::Local(Local::Echo)),
    ("exec", Route::Transaction(Transaction::Exec)),
    ("function|kill", Route::Control),
    ("hello", Route::Local(Local::Hello)),
    ("host:", Route::Refused),
    ("monitor", Route::Leased(Cause::Monitor)),
    ("multi", Route::Transaction(Transaction::Multi)),
    ("ping", Route::Local(Local::Ping)),
    ("post", Route::Refused),
    ("psubscribe", Route::Subscription(Subscription::Psubscribe)),
    ("psync", Route::Refused),
    ("punsubscribe", Route::Subscription(Subscription::Punsubscribe)),
    ("quit", Route::Local(Local::Quit)),
    ("replconf", Route::Refused),
    ("reset", Route::Local(Local::Reset)),
    ("script|kill", Route::Control),
    ("select", Route::Local(Local::Select)),
    ("shutdown", Route::Control),
    ("ssubscribe", Route::Subscription(Subscription::Ssubscribe)),
    ("subscribe", Route::Subscription(Subscription::Subscribe)),
    ("sunsubscribe", Route::Subscription(Subscription::Sunsubscribe)),
    ("sync", Route::Refused),
    ("unsubscribe", Route::Subscription(Subscription::Unsubscribe)),
    ("unwatch", Route::Transaction(Transaction::Unwatch)),
    ("wait", Route::Leased(Cause::Replication)),
    ("waitaof", Route::Leased(Cause::Replication)),
    ("watch", Route::Transaction(Transaction::Watch)),
];

/// What is decided about a command before its arguments are seen.
#[derive(Debug, Clone, Copy)]
enum Plan {
    Fixed(Route),
    /// It is a container: its subcommand decides.
    Subcommand,
    /// It is shared unless its arguments ask to block.
    UnlessBlocking,
}

/// One plan for each command of the table, so that a request costs one look-up.
static PLANS: LazyLock<Vec<Plan>> = LazyLock::new(|| table::all().iter().map(plan).collect());

/// Decides for a request by its command (as [`table::find`] has it); `args` gives the whole of it, the name first, and is
/// asked only where the name does not decide.
#[must_use]
pub fn route<'a, A: Iterator<Item = &'a [u8]>>(command: Option<&Command>, args: impl Fn() -> A) -> Route {
    let Some(command) = command else { return Route::Leased(Cause::Unknown) };
    match PLANS.get(command.index()).copied() {
        Some(Plan::Fixed(route)) => route,
        Some(Plan::UnlessBlocking) if keys::asks_to_block(command, args()) => Route::Leased(Cause::Blocking),
        Some(Plan::UnlessBlocking) => Route::Shared(manner(command)),
        Some(Plan::Subcommand) | None => subcommand(command, args()),
    }
}

/// A container alone, such as `CLIENT`, is wrong in any case and travels to hear so from the server.
fn subcommand<'a>(parent: &Command, mut args: impl Iterator<Item = &'a [u8]>) -> Route {
    let Some(name) = args.nth(1) else {
        // But COMMAND alone is right.
        let remembered = parent.name == "command";
        return Route::Shared(Manner { repeatable: remembered, remembered, ..Manner::default() });
    };
    match table::find_sub(parent, name).map(|found| PLANS.get(found.index())) {
        Some(Some(Plan::Fixed(route))) => *route,
        Some(Some(Plan::UnlessBlocking | Plan::Subcommand) | None) => Route::Leased(Cause::UnknownSubcommand),
        // Of these containers some subcommands belong to the connection, and so may those that we do not know.
        None if matches!(parent.kind, Kind::Connection | Kind::Script) => Route::Leased(Cause::UnknownSubcommand),
        None => Route::Shared(Manner::default()),
    }
}

fn manner(command: &Command) -> Manner {
    Manner {
        slow: command.slow,
        repeatable: command.repeatable,
        script: command.kind == Kind::Script,
        remembered: false,
        meets_subscribers: command.kind == Kind::PubSub,
        informs: command.name == "info",
    }
}

fn plan(command: &Command) -> Plan {
    if let Some((_, route)) = NAMED.iter().find(|(name, _)| *name == command.name) {
        return Plan::Fixed(*route);
    }
    if command.is_container() {
        return Plan::Subcommand;
    }
    if command.shared {
        return match command.blocks {
            Blocks::IfArgument => Plan::UnlessBlocking,
            Blocks::Always | Blocks::Never => Plan::Fixed(Route::Shared(manner(command))),
        };
    }
    Plan::Fixed(Route::Leased(match command.kind {
        Kind::Blocking => Cause::Blocking,
        Kind::Admin | Kind::Connection | Kind::PubSub | Kind::Read | Kind::Script | Kind::Transaction | Kind::Write => {
            Cause::ClientState
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &str) -> Route {
        let args: Vec<&[u8]> = words.split_ascii_whitespace().map(str::as_bytes).collect();
        route(table::find(args.first().copied().unwrap_or_default()), || args.iter().copied())
    }

    #[test]
    fn ordinary_commands_share_a_connection() {
        for words in ["GET k", "set k v", "Config Get x", "XREAD STREAMS s 0", "PUBLISH c m", "OBJECT ENCODING k"] {
            assert!(matches!(of(words), Route::Shared(Manner { slow: false, .. })), "{words}");
        }
        for words in ["EVAL x 0", "KEYS *", "FLUSHALL", "SORT k"] {
            assert!(matches!(of(words), Route::Shared(Manner { slow: true, .. })), "{words}");
        }
    }

    #[test]
    fn what_concerns_the_clients_own_connection_is_answered_here() {
        assert_eq!(of("PING"), Route::Local(Local::Ping));
        assert_eq!(of("client SETNAME x"), Route::Local(Local::ClientSetName));
        assert_eq!(of("select 3"), Route::Local(Local::Select));
    }

    #[test]
    fn what_would_disturb_others_has_a_connection_of_its_own() {
        assert_eq!(of("BLPOP k 0"), Route::Leased(Cause::Blocking));
        assert_eq!(of("XREAD BLOCK 0 STREAMS s $"), Route::Leased(Cause::Blocking));
        assert_eq!(of("SUBSCRIBE c"), Route::Subscription(Subscription::Subscribe));
        assert_eq!(of("WATCH k"), Route::Transaction(Transaction::Watch));
        assert_eq!(of("CLIENT TRACKING ON"), Route::Leased(Cause::ClientState));
        assert_eq!(of("MONITOR"), Route::Leased(Cause::Monitor));
        assert_eq!(of("WAIT 1 0"), Route::Leased(Cause::Replication));
        assert_eq!(of("CLIENT LIST"), Route::Leased(Cause::Administration));
        assert_eq!(of("SCRIPT KILL"), Route::Control);
        assert_eq!(of("SYNC"), Route::Refused);
        assert_eq!(of("NOSUCH x"), Route::Leased(Cause::Unknown));
        assert_eq!(of("CLIENT NOSUCH"), Route::Leased(Cause::UnknownSubcommand));
        assert_eq!(of("OBJECT NOSUCH"), Route::Shared(Manner::default()));
    }

    #[test]
    fn nothing_that_keeps_state_on_the_connection_is_shared() {
        for name in [
            "readonly",
            "readwrite",
            "asking",
            "multi",
            "exec",
            "monitor",
            "sync",
            "psync",
            "wait",
            "himport prepare a b",
        ] {
            assert!(!matches!(of(name), Route::Shared(_)), "{name}");
        }
    }
}
