//! Rules one by one, then properties: cutting the stream anywhere changes nothing, what redis-protocol encodes is cut
//! where it ends, and no bytes whatever cause a panic.

use proptest::{collection::vec, prelude::*};
use redis_protocol::resp2::{
    decode, encode,
    types::{OwnedFrame, Resp2Frame},
};

use super::{Args, Form, Limits, ProtocolError, Request, RequestScanner};
use crate::resp::inline;

/// Scans `bytes` as if they had come at once: the first frame only.
fn first(bytes: &[u8]) -> Result<Option<Request>, ProtocolError> {
    RequestScanner::default().scan(bytes, &Limits::default())
}

fn whole(bytes: &[u8]) -> Request {
    first(bytes).unwrap().expect("a whole frame")
}

fn refused(bytes: &[u8]) -> String {
    String::from_utf8(first(bytes).expect_err("an error").reply().into_owned()).unwrap()
}

fn args(frame: &[u8]) -> Vec<Vec<u8>> {
    Args::new(frame).map(<[u8]>::to_vec).collect()
}

/// Frames up to the end of the stream, with what remains or the error that ends it.
type Outcome = (Vec<(Request, Vec<u8>)>, Result<Vec<u8>, ProtocolError>);

/// Feeds `stream` cut after each of `cuts` (taken modulo what remains), as a session with a buffer would.
fn feed(stream: &[u8], cuts: &[usize], limits: &Limits) -> Outcome {
    let (mut scanner, mut buffer, mut frames) = (RequestScanner::default(), Vec::new(), Vec::new());
    let mut rest = stream;
    let mut cuts = cuts.iter();
    while !rest.is_empty() {
        let cut = cuts.next().map_or(rest.len(), |cut| cut % rest.len() + 1);
        let (piece, tail) = rest.split_at(cut);
        buffer.extend_from_slice(piece);
        rest = tail;
        loop {
            match scanner.scan(&buffer, limits) {
                Ok(Some(request)) => {
                    frames.push((request, buffer.drain(..request.len).collect()));
                }
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, Ok(buffer))
}

#[test]
fn a_canonical_array_may_be_forwarded() {
    let bytes = b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000012\r\n*1\r\n";
    let request = whole(bytes);
    assert_eq!((request.len, request.argc, request.form), (bytes.len() - 4, 2, Form::Array));
    assert_eq!(request.name.of(bytes), b"GET");
    let frame = &bytes[..request.len];
    assert_eq!(Args::new(frame).len(), 2);
    assert_eq!(args(frame), [b"GET".to_vec(), b"key:000000000012".to_vec()]);
}

#[test]
fn empty_arguments_count() {
    let bytes = b"*2\r\n$0\r\n\r\n$0\r\n\r\n";
    assert_eq!(whole(bytes).form, Form::Array);
    assert_eq!(args(bytes), [b"", b""]);
}

#[test]
fn what_stands_where_crlf_should_is_skipped_but_not_forwarded() {
    for bytes in [b"*1\rX$4\r\nPING\r\n", b"*1\r\n$4\rYPING\r\n", b"*1\r\n$4\r\nPINGzz", b"*1\r\n$4\r\nPING\n\r"] {
        let request = whole(bytes);
        assert_eq!((request.len, request.form), (bytes.len(), Form::Loose));
        assert_eq!(request.name.of(bytes), b"PING");
        let mut canonical = Vec::new();
        inline::encode(Args::new(bytes), &mut canonical);
        assert_eq!(canonical, b"*1\r\n$4\r\nPING\r\n");
    }
}

#[test]
fn empty_requests_are_nothing() {
    for bytes in ["*0\r\n", "*-1\r\n", "*-5\r\n", "*-9223372036854775808\r\n", "\r\n", "\n", " \t\x0b\x0c\r \n"] {
        let request = whole(bytes.as_bytes());
        assert_eq!((request.len, request.argc, request.form), (bytes.len(), 0, Form::Empty));
    }
}

#[test]
fn a_line_is_an_inline_request() {
    for bytes in ["PING\n", "PING\r\n", "  set a 'b c'\r\n", "$4\r\n", "\"\"\n"] {
        let request = whole(bytes.as_bytes());
        assert_eq!((request.len, request.argc, request.form), (bytes.len(), 0, Form::Inline));
        assert_eq!(request.name.of(bytes.as_bytes()), b"");
    }
}

#[test]
fn counts_must_be_written_as_redis_writes_them() {
    for count in ["", "+1", "01", "-0", " 1", "1 ", "x", "-", "1048577", "2147483648", "99999999999999999999"] {
        let bytes = format!("*{count}\r\n");
        assert_eq!(refused(bytes.as_bytes()), "-ERR Protocol error: invalid multibulk length\r\n");
    }
    assert_eq!(first(b"*1048576\r\n"), Ok(None));
}

#[test]
fn lengths_must_be_written_as_redis_writes_them() {
    for len in ["", "+4", "04", "-1", "-0", "4 ", "x", "536870913", "99999999999999999999"] {
        let bytes = format!("*1\r\n${len}\r\nPING\r\n");
        assert_eq!(refused(bytes.as_bytes()), "-ERR Protocol error: invalid bulk length\r\n");
    }
    assert_eq!(first(b"*1\r\n$536870912\r\n"), Ok(None));
}

#[test]
fn a_value_begins_with_a_dollar() {
    assert_eq!(refused(b"*1\r\nfoo\r\n"), "-ERR Protocol error: expected '$', got 'f'\r\n");
    assert_eq!(refused(b"*1\r\n\r\n"), "-ERR Protocol error: expected '$', got ' '\r\n");
    assert_eq!(refused(b"*1\r\n\n\r\n"), "-ERR Protocol error: expected '$', got ' '\r\n");
    assert_eq!(first(b"*1\r\n\xff\r\n"), Err(ProtocolError::ExpectedDollar(0xff)));
    // The verdict waits for the end of the line and one byte more.
    assert_eq!(first(b"*1\r\nfoo\r"), Ok(None));
}

#[test]
fn a_line_must_end_in_time() {
    let limits = Limits { max_inline: 16, ..Limits::default() };
    for (start, error) in [
        ("", ProtocolError::TooBigInline),
        ("*", ProtocolError::TooBigMultibulkCount),
        ("*1\r\n$", ProtocolError::TooBigBulkCount),
    ] {
        let line = start.rfind(['*', '$']).unwrap_or(0);
        let bytes = format!("{start:a<width$}", width = line + 17);
        let scan = |bytes: &str| RequestScanner::default().scan(bytes.as_bytes(), &limits);
        assert_eq!(scan(&bytes[..bytes.len() - 1]), Ok(None));
        assert_eq!(scan(&bytes), Err(error));
        assert_eq!(scan(&format!("{bytes}\r\n")), Err(error));
    }
}

#[test]
fn a_nul_hides_the_end_of_a_line() {
    let limits = Limits { max_inline: 16, ..Limits::default() };
    for (bytes, error) in [
        (&b"PI\0NG\r\nPING\r\nPING\r\n"[..], ProtocolError::TooBigInline),
        (b"*1\0\r\n$4\r\nPING\r\n*1\r\n", ProtocolError::TooBigMultibulkCount),
        (b"*1\r\n$4\0\r\nPING\r\n*1\r\n$4\r\n", ProtocolError::TooBigBulkCount),
    ] {
        let mut scanner = RequestScanner::default();
        assert_eq!(scanner.scan(&bytes[..16], &limits), Ok(None));
        assert_eq!(scanner.scan(bytes, &limits), Err(error));
    }
}

#[test]
fn strangers_may_say_little() {
    let limits = Limits { authenticated: false, ..Limits::default() };
    let scan = |bytes: &[u8]| RequestScanner::default().scan(bytes, &limits);
    assert_eq!(scan(b"*10\r\n$16384\r\n"), Ok(None));
    assert_eq!(scan(b"*11\r\n"), Err(ProtocolError::UnauthenticatedMultibulkLength));
    assert_eq!(scan(b"*1\r\n$16385\r\n"), Err(ProtocolError::UnauthenticatedBulkLength));
    assert_eq!(scan(b"*1048577\r\n"), Err(ProtocolError::InvalidMultibulkLength));
}

#[test]
fn http_is_hung_up_on() {
    for name in ["post", "POST", "Host:", "hOsT:", "post\0x"] {
        let bytes = format!("*1\r\n${}\r\n{name}\r\n", name.len());
        assert_eq!(first(bytes.as_bytes()), Err(ProtocolError::CrossProtocol));
        assert!(ProtocolError::CrossProtocol.reply().is_empty());
    }
    for name in ["posts", "host", "Host:x", "GET"] {
        let bytes = format!("*1\r\n${}\r\n{name}\r\n", name.len());
        assert_eq!(whole(bytes.as_bytes()).form, Form::Array);
    }
}

#[test]
fn a_large_value_is_not_looked_at_again() {
    let head = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n";
    let mut scanner = RequestScanner::default();
    assert_eq!(scanner.scan(head, &Limits::default()), Ok(None));
    let len = head.len() + 1_000_002;
    assert_eq!(scanner.needed(), len);
    // Were the headers read again, these bytes would be refused.
    let mut buffer = vec![b'#'; len];
    assert_eq!(scanner.scan(&buffer[..len - 1], &Limits::default()), Ok(None));
    buffer[len - 2..].copy_from_slice(b"\r\n");
    let request = scanner.scan(&buffer, &Limits::default()).unwrap().unwrap();
    assert_eq!((request.len, request.form), (len, Form::Array));
    assert_eq!(scanner.needed(), 0);
}

#[test]
fn the_scanner_is_small() {
    assert!(size_of::<RequestScanner>() <= 32);
    assert!(size_of::<Request>() <= 24);
}

#[test]
fn args_of_other_bytes_are_few() {
    for bytes in [
        "",
        "PING\r\n",
        "*2\r\n",
        "*2\r\n$4\r\nPING\r\n",
        "*1\r\n$9\r\nPING\r\n",
        "*1\r\n$-1\r\n",
        "*9999999999999\r\n",
    ] {
        assert!(Args::new(bytes.as_bytes()).count() <= 1);
    }
}

/// Bytes that look like requests now and then.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "*", "$", "\r\n", "\r", "\n", "*1\r\n", "*2\r\n$1\r\na\r\n", "$3\r\nGET\r\n", "$0\r\n\r\n", "PING", "\0",
            "-1", "*0\r\n", " ", "\"", "post", "$4\r\n",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..4),
    ];
    vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn requests() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    let len = prop_oneof![9 => 0..20_usize, 1 => 90..1100_usize];
    let arg = len.prop_flat_map(|len| vec(any::<u8>(), len));
    vec(vec(arg, 1..14), 1..6)
}

