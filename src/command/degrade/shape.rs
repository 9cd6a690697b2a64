//! The reply of an empty server: the [`Shape`] of a command applied to the arguments of a request.

use crate::command::keys::{is, keys, number};
use crate::command::table::{Command, Empty, Item, Shape};

/// What an empty server replies to a request of `command`; `args` is the whole of it, the name first. None if it would be
/// an error, if the request would change data, or if the reply is not known.
pub(super) fn reply<'a>(command: &Command, args: impl Iterator<Item = &'a [u8]> + Clone) -> Option<Empty> {
    match command.empty {
        Shape::Error => None,
        Shape::Always(empty) => Some(empty),
        Shape::Each(item, first) => Some(several(item, args.count().saturating_sub(usize::from(first)))),
        Shape::Fields(item) => fields(args).map(|count| several(item, count)),
        Shape::Length { of, exactly, more } => {
            if args.count() == usize::from(of) {
                Some(exactly)
            } else {
                more
            }
        }
        Shape::UnlessStored(empty) => {
            let mut found = 0;
            keys(command, args, |_| found += 1);
            (found == 1).then_some(empty)
        }
        Shape::Arop => arop(args),
        Shape::Bitfield => bitfield(args),
        Shape::Bitpos => bitpos(args),
        Shape::Lcs { options } => lcs(args.skip(usize::from(options))),
        Shape::Lpos => lpos(args),
    }
}

const fn several(item: Item, count: usize) -> Empty {
    match item {
        Item::Integer(each) => Empty::Integers { each, count },
        Item::Nil => Empty::Nils(count),
        Item::NilArray => Empty::NilArrays(count),
    }
}

/// `name key FIELDS count field …`: how many fields. Any other option there may be would change something.
fn fields<'a>(args: impl Iterator<Item = &'a [u8]>) -> Option<usize> {
    let mut args = args.skip(2);
    if !is(args.next()?, b"fields") {
        return None;
    }
    let count = number(args.next()?)?;
    (count > 0 && args.count() == count).then_some(count)
}

/// `AROP key start end operation [value]`
fn arop<'a>(args: impl Iterator<Item = &'a [u8]>) -> Option<Empty> {
    let mut args = args.skip(4);
    let operation = args.next()?;
    let counts = is(operation, b"match") || is(operation, b"used");
    Some(if counts { Empty::Integer(0) } else { Empty::Nil })
}

/// `BITFIELD key [GET type offset | OVERFLOW behaviour] …`
fn bitfield<'a>(args: impl Iterator<Item = &'a [u8]>) -> Option<Empty> {
    let mut args = args.skip(2);
    let mut count = 0;
    while let Some(operation) = args.next() {
        if is(operation, b"get") {
            args.nth(1)?;
            count += 1;
        } else if is(operation, b"overflow") {
            args.next()?;
        } else {
            return None;
        }
    }
    Some(Empty::Integers { each: 0, count })
}

/// `BITPOS key bit …`: a key that does not exist is all clear bits.
fn bitpos<'a>(mut args: impl Iterator<Item = &'a [u8]>) -> Option<Empty> {
    match args.nth(2)? {
        b"0" => Some(Empty::Integer(0)),
        b"1" => Some(Empty::Integer(-1)),
        _ => None,
    }
}

/// The options of `LCS`, and the keys where `STRALGO` has them.
fn lcs<'a>(mut options: impl Iterator<Item = &'a [u8]>) -> Option<Empty> {
    let (mut length, mut matches) = (false, false);
    while let Some(option) = options.next() {
        if is(option, b"len") {
            length = true;
        } else if is(option, b"idx") {
            matches = true;
        } else if is(option, b"minmatchlen") {
            options.next()?;
        } else if is(option, b"keys") {
            options.nth(1)?;
        } else if !is(option, b"withmatchlen") {
            return None;
        }
    }
    match (length, matches) {
        (false, false) => Some(Empty::Text),
        (true, false) => Some(Empty::Integer(0)),
        (false, true) => Some(Empty::Matches),
        (true, true) => None,
    }
}

/// `LPOS key element [RANK rank | COUNT count | MAXLEN length] …`
fn lpos<'a>(args: impl Iterator<Item = &'a [u8]>) -> Option<Empty> {
    let mut options = args.skip(3);
    let mut counted = false;
    while let Some(option) = options.next() {
        options.next()?;
        if is(option, b"count") {
            counted = true;
        } else if !is(option, b"rank") && !is(option, b"maxlen") {
            return None;
        }
    }
    Some(if counted { Empty::Array } else { Empty::Nil })
}
