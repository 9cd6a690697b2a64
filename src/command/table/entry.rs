//! What the command table says of one command, and the words it is said in.
//!
//! An entry is one line of data: a constructor that names the [`Kind`] and sets what is usual for it, the name, the arity,
//! where the keys are, the version that brought it, for a read what an empty server replies, and then only what differs
//! from the usual.
//!
//! | constructor | repeatable | shared | for |
//! |---|---|---|---|
//! | [`read`] | yes | yes | reads data |
//! | [`write()`] | | yes | changes data |
//! | [`report`] | yes | yes | tells about the server |
//! | [`admin`] | | yes | changes the server |
//! | [`script`] | | yes | runs or keeps code of the user |
//! | [`blocking`] | | | waits for others, always |
//! | [`connection`] | | | reads or sets what belongs to the connection |
//! | [`pubsub`] | | | subscriptions; those that only publish or count say `.shared()` |
//! | [`transaction`] | | | WATCH, MULTI, EXEC |

use super::empty::Shape;

/// One command, or one subcommand of a container such as `CLIENT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// The name in lower case; a subcommand is written after its container and a bar, as in `client|setname`.
    pub name: &'static str,
    /// How many arguments a request has, the name (and the subcommand) counted: exactly that many, or when negative at least
    /// so many. Where servers differ this is the most permissive of them. For commands of modules it is always a minimum:
    /// modules register their commands with −1 and count for themselves.
    pub arity: i8,
    /// What it does, in one word.
    pub kind: Kind,
    /// Which of its arguments are keys.
    pub keys: Keys,
    /// Whether it may wait for something other clients do.
    pub blocks: Blocks,
    /// It may be run again when it is not known whether it ran: it only reads, and leaves nothing behind. The answer of the
    /// second run need not be that of the first (`RANDOMKEY`, `SCAN`, `TIME`).
    pub repeatable: bool,
    /// It may honestly take longer than an ordinary request: it runs code of the user, walks the keyspace, combines whole
    /// collections of several keys, searches an index, or waits for a disk or another server. Walking one whole collection
    /// (`SMEMBERS`, `LRANGE`) does not count: those are what Redis is used for.
    pub slow: bool,
    /// It may travel on a connection that other clients use too: it neither reads nor leaves state on the connection.
    /// For a command with [`Blocks::IfArgument`] this holds while the argument is absent.
    pub shared: bool,
    /// What a server without data replies to it, which is what a client gets while no server can be asked. Has to be said for
    /// every read. A command of another kind has a shape if some arguments make it only read (`SORT` without `STORE`); with
    /// others that shape yields nothing.
    pub empty: Shape,
    /// Who brought it, and when.
    pub origin: Origin,
    /// Its place in the table.
    pub(super) index: u16,
    /// How many of the entries after it are its subcommands.
    pub(super) subcommands: u8,
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Tells about the server or changes it, rather than its data.
    Admin,
    /// Waits for what other clients do, and then mostly changes data.
    Blocking,
    /// Reads or sets what belongs to the connection: identity, name, database, tracking.
    Connection,
    /// Publishes, subscribes, or counts subscribers.
    PubSub,
    /// Reads data and changes none.
    Read,
    /// Runs, keeps or lists code of the user.
    Script,
    /// One of `WATCH`, `UNWATCH`, `MULTI`, `EXEC`, `DISCARD`.
    Transaction,
    /// Changes data, or may change it depending on its arguments (`SORT`, `GETEX`).
    Write,
}

/// Where the keys are among the arguments; the name is argument 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Key 1, and the one after `STORE` or `STOREDIST`: `GEORADIUS`, `GEORADIUSBYMEMBER`.
    GeoRadius,
    /// No keys, though servers announce arguments 1 to `last` as if they were: they choose a cluster slot as keys do
    /// (sharded channels, the cursor of `CLUSTERSCAN`).
    Hashed {
        /// The last such argument; −1 is the last of the request.
        last: i8,
    },
    /// Argument 3, or when that is empty all that follow `KEYS`: `MIGRATE`.
    Migrate,
    /// There are none, or the arguments do not say which.
    None,
    /// As many as argument `at` says, from the one after it, each `step` arguments after the one before.
    Numkeys {
        /// Where the number is.
        at: u8,
        /// The distance from a key to the next.
        step: u8,
    },
    /// Every `step`th argument from `first` to `last`.
    Range {
        /// The first key.
        first: u8,
        /// The last argument that may be a key; −1 is the last of the request, −2 the one before it.
        last: i8,
        /// The distance from a key to the next.
        step: u8,
    },
    /// Key 1, and the one after the last `STORE`: `SORT`. What `BY` and `GET` name are patterns, not keys.
    Sort,
    /// Those named after `STRALGO LCS … KEYS`.
    Stralgo,
    /// The destination in argument 1, and as many sources as argument 2 says: `ZUNIONSTORE`.
    StoreNumkeys,
    /// The first half of what follows `STREAMS`: `XREAD`, `XREADGROUP`.
    Streams,
}

/// Whether a command waits for what other clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// It may wait whatever its arguments.
    Always,
    /// It waits if `BLOCK` is among its options; `keys::asks_to_block` looks.
    IfArgument,
    /// It never waits.
    Never,
}

/// Who brought a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Redis, of that version (Valkey may have got it in another).
    Core {
        /// The first version of Redis that has it.
        since: &'static str,
    },
    /// A module, loaded or built in.
    Module {
        /// The module's name.
        module: &'static str,
        /// The first version of the module, or of Redis, that has it.
        since: &'static str,
    },
    /// Valkey alone.
    Valkey {
        /// The first version of Valkey that has it.
        since: &'static str,
    },
}

