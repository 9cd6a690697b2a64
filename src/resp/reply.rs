//! Replies: the bytes upstream sends, cut into frames.
//!
//! [`ReplyScanner`] is fed each byte once, in whatever pieces they come, and tells where a reply ends. It keeps no
//! bytes but an unfinished header, and one number per level of nesting: neither the size of a value nor the number of
//! elements that a header announces costs memory. It refuses what no server sends, because a reply whose end is
//! in doubt would hand the next client somebody else's data; what it cannot doubt, it does not judge: the text of a
//! simple string, an error or a big number may be anything but a line end (a script can return any of them).
//!
//! The lengths of lines and the time they take are not bounded here; who reads the connection bounds both.

use std::{fmt, mem};

use super::header;

/// Aggregates within aggregates, the outermost included. Scripts can nest some 30, no command more than 6.
const MAX_DEPTH: usize = 128;
/// Elements that an aggregate may announce (pairs, in a map), so that twice as many still fit a `u32`.
const MAX_COUNT: i64 = i32::MAX as i64;
/// Bytes that a value may announce: 1 TiB, past any server's memory. Above it, this is not a length.
const MAX_BULK: i64 = 1 << 40;
/// Bytes of the longest header: a type byte, a sign, 20 digits, CR and LF.
const MAX_HEADER: usize = 24;

/// Finds the end of each reply in a stream of bytes; one per upstream connection.
#[derive(Debug, Default)]
pub struct ReplyScanner {
    /// Elements still to come at the current level; 0 between frames, and never else.
    left: u32,
    /// `left` of each enclosing level, outermost first. Grows to the deepest nesting seen and stays.
    parents: Vec<u32>,
    /// The current frame's kind, once its type byte was seen.
    kind: Kind,
    /// Where within an element the last byte was.
    part: Part,
    /// The first bytes of an unfinished header.
    header: [u8; MAX_HEADER],
}

/// What a call of [`ReplyScanner::advance`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// The first `taken` bytes complete a reply; the rest has not been looked at.
    Complete {
        /// Bytes that belong to the reply.
        taken: usize,
        /// What the reply is.
        kind: Kind,
    },
    /// All bytes belong to a reply that goes on.
    More,
}

/// The type of a reply, of its outermost element; an attribute before it does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// `+`
    #[default]
    Simple,
    /// `-`
    Error,
    /// `:`
    Integer,
    /// `$`, the null `$-1` included
    Bulk,
    /// `*`, the null `*-1` included
    Array,
    /// `_`
    Null,
    /// `#`
    Boolean,
    /// `,`
    Double,
    /// `(`
    BigNumber,
    /// `!`
    BlobError,
    /// `=`
    Verbatim,
    /// `%`
    Map,
    /// `~`
    Set,
    /// `>`: not the answer to a request
    Push,
}

/// Where within an element the scanner stands.
#[derive(Clone, Copy, Debug, Default)]
enum Part {
    /// Before its type byte.
    #[default]
    Start,
    /// Within its header, of which `len` bytes are kept.
    Header { len: usize },
    /// Within the line of a `sort` whose text may have any length; `cr`: the last byte was CR.
    Line { sort: u8, cr: bool },
    /// Within its value, of which `left` bytes are to come, CR and LF included.
    Value { left: usize },
}

impl ReplyScanner {
    /// Takes in `bytes`, which follow those taken before, up to the end of a reply or all of them.
    ///
    /// # Errors
    /// The bytes are no RESP. Where the next reply begins is unknown from then on: the connection must be closed and
    /// the scanner dropped.
    #[inline]
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Advance, ReplyError> {
        if self.left == 0 {
            if let Some((taken, kind)) = plain(bytes) {
                return Ok(Advance::Complete { taken, kind });
            }
            if bytes.is_empty() {
                return Ok(Advance::More);
            }
            self.left = 1;
        }
        self.read(bytes)
    }

