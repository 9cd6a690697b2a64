//! The command table: what each command of Redis, Valkey and their well-known modules is.
//!
//! The first question asked of every request is answered here: a read or a write, may it share a connection, may it be
//! repeated, may it be slow, where are its keys, what would an empty server reply. The table only states facts about commands; what follows from them is
//! decided elsewhere.
//!
//! - `entry` is the vocabulary: what a line of the table can say; `empty` is that of its last column.
//! - `data`, `server` and `modules` are the lines. To add a command, add its line there, in alphabetical order, a
//!   subcommand right after its container; the tests hold the lines against the command lists of real servers.
//! - This file joins them and finds a command by name.
//!
//! Everything is built at compile time. A command that is not in the table is *unknown*: nothing can be said of it, so it
//! must be treated as the worst of all kinds.
//!
//! Facts are those that `COMMAND` of redis-server 6.2 and 7.0 and valkey-server 9.1 gives, and for what they do not have,
//! the command reference of Redis 8.10 and of the modules. What an unreleased version will bring, and the commands that only
//! Sentinel understands, are not in it.

mod data;
mod empty;
mod entry;
mod modules;
mod server;
#[cfg(test)]
mod tests;

pub use empty::{Empty, Item, Shape};
pub use entry::{Blocks, Command, Keys, Kind, Origin};

/// How many commands and subcommands there are.
pub const COUNT: usize = length(PARTS);

/// Every command, each container followed by its subcommands; the position of a command is its [`Command::index`].
#[must_use]
pub fn all() -> &'static [Command] {
    &TABLE
}

/// The command of that name, in any case of its ASCII letters. Subcommands are not found by their full name: on the wire
/// `client|setname` is no command.
#[must_use]
#[inline(always)] // Once for each request: a call costs as much as what it does.
pub fn find(name: &[u8]) -> Option<&'static Command> {
    let sought = Ends::of(name);
    let mut place = sought.place();
    loop {
        let slot = &SLOTS[place % SLOT_COUNT];
        if slot.ends == sought {
            let command = TABLE.get(usize::from(slot.index))?;
            // The ends are the whole of all but a few long names.
            if name.len() <= ENDS || command.name.as_bytes().eq_ignore_ascii_case(name) {
                return Some(command);
            }
        }
        if slot.index == EMPTY {
            return None;
        }
        place += 1;
    }
}

/// The subcommand of a container, in any case of its ASCII letters. None if there is no such subcommand, or if the command
/// is no container.
#[must_use]
pub fn find_sub(parent: &Command, subcommand: &[u8]) -> Option<&'static Command> {
    let first = parent.index() + 1;
    let prefix = parent.name.len() + 1;
    TABLE
        .get(first..first + usize::from(parent.subcommands))?
        .iter()
        .find(|command| command.name.as_bytes().get(prefix..).is_some_and(|name| name.eq_ignore_ascii_case(subcommand)))
}

/// The command of a whole request, the name first: of a container its subcommand, or itself if there is nothing more.
#[must_use]
pub fn of_request<'a>(mut args: impl Iterator<Item = &'a [u8]>) -> Option<&'static Command> {
    let command = find(args.next()?)?;
    match args.next() {
        // `COMMAND` is a container that means something alone.
        Some(subcommand) if command.is_container() => find_sub(command, subcommand),
        _ => Some(command),
    }
}

/// The lines, in the order of the table.
const PARTS: &[&[Command]] = &[
    data::COMMANDS,
    server::COMMANDS,
    modules::SEARCH,
    modules::JSON,
    modules::TIMESERIES,
    modules::BLOOM,
    modules::VECTORSET,
];

static TABLE: [Command; COUNT] = joined();

/// Four times as many slots as commands, so that a name, known or not, is mostly decided at the first look.
const SLOT_COUNT: usize = (COUNT * 4).next_power_of_two();

/// A hash table of the names: open addressing, a full slot sends on to the next. A slot says all that is needed to decide, so
/// that a lookup touches one line of it and then the command.
static SLOTS: [Slot; SLOT_COUNT] = slots(&TABLE);