impl Origin {
    /// Whether a server of this major and minor version may be without it: it is newer, or of the other family (Valkey
    /// parted from Redis at 7.2). Nothing is known of a server's modules, so theirs count as there.
    #[must_use]
    pub fn may_be_missing(self, is_valkey: bool, version: (u32, u32)) -> bool {
        match self {
            Self::Core { since } => release(since) > if is_valkey { version.min((7, 2)) } else { version },
            Self::Valkey { since } => !is_valkey || release(since) > version,
            Self::Module { .. } => false,
        }
    }
}

/// Major and minor number of a version.
fn release(text: &str) -> (u32, u32) {
    let mut numbers = text.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// No keys.
pub(super) const NONE: Keys = Keys::None;
/// One key, the first argument.
pub(super) const KEY: Keys = range(1, 1, 1);
/// One key, the second argument: after a subcommand.
pub(super) const SECOND: Keys = range(2, 2, 1);
/// Two keys, the first arguments.
pub(super) const TWO_KEYS: Keys = range(1, 2, 1);
/// Nothing but keys.
pub(super) const KEYS: Keys = range(1, -1, 1);
/// A key and its value, over and over.
pub(super) const PAIRS: Keys = range(1, -1, 2);

/// See [`Keys::Range`].
pub(super) const fn range(first: u8, last: i8, step: u8) -> Keys {
    Keys::Range { first, last, step }
}

/// As many keys as argument `at` says, right after it.
pub(super) const fn numkeys(at: u8) -> Keys {
    Keys::Numkeys { at, step: 1 }
}

impl Command {
    /// Its place in the table: dense, from 0 to one less than [`COUNT`](super::COUNT), the same for the life of the process
    /// but not across versions.
    #[must_use]
    pub fn index(&self) -> usize {
        usize::from(self.index)
    }

    /// Whether it is a container, whose second argument names a subcommand.
    #[must_use]
    pub fn is_container(&self) -> bool {
        self.subcommands > 0
    }

    /// The name of a subcommand without that of its container, or none.
    #[must_use]
    pub fn subcommand(&self) -> Option<&'static str> {
        self.name.split_once('|').map(|(_, subcommand)| subcommand)
    }

    /// Whether a request of so many arguments, the name counted, has as many as the command wants.
    #[must_use]
    pub fn accepts(&self, arguments: usize) -> bool {
        let wanted = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { arguments >= wanted } else { arguments == wanted }
    }

    pub(super) const fn slow(mut self) -> Self {
        self.slow = true;
        self
    }

    pub(super) const fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// Not on a connection that others use.
    pub(super) const fn alone(mut self) -> Self {
        self.shared = false;
        self
    }

    pub(super) const fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// Not to be run a second time, though it reads.
    pub(super) const fn once(mut self) -> Self {
        self.repeatable = false;
        self
    }

    pub(super) const fn may_block(mut self) -> Self {
        self.blocks = Blocks::IfArgument;
        self
    }

    /// What an empty server replies where the arguments ask for no change.
    pub(super) const fn unless_it_writes(mut self, empty: Shape) -> Self {
        self.empty = empty;
        self
    }

    pub(super) const fn valkey(mut self) -> Self {
        if let Origin::Core { since } = self.origin {
            self.origin = Origin::Valkey { since };
        }
        self
    }
}

pub(super) const fn read(name: &'static str, arity: i8, keys: Keys, since: &'static str, empty: Shape) -> Command {
    let mut command = command(Kind::Read, name, arity, keys, since).repeatable().shared();
    command.empty = empty;
    command
}

pub(super) const fn write(name: &'static str, arity: i8, keys: Keys, since: &'static str) -> Command {
    command(Kind::Write, name, arity, keys, since).shared()
}

pub(super) const fn report(name: &'static str, arity: i8, keys: Keys, since: &'static str) -> Command {
    command(Kind::Admin, name, arity, keys, since).repeatable().shared()
}

pub(super) const fn admin(name: &'static str, arity: i8, keys: Keys, since: &'static str) -> Command {
    command(Kind::Admin, name, arity, keys, since).shared()
}

pub(super) const fn script(name: &'static str, arity: i8, keys: Keys, since: &'static str) -> Command {
    command(Kind::Script, name, arity, keys, since).shared()
}

pub(super) const fn blocking(name: &'static str, arity: i8, keys: Keys, since: &'static str) -> Command {
    let mut command = command(Kind::Blocking, name, arity, keys, since);
    command.blocks = Blocks::Always;
    command
}

pub(super) const fn connection(name: &'static str, arity: i8, keys: Keys, since: &'static str) -> Command {
    command(Kind::Connection, name, arity, keys, since)
}

pub(super) const fn pubsub(name: &'static str, arity: i8, keys: Keys, since: &'static str) -> Command {
    command(Kind::PubSub, name, arity, keys, since)
}

pub(super) const fn transaction(name: &'static str, arity: i8, keys: Keys, since: &'static str) -> Command {
    command(Kind::Transaction, name, arity, keys, since)
}

/// The same commands as those of a module.
pub(super) const fn of_module<const N: usize>(module: &'static str, mut commands: [Command; N]) -> [Command; N] {
    let mut at = 0;
    while at < N {
        if let Origin::Core { since } = commands[at].origin {
            commands[at].origin = Origin::Module { module, since };
        }
        at += 1;
    }
    commands
}

const fn command(kind: Kind, name: &'static str, arity: i8, keys: Keys, since: &'static str) -> Command {
    Command {
        name,
        arity,
        kind,
        keys,
        blocks: Blocks::Never,
        repeatable: false,
        slow: false,
        shared: false,
        empty: Shape::Error,
        origin: Origin::Core { since },
        index: 0,
        subcommands: 0,
    }
}