    /// Reads on as far as the bytes or the reply go.
    fn read(&mut self, bytes: &[u8]) -> Result<Advance, ReplyError> {
        let mut taken = 0;
        loop {
            let rest = bytes.get(taken..).unwrap_or_default();
            let Some(used) = self.element(rest)? else {
                return Ok(Advance::More);
            };
            taken += used;
            taken += self.plain_elements(bytes.get(taken..).unwrap_or_default());
            if self.is_whole() {
                return Ok(Advance::Complete { taken, kind: self.kind });
            }
        }
    }

    /// Whether no reply is under way: the last byte taken was the last of a reply, or there was none.
    pub fn at_boundary(&self) -> bool {
        self.left == 0
    }

    /// Passes elements of the current level that need no state, and returns how many of `bytes` they took.
    #[inline]
    fn plain_elements(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while self.left > 0
            && !self.parents.is_empty()
            && let Some((used, _)) = bytes.get(taken..).and_then(plain)
        {
            taken += used;
            self.left -= 1;
        }
        taken
    }

    /// Leaves the levels that have nothing more to come; whether the outermost was one of them.
    #[inline]
    fn is_whole(&mut self) -> bool {
        while self.left == 0 {
            match self.parents.pop() {
                Some(left) => self.left = left,
                None => return true,
            }
        }
        false
    }

    /// Begins or continues an element, an aggregate's elements not included. Returns how many of `bytes` took it to its
    /// end, or `None` if all of them did not.
    #[inline]
    fn element(&mut self, bytes: &[u8]) -> Result<Option<usize>, ReplyError> {
        match self.part {
            Part::Start => self.start(bytes),
            Part::Header { len } => self.resume_header(len, bytes),
            Part::Line { sort, cr } => self.line(sort, cr, bytes),
            Part::Value { left } => self.value(left, bytes),
        }
    }

    #[inline]
    fn start(&mut self, bytes: &[u8]) -> Result<Option<usize>, ReplyError> {
        let Some((&sort, text)) = bytes.split_first() else {
            return Ok(None);
        };
        let kind = kind_of(sort)?;
        if let Some(kind) = kind {
            if self.parents.is_empty() {
                self.kind = kind;
            } else if kind == Kind::Push {
                return Err(ReplyError::NestedPush);
            }
        }
        if matches!(sort, b'+' | b'-' | b',' | b'(') {
            let used = self.line(sort, false, text)?;
            return Ok(used.map(|used| used + 1));
        }
        match header::short(sort, bytes) {
            Some((number, len)) => {
                let value = self.numbered(sort, i64::from(number))?;
                self.after_header(len, value, bytes)
            }
            None => self.resume_header(0, bytes),
        }
    }

    /// Reads on in a header of which `len` bytes are kept, and keeps the others.
    #[cold]
    fn resume_header(&mut self, len: usize, bytes: &[u8]) -> Result<Option<usize>, ReplyError> {
        let mut before = len.checked_sub(1).and_then(|last| self.header.get(last).copied());
        let free = self.header.iter_mut().skip(len);
        let mut kept = 0;
        for (slot, &byte) in free.zip(bytes) {
            if (byte == b'\n') != (before == Some(b'\r')) {
                return Err(ReplyError::Terminator);
            }
            *slot = byte;
            kept += 1;
            if byte == b'\n' {
                let value = self.whole_header(len + kept)?;
                return self.after_header(kept, value, bytes);
            }
            before = Some(byte);
        }
        if len + kept == MAX_HEADER {
            return Err(ReplyError::Header);
        }
        self.part = Part::Header { len: len + kept };
        Ok(None)
    }

    /// Goes on behind a header that ended `used` bytes into `bytes`, with the value it announced, if any.
    #[inline]
    fn after_header(&mut self, used: usize, value: Option<usize>, bytes: &[u8]) -> Result<Option<usize>, ReplyError> {
        match value {
            Some(len) => {
                let rest = bytes.get(used..).unwrap_or_default();
                Ok(self.value(len + 2, rest)?.map(|more| used + more))
            }
            None => {
                self.part = Part::Start;
                Ok(Some(used))
            }
        }
    }