fn encoded(request: &[Vec<u8>]) -> Vec<u8> {
    let frame = OwnedFrame::Array(request.iter().cloned().map(OwnedFrame::BulkString).collect());
    let mut bytes = vec![0; frame.encode_len(false)];
    encode::encode(&mut bytes, &frame, false).unwrap();
    bytes
}

proptest! {
    #[test]
    fn requests_end_where_they_were_encoded_to(requests in requests(), cuts in vec(any::<usize>(), 0..30)) {
        let frames: Vec<_> = requests.iter().map(|request| encoded(request)).collect();
        let (found, rest) = feed(&frames.concat(), &cuts, &Limits::default());
        prop_assert_eq!(rest, Ok(Vec::new()));
        prop_assert_eq!(found.len(), requests.len());
        for ((request, frame), (bytes, arguments)) in found.iter().zip(frames.iter().zip(&requests)) {
            prop_assert_eq!(request.form, Form::Array);
            prop_assert_eq!(frame, bytes);
            prop_assert_eq!(&args(frame), arguments);
            prop_assert_eq!(request.argc as usize, arguments.len());
            prop_assert_eq!(request.name.of(frame), &arguments[0]);
            let mut again = Vec::new();
            inline::encode(arguments.iter(), &mut again);
            prop_assert_eq!(&again, bytes);
        }
    }

    #[test]
    fn cutting_the_stream_changes_nothing(
        stream in noise(),
        cuts in vec(any::<usize>(), 0..30),
        max_inline in 16..40_usize,
        authenticated: bool,
    ) {
        let limits = Limits { max_inline, authenticated, ..Limits::default() };
        let at_once = feed(&stream, &[], &limits);
        prop_assert_eq!(&feed(&stream, &cuts, &limits), &at_once);
        prop_assert_eq!(&feed(&stream, &vec![0; stream.len()], &limits), &at_once);
    }

    #[test]
    fn a_canonical_frame_is_one_to_others_too(stream in noise()) {
        for (request, frame) in feed(&stream, &[], &Limits::default()).0 {
            if request.form == Form::Array {
                let (_, len) = decode::decode(&frame).unwrap().unwrap();
                prop_assert_eq!(len, frame.len());
            }
            if matches!(request.form, Form::Array | Form::Loose) {
                prop_assert_eq!(Args::new(&frame).count(), request.argc as usize);
            }
        }
    }

    #[test]
    fn no_bytes_cause_a_panic(stream in vec(any::<u8>(), 0..200), cuts in vec(any::<usize>(), 0..20)) {
        for (_, frame) in feed(&stream, &cuts, &Limits::default()).0 {
            drop(args(&frame));
            drop(inline::split(&frame));
        }
        drop(args(&stream));
    }
}
