//! Reading replies: where a frame ends, and what it holds. All types of RESP2 and RESP3, without streamed ones.
//!
//! Written apart from the proxy's scanner on purpose: a mistake there must not be repeated by its judge.

use std::fmt;

/// One reply as a tree.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frame {
    /// The type byte: `+ - : $ * _ # , ( ! = % ~ > |`.
    pub kind: u8,
    /// The payload of a leaf; the announced length of a null in RESP2 (`-1`); empty for aggregates.
    pub text: Vec<u8>,
    /// The members of an aggregate; keys and values of a map alternate.
    pub items: Vec<Self>,
}

impl Frame {
    /// The first frame of `bytes` and its length, or `None` while it is incomplete. Panics on what is no RESP.
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let (line, mut end) = first_line(bytes)?;
        let (kind, rest) = (line[0], &line[1..]);
        let mut frame = Self { kind, text: Vec::new(), items: Vec::new() };
        match kind {
            b'$' | b'=' | b'!' if rest != b"-1" => {
                let payload = number(rest);
                frame.text = bytes.get(end..end + payload)?.to_vec();
                end += payload + 2;
            }
            b'*' | b'~' | b'>' | b'%' | b'|' if rest != b"-1" => {
                for _ in 0..members(kind, rest) {
                    let (item, length) = Self::parse(&bytes[end..])?;
                    frame.items.push(item);
                    end += length;
                }
            }
            _ => frame.text = rest.to_vec(),
        }
        (end <= bytes.len()).then_some((frame, end))
    }

    /// The frame that `bytes` are, wholly.
    pub fn whole(bytes: &[u8]) -> Self {
        match Self::parse(bytes) {
            Some((frame, length)) if length == bytes.len() => frame,
            _ => panic!("not exactly one reply: {:?}", bytes.escape_ascii().to_string()),
        }
    }

    /// The payload as text.
    pub fn as_text(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }

    /// Whether this is an error reply.
    pub const fn is_error(&self) -> bool {
        matches!(self.kind, b'-' | b'!')
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}", char::from(self.kind), self.text.escape_ascii())?;
        if self.items.is_empty() { Ok(()) } else { out.debug_list().entries(&self.items).finish() }
    }
}

/// The length of the first frame of `bytes`, or `None` while it is incomplete. Copies nothing. Panics on what is no RESP.
pub fn length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut due = 1;
    while due > 0 {
        let (line, end) = first_line(bytes.get(at..)?)?;
        let (kind, rest) = (line[0], &line[1..]);
        at += end;
        due -= 1;
        match kind {
            b'$' | b'=' | b'!' if rest != b"-1" => at += number(rest) + 2,
            b'*' | b'~' | b'>' | b'%' | b'|' if rest != b"-1" => due += members(kind, rest),
            _ => {}
        }
    }
    (at <= bytes.len()).then_some(at)
}

/// The header line of a frame without its end, and where the next byte is.
fn first_line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    if let Some(&kind) = bytes.first() {
        assert!(b"+-:$*_#,(!=%~>|".contains(&kind), "no RESP: {:?}", start_of(bytes));
    }
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&bytes[..end], end + 2))
}

/// How many frames follow the header of an aggregate; an attribute also drags along the frame it speaks of.
fn members(kind: u8, text: &[u8]) -> usize {
    match kind {
        b'%' => number(text) * 2,
        b'|' => number(text) * 2 + 1,
        _ => number(text),
    }
}

fn number(text: &[u8]) -> usize {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no length: {:?}", start_of(text)))
}

/// The first bytes, fit for a message.
fn start_of(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(200)].escape_ascii().to_string()
}
