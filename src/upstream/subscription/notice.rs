//! What a server says on a subscription connection: messages, acknowledgements, pongs and errors.
//!
//! The connection speaks RESP2, and the server writes these with the same few headers always, so they are told apart by
//! their first bytes.

use super::Sort;

/// One frame. Topics are as the server sent them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice<'a> {
    /// For those who subscribed to the topic: of a pattern it is the pattern, not the channel.
    Message(Sort, &'a [u8]),
    Subscribed(Sort, &'a [u8]),
    Unsubscribed(Sort, &'a [u8]),
    Pong,
    /// Its line, without the `-`.
    Error(&'a [u8]),
}

type Of = for<'a> fn(&'a [u8]) -> Notice<'a>;

/// How each begins that tells of a topic; the topic follows.
const HEADS: [(&[u8], Of); 9] = [
    (b"*3\r\n$7\r\nmessage\r\n", |topic| Notice::Message(Sort::Channel, topic)),
    (b"*4\r\n$8\r\npmessage\r\n", |topic| Notice::Message(Sort::Pattern, topic)),
    (b"*3\r\n$8\r\nsmessage\r\n", |topic| Notice::Message(Sort::Shard, topic)),
    (b"*3\r\n$9\r\nsubscribe\r\n", |topic| Notice::Subscribed(Sort::Channel, topic)),
    (b"*3\r\n$10\r\npsubscribe\r\n", |topic| Notice::Subscribed(Sort::Pattern, topic)),
    (b"*3\r\n$10\r\nssubscribe\r\n", |topic| Notice::Subscribed(Sort::Shard, topic)),
    (b"*3\r\n$11\r\nunsubscribe\r\n", |topic| Notice::Unsubscribed(Sort::Channel, topic)),
    (b"*3\r\n$12\r\npunsubscribe\r\n", |topic| Notice::Unsubscribed(Sort::Pattern, topic)),
    (b"*3\r\n$12\r\nsunsubscribe\r\n", |topic| Notice::Unsubscribed(Sort::Shard, topic)),
];

/// The pong of a connection that is subscribed, and of one that is not.
const PONGS: [&[u8]; 2] = [b"*2\r\n$4\r\npong\r\n$0\r\n\r\n", b"+PONG\r\n"];

impl<'a> Notice<'a> {
    /// Reads a whole frame, or enough of one to see its topic. `None`: nothing of this kind.
    pub(super) fn read(frame: &'a [u8]) -> Option<Self> {
        for (head, notice) in HEADS {
            if let Some(rest) = frame.strip_prefix(head) {
                return bulk(rest).map(notice);
            }
        }
        if let Some(line) = frame.strip_prefix(b"-") {
            return line.strip_suffix(b"\r\n").map(Notice::Error);
        }
        PONGS.contains(&frame).then_some(Notice::Pong)
    }
}

/// The bulk string that `bytes` begin with.
fn bulk(bytes: &[u8]) -> Option<&[u8]> {
    let text = bytes.strip_prefix(b"$")?;
    let end = text.iter().position(|&byte| byte == b'\r')?;
    let len: usize = std::str::from_utf8(text.get(..end)?).ok()?.parse().ok()?;
    text.get(end + 2..)?.get(..len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_by_its_first_bytes() {
        let read = |text: &'static str| Notice::read(text.as_bytes());
        assert_eq!(
            read("*3\r\n$7\r\nmessage\r\n$3\r\na\rb\r\n$2\r\nhi\r\n"),
            Some(Notice::Message(Sort::Channel, b"a\rb"))
        );
        let patterned = "*4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$2\r\nab\r\n$0\r\n\r\n";
        assert_eq!(read(patterned), Some(Notice::Message(Sort::Pattern, b"a*")));
        assert_eq!(read("*3\r\n$9\r\nsubscribe\r\n$0\r\n\r\n:1\r\n"), Some(Notice::Subscribed(Sort::Channel, b"")));
        assert_eq!(
            read("*3\r\n$12\r\nsunsubscribe\r\n$1\r\ns\r\n:0\r\n"),
            Some(Notice::Unsubscribed(Sort::Shard, b"s"))
        );
        assert_eq!(read("*2\r\n$4\r\npong\r\n$0\r\n\r\n"), Some(Notice::Pong));
        assert_eq!(read("+PONG\r\n"), Some(Notice::Pong));
        assert_eq!(read("-NOPERM no\r\n"), Some(Notice::Error(b"NOPERM no")));
    }

    #[test]
    fn anything_else_is_none_of_them() {
        for text in [
            "+OK\r\n",
            ":1\r\n",
            "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n",
            "*2\r\n$7\r\nmessage\r\n$1\r\na\r\n",
            ">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n",
            "*2\r\n$4\r\npong\r\n$1\r\nx\r\n",
        ] {
            assert_eq!(Notice::read(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_topic_of_a_long_message_is_seen_before_its_end() {
        let begun = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1000000\r\nxxxx";
        assert_eq!(Notice::read(begun), Some(Notice::Message(Sort::Channel, b"a")));
        assert_eq!(Notice::read(b"*3\r\n$7\r\nmessage\r\n$10\r\nabc"), None);
    }
}