/// A place in the hash table.
#[derive(Clone, Copy)]
struct Slot {
    ends: Ends,
    /// Where in the table the command is, or [`EMPTY`].
    index: u16,
}

/// The index of no command.
const EMPTY: u16 = u16::MAX;

/// How long a name may be for its ends to be the whole of it.
const ENDS: usize = 16;

/// The length of a name and its first and last eight bytes in lower case (they overlap in short names).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ends {
    head: u64,
    tail: u64,
    length: usize,
}

impl Ends {
    #[inline]
    const fn of(name: &[u8]) -> Self {
        let (head, tail) = if let (Some(head), Some(tail)) = (name.first_chunk::<8>(), name.last_chunk::<8>()) {
            (u64::from_le_bytes(*head), u64::from_le_bytes(*tail))
        } else if let (Some(head), Some(tail)) = (name.first_chunk::<4>(), name.last_chunk::<4>()) {
            (u32::from_le_bytes(*head) as u64, u32::from_le_bytes(*tail) as u64)
        } else {
            match *name {
                [a, b, c] => (u32::from_le_bytes([a, b, c, 0]) as u64, 0),
                [a, b] => (u16::from_le_bytes([a, b]) as u64, 0),
                [a] => (a as u64, 0),
                _ => (0, 0),
            }
        };
        Self { head: lower(head), tail: lower(tail), length: name.len() }
    }

    /// Where to look first.
    #[inline]
    const fn place(self) -> usize {
        /// An odd number of no pattern (2^64 divided by the golden ratio): multiplying spreads the bits over the upper ones.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let mixed = (self.head ^ self.tail.rotate_left(29)).wrapping_mul(SPREAD);
        let [low, high, ..] = (mixed >> (u64::BITS - SLOT_COUNT.trailing_zeros())).to_le_bytes();
        u16::from_le_bytes([low, high]) as usize
    }
}

/// Eight bytes at once in lower case, as `to_ascii_lowercase` would have each: only `A` to `Z` change.
#[inline]
const fn lower(bytes: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // Seven bits of each byte, so that no sum reaches into the next; the top bit of a sum says "at least" or "beyond".
    let low = bytes & (0x7f * EACH);
    let at_least_a = low + (0x80 - b'A' as u64) * EACH;
    let beyond_z = low + (0x7f - b'Z' as u64) * EACH;
    let upper = (at_least_a ^ beyond_z) & !bytes & (0x80 * EACH);
    bytes | (upper >> 2)
}

const fn length(parts: &[&[Command]]) -> usize {
    let mut length = 0;
    let mut part = 0;
    while part < parts.len() {
        length += parts[part].len();
        part += 1;
    }
    length
}

/// All parts in one array, each command knowing its place and its subcommands.
const fn joined() -> [Command; COUNT] {
    let mut table = [PARTS[0][0]; COUNT];
    let mut container = 0;
    let mut index = 0;
    let mut part = 0;
    while part < PARTS.len() {
        let mut line = 0;
        while line < PARTS[part].len() {
            let at = index as usize;
            table[at] = PARTS[part][line];
            table[at].index = index;
            if is_subcommand(table[at].name) {
                table[container].subcommands += 1;
            } else {
                container = at;
            }
            index += 1;
            line += 1;
        }
        part += 1;
    }
    table
}

const fn slots(table: &[Command; COUNT]) -> [Slot; SLOT_COUNT] {
    // A name of no length has these ends too; that slot leads past the end of the table, to none.
    let mut slots = [Slot { ends: Ends::of(b""), index: EMPTY }; SLOT_COUNT];
    let mut at = 0;
    while at < COUNT {
        if !is_subcommand(table[at].name) {
            let ends = Ends::of(table[at].name.as_bytes());
            let mut place = ends.place();
            while slots[place % SLOT_COUNT].index != EMPTY {
                place += 1;
            }
            slots[place % SLOT_COUNT] = Slot { ends, index: table[at].index };
        }
        at += 1;
    }
    slots
}

const fn is_subcommand(name: &str) -> bool {
    let name = name.as_bytes();
    let mut at = 0;
    while at < name.len() {
        if name[at] == b'|' {
            return true;
        }
        at += 1;
    }
    false
}
