//! Requests: the bytes a client sends, cut into frames.
//!
//! [`RequestScanner`] is given the buffer from the current frame's first byte, says how long the frame is once it is
//! whole, and remembers in between how far it got: a large value that arrives in many pieces is never looked at, and
//! no header is read twice. [`Args`] then walks the arguments of a whole frame.
//!
//! What is accepted, refused, ignored and answered is what redis-server 7.0 does, found by experiment against
//! 6.2, 7.0 and Valkey 9.1, oddities included: the byte after a CR is skipped unread, so are the two after a value; a
//! NUL hides the rest of a line. Valkey refuses the first two instead (`invalid CRLF in request`) and takes NUL as
//! any other byte. Two limits are sharper than 7.0's: the number of arguments is bounded as in 6.2, and a line
//! without an end within [`Limits::max_inline`] is too long even if its end came with the same packet, as in
//! Valkey, so that the verdict does not depend on how the bytes were cut into packets.

use std::{borrow::Cow, fmt};

use super::header;

/// How large a request may be. The defaults are Redis' own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one argument. Values above `u32::MAX` act as `u32::MAX`.
    pub max_bulk: usize,
    /// Arguments of one request, its name included.
    pub max_args: usize,
    /// Bytes of an inline request, or of an array's header line, before their end must have come; at least 16.
    pub max_inline: usize,
    /// Whether the client has said who it is. Until then 10 arguments of 16 KiB must do, which is
    /// all that AUTH and HELLO need.
    pub authenticated: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bulk: 512 * 1024 * 1024, max_args: 1024 * 1024, max_inline: 64 * 1024, authenticated: true }
    }
}

/// Arguments allowed to a client that has not authenticated.
const UNAUTHENTICATED_ARGS: i64 = 10;
/// Bytes per argument allowed to a client that has not authenticated.
const UNAUTHENTICATED_BULK: i64 = 16 * 1024;

/// One whole request at the start of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bytes of the frame, from its first to its last.
    pub len: usize,
    /// Arguments, the name included; 0 for [`Form::Inline`], whose words are not counted here, and [`Form::Empty`].
    pub argc: u32,
    /// Where the command's name lies; empty where `argc` is 0.
    pub name: Span,
    /// How the request was written.
    pub form: Form,
}

/// How a request was written, and so what may be done with its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A canonical array of bulk strings: may be forwarded as it stands.
    Array,
    /// A line of words: [`inline::split`](super::inline::split) takes it apart, and can still refuse it.
    Inline,
    /// An array that Redis accepts although CRLF is not where it should be: to be rewritten with
    /// [`inline::encode`](super::inline::encode) from its [`Args`], not forwarded.
    Loose,
    /// Nothing to do and nothing to answer: `*0`, a negative count, or a blank line.
    Empty,
}

/// A stretch of a frame, counted from the frame's first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// Number of bytes.
    pub len: u32,
}

impl Span {
    /// The bytes meant, or none if `frame` is not the frame this span was found in.
    #[inline]
    pub fn of(self, frame: &[u8]) -> &[u8] {
        let start = self.start as usize;
        frame.get(start..start + self.len as usize).unwrap_or_default()
    }
}

/// Finds the end of the request at the start of a buffer; holds the progress within it (32 bytes).
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestScanner {
    /// Where the next header begins; past the end of the buffer while a value is still arriving.
    at: usize,
    /// Arguments announced; 0 until the array's header was read.
    argc: u32,
    /// Arguments not yet passed.
    left: u32,
    /// Bytes of the unfinished line at `at` that hold no line end.
    searched: u32,
    name: Span,
    /// A value's header was read, and `at` is the end of that value and its CRLF.
    in_value: bool,
    /// Something so far was not CRLF where it should have been.
    loose: bool,
}

