//! What a client asked and what it heard, in words that a checker can judge without knowing any protocol.

use crate::support::{Frame, words};
use std::time::Duration;

/// The counter of client `n` begins at `n` times this, so that every number in it tells whose it is.
pub const COUNT_SPACING: u64 = 1_000_000_000;

/// How many entries of a list a read asks for: the last ones.
pub const WINDOW: usize = 8;

/// One client's story.
pub struct History {
    /// Its number.
    pub client: u64,
    /// In the order of the requests.
    pub events: Vec<Event>,
    /// It has written its list, its counter and its text only together, in transactions.
    pub is_whole: bool,
}

/// One request and its reply.
#[derive(Clone, Debug)]
pub struct Event {
    /// The request.
    pub asked: Asked,
    /// The reply.
    pub heard: Heard,
    /// From the request's last byte to the reply's.
    pub took: Duration,
    /// Whether Redis is known to have been well all the time.
    pub is_calm: bool,
}

/// A request, about a key of the client's own. Entries and texts are `CLIENT:ID`; the ids of one client grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// RPUSH of an entry of this id to the list.
    Append(u64),
    /// INCR of the counter.
    Count,
    /// SET of the text to that of this id.
    Put(u64),
    /// The last entries of the list.
    ReadList,
    /// GET of the counter.
    ReadCount,
    /// GET of the text.
    ReadText,
    /// GET of the text that never changes.
    ReadFixed,
}

impl Asked {
    /// The request of client `client`.
    pub fn request(self, client: u64) -> Vec<u8> {
        words(&match self {
            Self::Append(id) => format!("RPUSH list:{client} {client}:{id}"),
            Self::Count => format!("INCR count:{client}"),
            Self::Put(id) => format!("SET text:{client} {client}:{id}"),
            Self::ReadList => format!("LRANGE list:{client} -{WINDOW} -1"),
            Self::ReadCount => format!("GET count:{client}"),
            Self::ReadText => format!("GET text:{client}"),
            Self::ReadFixed => format!("GET fixed:{client}"),
        })
    }

    /// Whether it changes nothing.
    pub const fn is_read(self) -> bool {
        matches!(self, Self::ReadList | Self::ReadCount | Self::ReadText | Self::ReadFixed)
    }
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// `+OK`
    Done,
    /// An integer.
    Number(u64),
    /// A bulk string.
    Text(String),
    /// An array of bulk strings, of which there are some.
    Texts(Vec<String>),
    /// The text that never changes, as it was written.
    Fixed,
    /// What a server that holds nothing says.
    Nothing,
    /// `-UNAVAILABLE`: it did not run.
    Unavailable,
    /// `-INDETERMINATE`: it may have run.
    Indeterminate,
    /// The connection ended instead, after so many bytes of a reply.
    Closed(usize),
    /// The connection ended within a reply so long that what was passed on of it could not be taken back.
    Cut,
    /// Anything else.
    Strange(String),
}

impl Heard {
    /// What `reply` says to `asked`.
    pub fn of(asked: Asked, reply: &[u8], resp3: bool, fixed: &str) -> Self {
        let null: &[u8] = if resp3 { b"_\r\n" } else { b"$-1\r\n" };
        let frame = Frame::whole(reply);
        match (asked, frame.kind) {
            (_, b'-') if reply.starts_with(b"-UNAVAILABLE ") => Self::Unavailable,
            (_, b'-') if reply.starts_with(b"-INDETERMINATE ") => Self::Indeterminate,
            (Asked::Put(_), b'+') if frame.text == b"OK" => Self::Done,
            (Asked::Append(_) | Asked::Count, b':') => number(&frame.as_text()),
            (Asked::ReadCount | Asked::ReadText | Asked::ReadFixed, _) if reply == null => Self::Nothing,
            (Asked::ReadFixed, b'$') if frame.text == fixed.as_bytes() => Self::Fixed,
            (Asked::ReadCount, b'$') => number(&frame.as_text()),
            (Asked::ReadText, b'$') => Self::Text(frame.as_text()),
            (Asked::ReadList, b'*') if reply == b"*0\r\n" => Self::Nothing,
            (Asked::ReadList, b'*') => Self::Texts(frame.items.iter().map(Frame::as_text).collect()),
            _ => Self::Strange(reply[..reply.len().min(100)].escape_ascii().to_string()),
        }
    }

    /// Whether Redis itself said it.
    pub const fn is_served(&self) -> bool {
        matches!(self, Self::Done | Self::Number(_) | Self::Text(_) | Self::Texts(_) | Self::Fixed)
    }

    /// Whether a write that heard it may have run, once, or not.
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Indeterminate | Self::Closed(_) | Self::Cut)
    }
}

fn number(text: &str) -> Heard {
    text.parse().map_or_else(|_| Heard::Strange(text.to_owned()), Heard::Number)
}
