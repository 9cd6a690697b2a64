//! Where a request's keys are, and whether it asks to block: what the arguments add to the command table.
//!
//! The rules are the server's (what `COMMAND GETKEYS` answers to the same, correct request). A request that is wrong yields
//! the keys that are there, or none; which of the two is not promised, since the server refuses it anyway. Nothing here
//! allocates, and nothing panics, whatever the arguments.

#[cfg(test)]
mod tests;

use super::table::{Blocks, Command, Keys};

/// Calls `found` with each key of a request, in the order of the arguments. `args` is the whole request: its first item is
/// the name of the command, and for a subcommand the second is that of the subcommand. For a container itself there are
/// none: find the subcommand first.
pub fn keys<'a>(command: &Command, args: impl Iterator<Item = &'a [u8]> + Clone, mut found: impl FnMut(&'a [u8])) {
    match command.keys {
        Keys::None | Keys::Hashed { .. } => {}
        Keys::Range { first, last, step } => range(args, first, last, step, &mut found),
        Keys::Numkeys { at, step } => counted(args, at, step, &mut found),
        Keys::StoreNumkeys => {
            args.clone().nth(1).into_iter().for_each(&mut found);
            counted(args, 2, 1, &mut found);
        }
        Keys::GeoRadius => {
            args.clone().nth(1).into_iter().for_each(&mut found);
            stored(args.skip(5), &[b"store", b"storedist"], &[]).into_iter().for_each(found);
        }
        Keys::Sort => {
            args.clone().nth(1).into_iter().for_each(&mut found);
            stored(args.skip(2), &[b"store"], SORT_OPTIONS).into_iter().for_each(found);
        }
        Keys::Migrate => migrate(args, found),
        Keys::Streams => streams(args, found),
        Keys::Stralgo => {
            let mut args = args.skip(1);
            if args.any(|arg| is(arg, b"keys")) {
                args.take(2).for_each(found);
            }
        }
    }
}

/// Whether a request may wait for other clients: always, or because `BLOCK` is among its options. A key, group or consumer
/// of that name is not taken for the option.
#[must_use]
pub fn asks_to_block<'a>(command: &Command, args: impl Iterator<Item = &'a [u8]>) -> bool {
    match command.blocks {
        Blocks::Always => true,
        Blocks::Never => false,
        Blocks::IfArgument => {
            let own_key = usize::from(command.keys != Keys::Streams);
            Options { args: args.skip(1 + own_key), known: STREAM_OPTIONS }
                .take_while(|option| !is(option, b"streams"))
                .any(|option| is(option, b"block"))
        }
    }
}

/// Where the argument of the option `BLOCK` stands; the name is argument 0.
pub(super) fn place_of_block<'a>(command: &Command, args: impl Iterator<Item = &'a [u8]> + Clone) -> Option<usize> {
    let own_key = usize::from(command.keys != Keys::Streams);
    let count = args.clone().count();
    let mut options = Options { args: args.skip(1 + own_key), known: STREAM_OPTIONS };
    options.by_ref().take_while(|option| !is(option, b"streams")).find(|option| is(option, b"block"))?;
    // What was asked for last, and its argument, are behind us.
    count.checked_sub(options.args.count() + 1)
}

/// An option and how many arguments of its own it takes.
type Known = (&'static [u8], usize);

const SORT_OPTIONS: &[Known] = &[(b"limit", 2), (b"get", 1), (b"by", 1)];
const MIGRATE_OPTIONS: &[Known] = &[(b"auth", 1), (b"auth2", 2)];
/// Of `XREAD`, `XREADGROUP` and `TS.READ`; `BLOCK` is what is looked for.
const STREAM_OPTIONS: &[Known] =
    &[(b"block", 1), (b"claim", 1), (b"count", 1), (b"group", 2), (b"maxcount", 1), (b"maxsize", 1)];

/// The options of a request: its arguments without those that belong to an option of the `known` ones. Those of others are
/// taken for options themselves, which makes a new server's option no worse than an unknown word.
struct Options<I> {
    args: I,
    known: &'static [Known],
}

impl<'a, I: Iterator<Item = &'a [u8]>> Iterator for Options<I> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let option = self.args.next()?;
        let own = self.known.iter().find(|(name, _)| is(option, name)).map_or(0, |(_, own)| *own);
        if let Some(last) = own.checked_sub(1) {
            self.args.nth(last);
        }
        Some(option)
    }
}