impl RequestScanner {
    /// The request at the start of `buf`, or `None` while it is incomplete.
    ///
    /// Until it returns something else than `Ok(None)`, each call must bring the same bytes as the last one, and any
    /// number of further ones. Then the scanner is as new, for the frame that follows.
    ///
    /// # Errors
    /// What a server would refuse; the client gets [`ProtocolError::reply`] and is disconnected.
    #[inline]
    pub fn scan(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<Request>, ProtocolError> {
        if self.is_new()
            && let Some(request) = plain(buf, limits)
        {
            return Ok(Some(request));
        }
        let found = self.step(buf, limits);
        if !matches!(found, Ok(None)) {
            *self = Self::default();
        }
        found
    }

    /// Bytes that the current frame needs at least, as far as is known; 0 before its first header.
    ///
    /// For sizing buffers, with a bound: it may rest on what a client announced and never sends.
    pub fn needed(&self) -> usize {
        self.at
    }

    /// Whether nothing of the frame has been read yet.
    #[inline]
    fn is_new(&self) -> bool {
        self.at == 0 && self.searched == 0
    }

    /// Reads on as far as the bytes go; everything but what [`plain`] finds.
    #[cold]
    fn step(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<Request>, ProtocolError> {
        if self.argc == 0 {
            match buf.first() {
                Some(b'*') => {}
                Some(_) => return self.inline(buf, limits),
                None => return Ok(None),
            }
            let Some(count) = self.count(buf, limits)? else {
                return Ok(None);
            };
            if count == 0 {
                return Ok(Some(self.found(Form::Empty)));
            }
            self.argc = count;
            self.left = count;
        }
        while self.left > 0 {
            if !self.in_value && !self.value_header(buf, limits)? {
                return Ok(None);
            }
            if buf.len() < self.at {
                return Ok(None);
            }
            self.loose |= buf.get(self.at - 2..self.at) != Some(b"\r\n");
            self.in_value = false;
            self.left -= 1;
        }
        if is_cross_protocol(self.name.of(buf)) {
            return Err(ProtocolError::CrossProtocol);
        }
        Ok(Some(self.found(if self.loose { Form::Loose } else { Form::Array })))
    }

    fn found(&self, form: Form) -> Request {
        Request { len: self.at, argc: self.argc, name: self.name, form }
    }

    /// Reads the array's header; 0 also stands for the negative counts, which mean as little.
    fn count(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<u32>, ProtocolError> {
        let value = if let Some((value, len)) = header::short(b'*', buf) {
            self.at = len;
            self.searched = 0;
            i64::from(value)
        } else {
            let Some(line) = self.line(buf, limits, ProtocolError::TooBigMultibulkCount)? else {
                return Ok(None);
            };
            header::integer(line).ok_or(ProtocolError::InvalidMultibulkLength)?
        };
        let count = u32::try_from(value.max(0))
            .ok()
            .filter(|&count| count as usize <= limits.max_args)
            .ok_or(ProtocolError::InvalidMultibulkLength)?;
        if value > UNAUTHENTICATED_ARGS && !limits.authenticated {
            return Err(ProtocolError::UnauthenticatedMultibulkLength);
        }
        Ok(Some(count))
    }

    /// Reads the header at `at` and moves `at` past the value that it announces; `false` if there is no whole header.
    fn value_header(&mut self, buf: &[u8], limits: &Limits) -> Result<bool, ProtocolError> {
        let rest = buf.get(self.at..).unwrap_or_default();
        let first = rest.first().copied();
        let value = if let Some((value, len)) = header::short(b'$', rest) {
            self.at += len;
            self.searched = 0;
            i64::from(value)
        } else {
            let Some(line) = self.line(buf, limits, ProtocolError::TooBigBulkCount)? else {
                return Ok(false);
            };
            match first {
                Some(b'$') => header::integer(line).ok_or(ProtocolError::InvalidBulkLength)?,
                other => return Err(ProtocolError::ExpectedDollar(other.unwrap_or_default())),
            }
        };
        let len = u32::try_from(value)
            .ok()
            .filter(|&len| len as usize <= limits.max_bulk)
            .ok_or(ProtocolError::InvalidBulkLength)?;
        if value > UNAUTHENTICATED_BULK && !limits.authenticated {
            return Err(ProtocolError::UnauthenticatedBulkLength);
        }
        if self.left == self.argc {
            // The name follows at most two lines, each bounded, so its place fits.
            self.name = Span { start: u32::try_from(self.at).unwrap_or(u32::MAX), len };
        }
        self.at = self.at.saturating_add(len as usize).saturating_add(2);
        self.in_value = true;
        Ok(true)
    }

    /// The line at `at` without its first byte and its end, and `at` moved past it; `None` while it is unfinished.
    #[cold]
    fn line<'a>(
        &mut self,
        buf: &'a [u8],
        limits: &Limits,
        too_big: ProtocolError,
    ) -> Result<Option<&'a [u8]>, ProtocolError> {
        let rest = buf.get(self.at..).unwrap_or_default();
        let Some(end) = self.line_end(rest, b'\r', limits, too_big)? else {
            return Ok(None);
        };
        let Some(&after) = rest.get(end + 1) else {
            return Ok(None);
        };
        self.loose |= after != b'\n';
        self.at += end + 2;
        self.searched = 0;
        Ok(Some(rest.get(1..end).unwrap_or_default()))
    }

    /// A request that does not begin with `*` is a line that ends with LF or CRLF.
    #[cold]
    fn inline(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<Request>, ProtocolError> {
        let end = self.line_end(buf, b'\n', limits, ProtocolError::TooBigInline)?;
        let Some(end) = end else { return Ok(None) };
        self.at = end + 1;
        let blank = buf.iter().take(end).all(|&byte| is_space(byte));
        Ok(Some(self.found(if blank { Form::Empty } else { Form::Inline })))
    }

    /// Where `line` has its first `terminator`, looking only at bytes not searched before.
    fn line_end(
        &mut self,
        line: &[u8],
        terminator: u8,
        limits: &Limits,
        too_big: ProtocolError,
    ) -> Result<Option<usize>, ProtocolError> {
        let searched = self.searched as usize;
        let bounded = line.get(..=limits.max_inline).unwrap_or(line);
        let stop = bounded
            .iter()
            .skip(searched)
            .position(|&byte| byte == terminator || byte == 0)
            .map_or(bounded.len(), |index| searched + index);
        if bounded.get(stop) == Some(&terminator) {
            self.searched = u32::try_from(stop).unwrap_or(u32::MAX);
            return Ok(Some(stop));
        }
        if line.len() > limits.max_inline {
            return Err(too_big);
        }
        self.searched = u32::try_from(stop).unwrap_or(u32::MAX);
        Ok(None)
    }
}

/// The hot path: the request at the start of `buf` if it is whole, canonical, and within the limits. `None` means that
/// [`RequestScanner::step`] has to say.
#[inline]
fn plain(buf: &[u8], limits: &Limits) -> Option<Request> {
    if !limits.authenticated {
        return None;
    }
    let (argc, skip) = header::short(b'*', buf)?;
    if argc == 0 || argc as usize > limits.max_args {
        return None;
    }
    let (name, mut at) = plain_value(buf, skip, limits)?;
    for _ in 1..argc {
        (_, at) = plain_value(buf, at, limits)?;
    }
    let request = Request { len: at, argc, name, form: Form::Array };
    (!is_cross_protocol(name.of(buf))).then_some(request)
}

/// Where the value whose header is at `at` lies, and where the next header begins.
#[inline]
fn plain_value(buf: &[u8], at: usize, limits: &Limits) -> Option<(Span, usize)> {
    let (len, skip) = header::short(b'$', buf.get(at..)?)?;
    let start = at + skip;
    let end = start + len as usize;
    if len as usize > limits.max_bulk || buf.get(end..end + 2)? != b"\r\n" {
        return None;
    }
    Some((Span { start: u32::try_from(start).ok()?, len }, end + 2))
}

/// The arguments of a whole frame of [`Form::Array`] or [`Form::Loose`], in order, name first.
///
/// For other bytes it yields fewer than announced, or nothing; it never panics.
#[derive(Clone, Debug)]
pub struct Args<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Args<'a> {
    /// The arguments of `frame`, which is a request's bytes from the first to the last.
    #[inline]
    pub fn new(frame: &'a [u8]) -> Self {
        let (left, skip) = length_line(frame, b'*').unwrap_or_default();
        Self { rest: frame.get(skip..).unwrap_or_default(), left }
    }
}

impl<'a> Iterator for Args<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 {
            return None;
        }
        let (len, skip) = length_line(self.rest, b'$')?;
        let (value, rest) = self.rest.get(skip..)?.split_at_checked(len)?;
        self.rest = rest.get(2..).unwrap_or_default();
        self.left -= 1;
        Some(value)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Args<'_> {}

