//! Replies: however a stream is cut, its frames are the same, and redis-protocol, where it understands them, ends them
//! in the same place.
//!
//! `cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none reply -- -max_total_time=600`
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::resp::reply::{Advance, Kind, ReplyError, ReplyScanner};
use redis_protocol::{resp2, resp3};

// The first byte chooses the size of the pieces, the others are the stream.
fuzz_target!(|input: &[u8]| {
    let Some((&step, stream)) = input.split_first() else {
        return;
    };
    let (frames, end) = feed(stream, stream.len());
    assert_eq!(feed(stream, usize::from(step) + 1), (frames.clone(), end));
    assert_eq!(feed(stream, 1), (frames.clone(), end));
    let mut rest = stream;
    for (len, _) in frames {
        agree(rest, Some(len));
        rest = &rest[len..];
    }
    if end == Ok(false) {
        agree(rest, None);
    }
});

/// The frames of `stream` as (length, kind), arriving in pieces of `step` bytes, and whether it ended between two.
fn feed(stream: &[u8], step: usize) -> (Vec<(usize, Kind)>, Result<bool, ReplyError>) {
    let (mut scanner, mut frames, mut len) = (ReplyScanner::default(), Vec::new(), 0);
    for mut piece in stream.chunks(step.max(1)) {
        while !piece.is_empty() {
            match scanner.advance(piece) {
                Ok(Advance::Complete { taken, kind }) => {
                    frames.push((len + taken, kind));
                    (piece, len) = (&piece[taken..], 0);
                }
                Ok(Advance::More) => {
                    len += piece.len();
                    piece = &[];
                }
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, Ok(scanner.at_boundary()))
}

/// Where redis-protocol understands the frame at the start of `stream`, it must be `len` long, or unfinished.
fn agree(stream: &[u8], len: Option<usize>) {
    if let Ok(found) = resp2::decode::decode_range(stream) {
        assert_eq!(found.map(|(_, len)| len), len, "RESP2");
    }
    if let Ok(found) = resp3::decode::complete::decode_range(stream) {
        assert_eq!(found.map(|(_, len)| len), len, "RESP3");
    }
}