/// Every `step`th argument from `first` to `last`, which counts from the end when negative.
fn range<'a>(
    args: impl Iterator<Item = &'a [u8]> + Clone,
    first: u8,
    last: i8,
    step: u8,
    found: &mut impl FnMut(&'a [u8]),
) {
    let first = usize::from(first);
    let behind = match usize::try_from(last) {
        Ok(last) => last + 1,
        // Known only by going through them all; most commands are spared that.
        Err(_) => (args.clone().count() + 1).saturating_sub(usize::from(last.unsigned_abs())),
    };
    args.take(behind).skip(first).step_by(usize::from(step.max(1))).for_each(found);
}

/// As many keys as argument `at` says, right after it; none if it says more than there are, or no number.
fn counted<'a>(args: impl Iterator<Item = &'a [u8]> + Clone, at: u8, step: u8, found: &mut impl FnMut(&'a [u8])) {
    let mut rest = args.skip(usize::from(at));
    let Some(count) = rest.next().and_then(number) else { return };
    let keys = rest.step_by(usize::from(step.max(1))).take(count);
    // So counted that an absurd number costs no more than the arguments that are there.
    if keys.clone().count() == count {
        keys.for_each(found);
    }
}

/// What follows the last of some `words` among the options.
fn stored<'a>(args: impl Iterator<Item = &'a [u8]>, words: &[&[u8]], known: &'static [Known]) -> Option<&'a [u8]> {
    let mut options = Options { args, known };
    let mut stored = None;
    while let Some(option) = options.next() {
        if is_any(option, words) {
            stored = options.args.next().or(stored);
        }
    }
    stored
}

/// `MIGRATE host port key db timeout [option …] [KEYS key …]`: with `KEYS`, the one in its usual place has to be empty.
fn migrate<'a>(args: impl Iterator<Item = &'a [u8]> + Clone, mut found: impl FnMut(&'a [u8])) {
    let key = args.clone().nth(3);
    let mut options = Options { args: args.skip(6), known: MIGRATE_OPTIONS };
    let listed = options.any(|option| is(option, b"keys"));
    match key {
        Some(key) if !listed => found(key),
        Some([]) => options.args.for_each(found),
        _ => {}
    }
}

/// `[option …] STREAMS key … id …`: as many identifiers as keys.
fn streams<'a>(args: impl Iterator<Item = &'a [u8]> + Clone, found: impl FnMut(&'a [u8])) {
    let mut options = Options { args: args.skip(1), known: STREAM_OPTIONS };
    if options.any(|option| is(option, b"streams")) {
        let both = options.args.clone().count();
        if both % 2 == 0 {
            options.args.take(both / 2).for_each(found);
        }
    }
}

/// Whether an argument is this option to the server, which reads it as a C string: up to a NUL, in any case. Anything
/// stricter would let `BLOCK\0` pass for an unknown word here, and block there.
#[must_use]
pub fn is(arg: &[u8], option: &[u8]) -> bool {
    let word = arg.split(|&byte| byte == 0).next().unwrap_or_default();
    word.eq_ignore_ascii_case(option)
}

fn is_any(word: &[u8], words: &[&[u8]]) -> bool {
    words.iter().any(|other| is(word, other))
}

/// A count in decimal digits. Nothing else is one, and nothing above what a request can hold.
pub(super) fn number(digits: &[u8]) -> Option<usize> {
    str::from_utf8(digits).ok()?.parse().ok()
}