/// Value and length of the header line at the start of `bytes`, read as leniently as the scanner does.
#[inline]
fn length_line(bytes: &[u8], first: u8) -> Option<(usize, usize)> {
    if let Some((value, len)) = header::short(first, bytes) {
        return Some((value as usize, len));
    }
    if bytes.first() != Some(&first) {
        return None;
    }
    let end = bytes.iter().position(|&byte| byte == b'\r')?;
    let value = header::integer(bytes.get(1..end)?)?;
    Some((usize::try_from(value).ok()?, end + 2))
}

/// Whether `name` gives away an HTTP client, which a web page may have sent here: `POST` or `Host:`, in any case, up
/// to a NUL. Redis hangs up on these without a word.
#[inline]
pub(super) fn is_cross_protocol(name: &[u8]) -> bool {
    let is = |word: &[u8]| {
        name.split_at_checked(word.len())
            .is_some_and(|(start, rest)| start.eq_ignore_ascii_case(word) && matches!(rest, [] | [0, ..]))
    };
    is(b"post") || is(b"host:")
}

/// White space as C's `isspace` has it in the C locale.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Why a client's bytes cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The number after `*` is no number, or above [`Limits::max_args`].
    InvalidMultibulkLength,
    /// A value's header begins with this byte.
    ExpectedDollar(u8),
    /// The number after `$` is no number, negative, or above [`Limits::max_bulk`].
    InvalidBulkLength,
    /// An inline request ends within quotes, or has something right after a closing quote.
    UnbalancedQuotes,
    /// An inline request without an end within [`Limits::max_inline`].
    TooBigInline,
    /// A `*` line without an end within [`Limits::max_inline`].
    TooBigMultibulkCount,
    /// A `$` line without an end within [`Limits::max_inline`].
    TooBigBulkCount,
    /// More than 10 arguments before authentication.
    UnauthenticatedMultibulkLength,
    /// More than 16 KiB in an argument before authentication.
    UnauthenticatedBulkLength,
    /// The command is `POST` or `Host:`: HTTP, perhaps sent by a web page on an attacker's behalf.
    CrossProtocol,
}

