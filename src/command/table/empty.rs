//! What a server without data replies to a read: the vocabulary of the table's last column.
//!
//! A reply of an empty server depends on the request's arguments at most in its size and in a few options. A [`Shape`]
//! says how; the reply that comes of it is an [`Empty`]. All bytes were taken from empty servers (valkey-server 9.1,
//! redis-server 7.0, for `STRALGO` redis-server 6.2), and are tested against them. Commands that none of these has are
//! marked in the table: their shapes follow the command reference.

/// A reply without data. Counts are bounded by the number of the request's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Empty {
    /// An array without elements.
    Array,
    /// This number.
    Integer(i8),
    /// This number, so many times.
    Integers {
        /// The number.
        each: i8,
        /// How many times.
        count: usize,
    },
    /// A map without entries.
    Map,
    /// What `LCS … IDX` replies: no matches, of length 0.
    Matches,
    /// A missing value.
    Nil,
    /// A missing array, which RESP2 tells from a missing value.
    NilArray,
    /// So many missing arrays.
    NilArrays(usize),
    /// So many missing values.
    Nils(usize),
    /// The end of an iteration that found nothing: the cursor 0 and an empty array.
    Scanned,
    /// A set without members.
    Set,
    /// An empty string.
    Text,
    /// The type of a key that does not exist.
    TypeNone,
}

/// How the reply of an empty server follows from the arguments; the name is argument 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Always this.
    Always(Empty),
    /// `AROP`: a count for some operations, nothing for others.
    Arop,
    /// `BITFIELD`: a 0 for each GET, unless there is anything else.
    Bitfield,
    /// `BITPOS`: position 0 for a clear bit, −1 for a set one.
    Bitpos,
    /// One missing thing for each argument from this one on.
    Each(Item, u8),
    /// There is none: an empty server has an error too, or the reply has nothing to do with data, or is not known. Nothing
    /// that writes whatever its arguments has one.
    Error,
    /// One missing thing for each field of `FIELDS count field …`, if that follows the key.
    Fields(Item),
    /// `LCS`: a string, its length, or the matches, as the options from this argument on say.
    Lcs {
        /// The first option.
        options: u8,
    },
    /// With so many arguments one reply, with more another if any.
    Length {
        /// The number of arguments, the name counted.
        of: u8,
        /// The reply to exactly so many.
        exactly: Empty,
        /// The reply to more.
        more: Option<Empty>,
    },
    /// `LPOS`: an array if there is a COUNT.
    Lpos,
    /// This, unless the result is stored under a second key.
    UnlessStored(Empty),
}

/// A missing thing, of which a reply holds several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// This number.
    Integer(i8),
    /// A missing value.
    Nil,
    /// A missing array.
    NilArray,
}

pub(super) const ARRAY: Shape = Shape::Always(Empty::Array);
pub(super) const MAP: Shape = Shape::Always(Empty::Map);
pub(super) const NIL: Shape = Shape::Always(Empty::Nil);
pub(super) const NIL_ARRAY: Shape = Shape::Always(Empty::NilArray);
/// What asks for the expiry of a key that does not exist gets this.
pub(super) const NO_KEY: Shape = Shape::Always(Empty::Integer(-2));
pub(super) const NO_TYPE: Shape = Shape::Always(Empty::TypeNone);
pub(super) const SCANNED: Shape = Shape::Always(Empty::Scanned);
pub(super) const SET: Shape = Shape::Always(Empty::Set);
pub(super) const TEXT: Shape = Shape::Always(Empty::Text);
pub(super) const ZERO: Shape = Shape::Always(Empty::Integer(0));

/// For each argument a missing value.
pub(super) const EACH_KEY: Shape = Shape::Each(Item::Nil, 1);
/// For each argument after the key a missing value.
pub(super) const EACH_MEMBER: Shape = Shape::Each(Item::Nil, 2);
/// For each argument after the key a missing array.
pub(super) const EACH_PLACE: Shape = Shape::Each(Item::NilArray, 2);
/// For each argument after the key a 0.
pub(super) const EACH_CHECK: Shape = Shape::Each(Item::Integer(0), 2);
/// For each field a missing value.
pub(super) const EACH_FIELD: Shape = Shape::Fields(Item::Nil);
/// For each field what says that there is no such field.
pub(super) const EACH_EXPIRY: Shape = Shape::Fields(Item::Integer(-2));

/// A missing value, or an array if a count is given.
pub(super) const PICKED: Shape = Shape::Length { of: 2, exactly: Empty::Nil, more: Some(Empty::Array) };
/// A missing rank, or a missing pair if the score is asked for too.
pub(super) const RANK: Shape = Shape::Length { of: 3, exactly: Empty::Nil, more: Some(Empty::NilArray) };
/// A missing value, if the key is all there is.
pub(super) const KEY_ALONE: Shape = Shape::Length { of: 2, exactly: Empty::Nil, more: None };
/// An array, if it is not stored.
pub(super) const UNLESS_STORED: Shape = Shape::UnlessStored(Empty::Array);