    /// Understands the `len` bytes of header kept, as [`Self::numbered`] does.
    fn whole_header(&mut self, len: usize) -> Result<Option<usize>, ReplyError> {
        let header = self.header;
        let line = header.get(..len).and_then(|line| line.strip_suffix(b"\r\n"));
        match line.and_then(<[u8]>::split_first) {
            Some((b'#', b"t" | b"f")) | Some((b'_', b"")) => {}
            Some((b':', text)) if is_integer(text) => {}
            Some((b'$' | b'*', b"-1")) => {}
            Some((b'$' | b'!' | b'=' | b'*' | b'~' | b'%' | b'|' | b'>', b"?")) => {
                return Err(ReplyError::Streamed);
            }
            Some((&sort, text)) if !matches!(sort, b'#' | b'_' | b':') => {
                let number = header::integer(text).filter(|&number| number >= 0);
                return self.numbered(sort, number.ok_or(ReplyError::Header)?);
            }
            _ => return Err(ReplyError::Header),
        }
        self.left = self.left.saturating_sub(1);
        Ok(None)
    }

    /// Acts on a header of `sort` and `number`: returns the size of the value that follows, or goes down into the
    /// aggregate, or has counted the element, which was no more than its header.
    #[inline]
    fn numbered(&mut self, sort: u8, number: i64) -> Result<Option<usize>, ReplyError> {
        match sort {
            b'$' | b'!' | b'=' => {
                if number > MAX_BULK || (sort == b'=' && number < 4) {
                    return Err(ReplyError::Header);
                }
                Ok(Some(usize::try_from(number).map_err(|_| ReplyError::Header)?))
            }
            b'*' | b'~' | b'%' | b'>' | b'|' => {
                self.open(sort, number)?;
                Ok(None)
            }
            b':' => {
                self.left = self.left.saturating_sub(1);
                Ok(None)
            }
            // A boolean or null with a number in it.
            _ => Err(ReplyError::Header),
        }
    }

    /// Goes down into an aggregate of `count` elements or pairs.
    #[inline]
    fn open(&mut self, sort: u8, count: i64) -> Result<(), ReplyError> {
        if count > MAX_COUNT {
            return Err(ReplyError::Header);
        }
        let each = if matches!(sort, b'%' | b'|') { 2 } else { 1 };
        let elements = u32::try_from(count * each).map_err(|_| ReplyError::Header)?;
        if sort != b'|' {
            // An attribute is not an element of its own, it belongs to the one that follows.
            self.left = self.left.saturating_sub(1);
        }
        if elements > 0 {
            if self.parents.len() == MAX_DEPTH {
                return Err(ReplyError::TooDeep);
            }
            self.parents.push(mem::replace(&mut self.left, elements));
        }
        Ok(())
    }

    /// Reads on in a line whose text may have any length.
    #[inline]
    fn line(&mut self, sort: u8, cr: bool, bytes: &[u8]) -> Result<Option<usize>, ReplyError> {
        let end = if cr { Some(0) } else { bytes.iter().position(|&b| matches!(b, b'\r' | b'\n')) };
        let text = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        if sort == b',' && !text.iter().all(|&byte| is_in_double(byte)) {
            return Err(ReplyError::Double);
        }
        let Some(end) = end else {
            self.part = Part::Line { sort, cr: false };
            return Ok(None);
        };
        let used = if cr { 1 } else { end + 2 };
        match (cr, bytes.get(end..)) {
            (true, Some([b'\n', ..])) | (false, Some([b'\r', b'\n', ..])) => {
                self.part = Part::Start;
                self.left = self.left.saturating_sub(1);
                Ok(Some(used))
            }
            (true, Some([])) | (false, Some([b'\r'])) => {
                self.part = Part::Line { sort, cr: true };
                Ok(None)
            }
            _ => Err(ReplyError::Terminator),
        }
    }