impl ProtocolError {
    /// The error reply, byte for byte as a server sends it before it closes the connection. Empty for
    /// [`Self::CrossProtocol`]: then the connection is closed at once, and Redis also drops replies still unsent.
    pub fn reply(self) -> Cow<'static, [u8]> {
        Cow::Borrowed(match self {
            Self::InvalidMultibulkLength => b"-ERR Protocol error: invalid multibulk length\r\n",
            Self::ExpectedDollar(got) => return Cow::Owned(expected_dollar(got)),
            Self::InvalidBulkLength => b"-ERR Protocol error: invalid bulk length\r\n",
            Self::UnbalancedQuotes => b"-ERR Protocol error: unbalanced quotes in request\r\n",
            Self::TooBigInline => b"-ERR Protocol error: too big inline request\r\n",
            Self::TooBigMultibulkCount => b"-ERR Protocol error: too big mbulk count string\r\n",
            Self::TooBigBulkCount => b"-ERR Protocol error: too big bulk count string\r\n",
            Self::UnauthenticatedMultibulkLength => b"-ERR Protocol error: unauthenticated multibulk length\r\n",
            Self::UnauthenticatedBulkLength => b"-ERR Protocol error: unauthenticated bulk length\r\n",
            Self::CrossProtocol => b"",
        })
    }
}

/// The byte stands in the reply as it came, but a line end, which would end the reply, becomes a space.
fn expected_dollar(got: u8) -> Vec<u8> {
    let shown = if matches!(got, b'\r' | b'\n') { b' ' } else { got };
    [b"-ERR Protocol error: expected '$', got '".as_slice(), &[shown], b"'\r\n"].concat()
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidMultibulkLength => f.write_str("invalid multibulk length"),
            Self::ExpectedDollar(got) => write!(f, "expected `$`, got `{}`", got.escape_ascii()),
            Self::InvalidBulkLength => f.write_str("invalid bulk length"),
            Self::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
            Self::TooBigInline => f.write_str("too big inline request"),
            Self::TooBigMultibulkCount => f.write_str("too big mbulk count string"),
            Self::TooBigBulkCount => f.write_str("too big bulk count string"),
            Self::UnauthenticatedMultibulkLength => f.write_str("unauthenticated multibulk length"),
            Self::UnauthenticatedBulkLength => f.write_str("unauthenticated bulk length"),
            Self::CrossProtocol => f.write_str("an HTTP request (`POST` or `Host:`)"),
        }
    }
}

impl std::error::Error for ProtocolError {}

#[cfg(test)]
mod tests;
