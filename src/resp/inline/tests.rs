//! The quoting rules, and that what is encoded can be read back.

use proptest::{collection::vec, prelude::*};

use super::{encode, split};
use crate::resp::request::{Args, ProtocolError};

#[track_caller]
fn words(line: &[u8], expected: &[&[u8]]) {
    assert_eq!(split(line).as_deref(), Ok(&*expected.iter().map(|w| w.to_vec()).collect::<Vec<_>>()));
}

#[test]
fn words_are_separated_by_white_space() {
    words(b"SET a b\r\n", &[b"SET", b"a", b"b"]);
    words(b"  SET\ta \r b  \n", &[b"SET", b"a", b"b"]);
    words(b"PING\r\r\n", &[b"PING"]);
    words(b"PING", &[b"PING"]);
    words(b" \r\n", &[]);
    // A vertical tab is skipped before a word but does not end one.
    words(b"PING \x0b\x0ca\x0b\r\n", &[b"PING", b"a\x0b"]);
}

#[test]
fn double_quotes_know_escapes() {
    words(br#"PING "\x41\xfF\n\r\t\b\a\q\xzz\x4" "#, &[b"PING", b"A\xff\n\r\t\x08\x07qxzzx4"]);
    words(br#""a b" "" "\"" "\\""#, &[b"a b", b"", b"\"", b"\\"]);
}

#[test]
fn single_quotes_know_one_escape() {
    words(br"'a b' '' '\'' '\n' '\\a'", &[b"a b", b"", b"'", br"\n", br"\\a"]);
}

#[test]
fn bare_words_know_none() {
    words(br"PING \x41", &[b"PING", br"\x41"]);
    words(b"a\"b c\" d'e f'", &[b"ab c", b"de f"]);
}

#[test]
fn quotes_must_close_and_end_the_word() {
    for line in
        [r#"PING "a"#, "PING 'a", r#"PING "a"b"#, "PING 'a'b", r#"PING "\""#, r"'\'", r"'\\'", "\"a\r\n", r#""\"#]
    {
        assert_eq!(split(line.as_bytes()), Err(ProtocolError::UnbalancedQuotes), "{line}");
    }
}

#[test]
fn http_is_hung_up_on() {
    for line in ["POST / HTTP/1.1\r\n", "host: example\r\n", "\"post\"\n"] {
        assert_eq!(split(line.as_bytes()), Err(ProtocolError::CrossProtocol));
    }
    assert_eq!(split(b"POST '\r\n"), Err(ProtocolError::UnbalancedQuotes));
    words(b"GET post\r\n", &[b"GET", b"post"]);
    words(b"Host:x\r\n", &[b"Host:x"]);
}

proptest! {
    #[test]
    fn what_is_quoted_reads_back(texts in vec(vec(any::<u8>(), 0..10), 0..5)) {
        let mut line = b"PING".to_vec();
        for text in &texts {
            line.extend_from_slice(b" \"");
            line.extend(text.iter().flat_map(|byte| format!("\\x{byte:02x}").into_bytes()));
            line.push(b'"');
        }
        let read = split(&line).unwrap();
        prop_assert_eq!(&read[1..], &texts);
        let mut array = Vec::new();
        encode(read.iter(), &mut array);
        prop_assert!(Args::new(&array).eq(read.iter()));
    }

    #[test]
    fn no_line_causes_a_panic(line in r#"([ -~\r\n]|["'\\x4 ])*"#) {
        drop(split(line.as_bytes()));
    }
}
