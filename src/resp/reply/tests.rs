//! Each type, right and wrong, then properties: cutting the stream anywhere changes nothing, boundaries are those of
//! redis-protocol, and no bytes whatever cause a panic.

use proptest::{collection::vec, prelude::*};
use redis_protocol::{
    resp2,
    resp3::{self, types::Resp3Frame},
};

use super::{Advance, Kind, MAX_DEPTH, ReplyError, ReplyScanner};

/// Frames as (length, kind), then whether the stream ended between two, or the error that ended it.
type Outcome = (Vec<(usize, Kind)>, Result<bool, ReplyError>);

/// Feeds `stream` cut after each of `cuts` (taken modulo what remains).
fn feed(stream: &[u8], cuts: &[usize]) -> Outcome {
    let (mut scanner, mut frames, mut len) = (ReplyScanner::default(), Vec::new(), 0);
    let mut rest = stream;
    let mut cuts = cuts.iter();
    while !rest.is_empty() {
        let cut = cuts.next().map_or(rest.len(), |cut| cut % rest.len() + 1);
        let (mut piece, tail) = rest.split_at(cut);
        rest = tail;
        while !piece.is_empty() {
            match scanner.advance(piece) {
                Ok(Advance::Complete { taken, kind }) => {
                    frames.push((len + taken, kind));
                    (piece, len) = (&piece[taken..], 0);
                    assert!(scanner.at_boundary());
                }
                Ok(Advance::More) => {
                    len += piece.len();
                    piece = &[];
                    assert!(!scanner.at_boundary());
                }
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, Ok(scanner.at_boundary()))
}

/// `stream` is one reply of `kind`, at once and byte by byte.
#[track_caller]
fn one(stream: &str, kind: Kind) {
    let expected = (vec![(stream.len(), kind)], Ok(true));
    assert_eq!(feed(stream.as_bytes(), &[]), expected, "{stream:?}");
    assert_eq!(feed(stream.as_bytes(), &vec![0; stream.len()]), expected, "{stream:?} byte by byte");
}

/// `stream` is refused, at once and byte by byte.
#[track_caller]
fn refused(stream: &str, error: ReplyError) {
    let expected = (Vec::new(), Err(error));
    assert_eq!(feed(stream.as_bytes(), &[]), expected, "{stream:?}");
    assert_eq!(feed(stream.as_bytes(), &vec![0; stream.len()]), expected, "{stream:?} byte by byte");
}

#[test]
fn scalars() {
    one("+OK\r\n", Kind::Simple);
    one("+\r\n", Kind::Simple);
    one("-ERR no\r\n", Kind::Error);
    for number in ["0", "-1", "+5", "9223372036854775807", "-9223372036854775808", "18446744073709551615"] {
        one(&format!(":{number}\r\n"), Kind::Integer);
    }
    one("_\r\n", Kind::Null);
    one("#t\r\n", Kind::Boolean);
    one("#f\r\n", Kind::Boolean);
    for double in ["0", "-1.5", "1e+300", "inf", "-inf", "nan", "-nan"] {
        one(&format!(",{double}\r\n"), Kind::Double);
    }
    one("(3492890328409238509324850943850943825024385\r\n", Kind::BigNumber);
    // A script's "big number" is any text it likes.
    one("(12 \0ab\r\n", Kind::BigNumber);
}

#[test]
fn values() {
    one("$0\r\n\r\n", Kind::Bulk);
    one("$5\r\na\r\n\r\n\r\n", Kind::Bulk);
    one("$-1\r\n", Kind::Bulk);
    one("!10\r\nSYNTAX bad\r\n", Kind::BlobError);
    one("=8\r\ntxt:abcd\r\n", Kind::Verbatim);
    one("=4\r\ntxt:\r\n", Kind::Verbatim);
    one(&format!("$1000\r\n{:1000}\r\n", ""), Kind::Bulk);
}

#[test]
fn aggregates() {
    one("*0\r\n", Kind::Array);
    one("*-1\r\n", Kind::Array);
    one("*3\r\n:1\r\n$1\r\na\r\n*2\r\n+a\r\n*0\r\n", Kind::Array);
    one("%2\r\n+a\r\n:1\r\n+b\r\n%0\r\n", Kind::Map);
    one("~2\r\n+a\r\n_\r\n", Kind::Set);
    one(">2\r\n+message\r\n*1\r\n*1\r\n*0\r\n", Kind::Push);
}

#[test]
fn an_attribute_belongs_to_what_follows() {
    one("|1\r\n+ttl\r\n:3\r\n$1\r\na\r\n", Kind::Bulk);
    one("|1\r\n*1\r\n+a\r\n%1\r\n+b\r\n+c\r\n|0\r\n|1\r\n+x\r\n+y\r\n*0\r\n", Kind::Array);
    one("*2\r\n|1\r\n+ttl\r\n:3\r\n:1\r\n:2\r\n", Kind::Array);
    one("*1\r\n|0\r\n:1\r\n", Kind::Array);
    one("|1\r\n+a\r\n+b\r\n>1\r\n+c\r\n", Kind::Push);
}

#[test]
fn replies_follow_each_other() {
    let stream = b"+OK\r\n$1\r\na\r\n>1\r\n+x\r\n:1\r";
    let (frames, end) = feed(stream, &[]);
    assert_eq!(frames, [(5, Kind::Simple), (7, Kind::Bulk), (8, Kind::Push)]);
    assert_eq!(end, Ok(false));
}

#[test]
fn nothing_is_no_beginning() {
    let mut scanner = ReplyScanner::default();
    assert_eq!(scanner.advance(b""), Ok(Advance::More));
    assert!(scanner.at_boundary());
}

#[test]
fn other_types_are_refused() {
    refused("x\r\n", ReplyError::Type(b'x'));
    refused("\r\n", ReplyError::Type(b'\r'));
    refused("\n", ReplyError::Type(b'\n'));
    refused("*1\r\nHELLO 3\r\n", ReplyError::Type(b'H'));
}

#[test]
fn lines_and_values_end_with_crlf() {
    for stream in [
        "+a\nb\r\n",
        "+a\rb\r\n",
        "+a\r\r\n",
        "-\n",
        "(1\n",
        ",1\rx",
        ":1\n",
        ":1\r2\r\n",
        "#t\rx",
        "_\n",
        "$1\n",
        "$1\ra",
        "*1\n",
        "$1\r\nab\r\n",
        "$1\r\na\n\n",
        "$1\r\na\r\r",
        "$0\r\nab",
        "=4\r\ntxt:x\n",
    ] {
        refused(stream, ReplyError::Terminator);
    }
}

#[test]
fn headers_are_what_servers_write() {
    for stream in [
        ":\r\n",
        ":-\r\n",
        ":1a\r\n",
        ":123456789012345678901\r\n",
        "#\r\n",
        "#x\r\n",
        "#1\r\n",
        "#true\r\n",
        "_0\r\n",
        "_x\r\n",
        "$\r\n",
        "$+1\r\n",
        "$01\r\n",
        "$-2\r\n",
        "$1 \r\n",
        "$1099511627777\r\n",
        "$99999999999999999999\r\n",
        "!-1\r\n",
        "=3\r\ntxt\r\n",
        "=-1\r\n",
        "*-2\r\n",
        "*01\r\n",
        "*2147483648\r\n",
        "%-1\r\n",
        "~-1\r\n",
        ">-1\r\n",
        "|-1\r\n",
        "$000000000000000000000000000\r\n",
    ] {
        refused(stream, ReplyError::Header);
    }
    refused(",1 2\r\n", ReplyError::Double);
    refused(",0x1\r\n", ReplyError::Double);
}

#[test]
fn streams_are_refused() {
    for stream in ["$?\r\n", "*?\r\n", "%?\r\n", "~?\r\n", ">?\r\n", "|?\r\n", ";1\r\na\r\n", "*1\r\n.\r\n"] {
        refused(stream, ReplyError::Streamed);
    }
}

#[test]
fn nesting_is_bounded() {
    one(&("*1\r\n".repeat(MAX_DEPTH) + ":1\r\n"), Kind::Array);
    refused(&"*1\r\n".repeat(MAX_DEPTH + 1), ReplyError::TooDeep);
    refused(&"|1\r\n".repeat(MAX_DEPTH + 1), ReplyError::TooDeep);
    // Many levels one after the other are not deep.
    one(&format!("*1000\r\n{}", "*1\r\n*1\r\n:1\r\n".repeat(1000)), Kind::Array);
    refused("*1\r\n>1\r\n+a\r\n", ReplyError::NestedPush);
}

#[test]
fn announced_counts_cost_nothing() {
    let mut scanner = ReplyScanner::default();
    for header in ["*2147483647\r\n", "%2147483647\r\n", "$1099511627776\r\n"] {
        assert_eq!(scanner.advance(header.as_bytes()), Ok(Advance::More));
    }
    assert!(scanner.parents.capacity() <= 4);
}

#[test]
fn errors_say_what_is_wrong() {
    assert_eq!(ReplyError::Type(b'\n').to_string(), r"no reply begins with `\n`");
}

/// Any reply that redis-protocol can build, with the number of levels as bound.
fn replies() -> impl Strategy<Value = resp3::types::OwnedFrame> {
    use resp3::types::{OwnedFrame as F, VerbatimStringFormat};
    let none = || None;
    let hashable = prop_oneof![
        vec(any::<u8>(), 0..20).prop_map(move |data| F::BlobString { data, attributes: none() }),
        any::<i64>().prop_map(move |data| F::Number { data, attributes: none() }),
        "[ -~]{0,20}".prop_map(move |data| F::SimpleString { data: data.into(), attributes: none() }),
    ];
    let key = hashable.clone();
    let leaf = prop_oneof![
        4 => hashable,
        1 => vec(any::<u8>(), 900..1100).prop_map(move |data| F::BlobString { data, attributes: none() }),
        1 => "[ -~]{0,20}".prop_map(move |data| F::SimpleError { data, attributes: none() }),
        1 => vec(any::<u8>(), 0..20).prop_map(move |data| F::BlobError { data, attributes: none() }),
        1 => any::<bool>().prop_map(move |data| F::Boolean { data, attributes: none() }),
        1 => Just(F::Null),
        1 => any::<f64>().prop_map(move |data| F::Double { data, attributes: none() }),
        1 => "-?[0-9]{1,30}".prop_map(move |data| F::BigNumber { data: data.into(), attributes: none() }),
        1 => vec(any::<u8>(), 0..20).prop_map(move |data| F::VerbatimString {
            data, format: VerbatimStringFormat::Text, attributes: none(),
        }),
    ];
    leaf.prop_recursive(5, 60, 8, move |inner| {
        let pairs = vec((key.clone(), inner.clone()), 0..4);
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(move |data| F::Array { data, attributes: none() }),
            pairs.clone().prop_map(move |data| F::Map { data: data.into_iter().collect(), attributes: none() }),
            vec(key.clone(), 0..8)
                .prop_map(move |data| F::Set { data: data.into_iter().collect(), attributes: none() }),
            (vec(inner, 0..4), pairs)
                .prop_map(|(data, attributes)| F::Array { data, attributes: Some(attributes.into_iter().collect()) }),
        ]
    })
}

fn encoded(frame: &resp3::types::OwnedFrame) -> Vec<u8> {
    let mut bytes = vec![0; frame.encode_len(false)];
    let len = resp3::encode::complete::encode(&mut bytes, frame, false).unwrap();
    bytes.truncate(len);
    bytes
}

/// Bytes that look like replies now and then.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => prop::sample::select(vec![
            "+OK\r\n", "-ERR\r\n", ":12\r\n", "$3\r\nabc\r\n", "$-1\r\n", "*-1\r\n", "*2\r\n", "%1\r\n", "~1\r\n",
            "|1\r\n", "_\r\n", "#t\r\n", ",1.5\r\n", "(12\r\n", "=5\r\ntxt:a\r\n", "!1\r\na\r\n", "*0\r\n",
            "$0\r\n\r\n", ":-3\r\n",
        ]),
        1 => prop::sample::select(vec![
            "\r\n", "\r", "\n", "$", "*", "?", ">1\r\n", "1", "$100\r\n", "*3\r\n", "-", ",x", "H",
        ]),
    ];
    vec(piece, 0..30).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #[test]
    fn replies_end_where_they_were_encoded_to(replies in vec(replies(), 1..5), cuts in vec(any::<usize>(), 0..40)) {
        let frames: Vec<_> = replies.iter().map(encoded).collect();
        let lens: Vec<_> = frames.iter().map(Vec::len).collect();
        for cuts in [&cuts[..], &[]] {
            let (found, end) = feed(&frames.concat(), cuts);
            prop_assert_eq!(end, Ok(true));
            prop_assert_eq!(found.iter().map(|(len, _)| *len).collect::<Vec<_>>(), lens.clone());
        }
    }

    #[test]
    fn cutting_the_stream_changes_nothing(stream in noise(), cuts in vec(any::<usize>(), 0..40)) {
        let at_once = feed(&stream, &[]);
        let (frames, end) = feed(&stream, &cuts);
        prop_assert_eq!(&feed(&stream, &vec![0; stream.len()]).0, &frames);
        prop_assert_eq!((frames, end), at_once);
    }

    #[test]
    fn boundaries_are_redis_protocols(stream in noise()) {
        let mut scanner = ReplyScanner::default();
        let Ok(ours) = scanner.advance(&stream) else { return Ok(()) };
        let others = [
            resp2::decode::decode(&stream).map(|found| found.map(|(_, len)| len)),
            resp3::decode::complete::decode(&stream).map(|found| found.map(|(_, len)| len)),
        ];
        // Either may refuse what it does not know, but they must not disagree about an end.
        for other in others.into_iter().flatten() {
            let expected = match ours {
                Advance::Complete { taken, .. } => Some(taken),
                Advance::More => None,
            };
            prop_assert_eq!(other, expected);
        }
    }

    #[test]
    fn no_bytes_cause_a_panic(stream in vec(any::<u8>(), 0..200), cuts in vec(any::<usize>(), 0..20)) {
        drop(feed(&stream, &cuts));
    }
}