    /// Reads on in a value of which `left` bytes are to come, CR and LF included.
    #[inline]
    fn value(&mut self, left: usize, bytes: &[u8]) -> Result<Option<usize>, ReplyError> {
        let is =
            |place: Option<usize>, wanted| place.and_then(|index| bytes.get(index)).is_none_or(|&byte| byte == wanted);
        if !is(left.checked_sub(2), b'\r') || !is(left.checked_sub(1), b'\n') {
            return Err(ReplyError::Terminator);
        }
        if bytes.len() < left {
            self.part = Part::Value { left: left - bytes.len() };
            return Ok(None);
        }
        self.part = Part::Start;
        self.left = self.left.saturating_sub(1);
        Ok(Some(left))
    }
}

/// The hot path: length and kind of the element at the start of `bytes`, if it is whole and of the common sort that
/// needs no judgement. `None` means that [`ReplyScanner::element`] has to say.
#[inline]
fn plain(bytes: &[u8]) -> Option<(usize, Kind)> {
    match bytes {
        [b'$', b'-', b'1', b'\r', b'\n', ..] => Some((5, Kind::Bulk)),
        [b'$', ..] => {
            let (len, header) = header::short(b'$', bytes)?;
            let end = header + len as usize + 2;
            (bytes.get(end - 2..end)? == b"\r\n").then_some((end, Kind::Bulk))
        }
        [b'+', b'O', b'K', b'\r', b'\n', ..] => Some((5, Kind::Simple)),
        [b':', ..] => header::short(b':', bytes).map(|(_, len)| (len, Kind::Integer)),
        [b'_', b'\r', b'\n', ..] => Some((3, Kind::Null)),
        _ => None,
    }
}

/// The kind that a type byte means; `None` for an attribute, which is part of the reply that follows.
#[inline]
fn kind_of(sort: u8) -> Result<Option<Kind>, ReplyError> {
    Ok(Some(match sort {
        b'+' => Kind::Simple,
        b'-' => Kind::Error,
        b':' => Kind::Integer,
        b'$' => Kind::Bulk,
        b'*' => Kind::Array,
        b'_' => Kind::Null,
        b'#' => Kind::Boolean,
        b',' => Kind::Double,
        b'(' => Kind::BigNumber,
        b'!' => Kind::BlobError,
        b'=' => Kind::Verbatim,
        b'%' => Kind::Map,
        b'~' => Kind::Set,
        b'>' => Kind::Push,
        b'|' => return Ok(None),
        b';' | b'.' => return Err(ReplyError::Streamed),
        other => return Err(ReplyError::Type(other)),
    }))
}

/// Whether `text` is an optional sign and 1 to 20 digits.
fn is_integer(text: &[u8]) -> bool {
    let digits = match text {
        [b'+' | b'-', digits @ ..] => digits,
        digits => digits,
    };
    (1..=20).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
}

/// Whether `byte` may occur in a double: digits, signs, point, exponent, `inf`, `nan`, `infinity`.
fn is_in_double(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.')
        || matches!(byte | 0x20, b'e' | b'i' | b'n' | b'f' | b'a' | b't' | b'y')
}

/// Why upstream's bytes cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// No reply begins with this byte.
    Type(u8),
    /// A CR or LF alone, or a value that does not end with CRLF.
    Terminator,
    /// What stands between the type byte and CRLF is not what that type has there, or out of bounds.
    Header,
    /// A double of other characters than numbers are made of.
    Double,
    /// Aggregates nested more than 128 deep.
    TooDeep,
    /// A push within another reply.
    NestedPush,
    /// A reply whose size is not announced (`$?`, `*?`, `;`, `.`): part of RESP3 which no server sends.
    Streamed,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(byte) => write!(f, "no reply begins with `{}`", byte.escape_ascii()),
            Self::Terminator => f.write_str("CRLF is not where a line or value should end"),
            Self::Header => f.write_str("a header's number or text is invalid"),
            Self::Double => f.write_str("a double holds other characters than a number's"),
            Self::TooDeep => write!(f, "aggregates are nested more than {MAX_DEPTH} deep"),
            Self::NestedPush => f.write_str("a push stands within another reply"),
            Self::Streamed => f.write_str("streamed strings and aggregates are not supported"),
        }
    }
}

impl std::error::Error for ReplyError {}

#[cfg(test)]
mod tests;
