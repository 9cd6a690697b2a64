//! Requests: however a stream is cut, its frames are the same; a canonical frame ends where redis-protocol says; what
//! is rewritten reads back as it was.
//!
//! `cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none request -- -max_total_time=600`
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::resp::{
    inline,
    request::{Args, Form, Limits, ProtocolError, Request, RequestScanner},
};
use redis_protocol::resp2::decode::decode_range;

// The first bytes choose the limits and the sizes of the pieces, the others are the stream.
fuzz_target!(|input: &[u8]| {
    let Some((&[settings, step], stream)) = input.split_first_chunk::<2>() else {
        return;
    };
    let limits = Limits {
        max_inline: 16 + usize::from(settings >> 4) * 8,
        max_bulk: if settings & 1 == 0 { 512 * 1024 * 1024 } else { 32 * 1024 },
        max_args: if settings & 2 == 0 { 1024 * 1024 } else { 4 },
        authenticated: settings & 4 == 0,
    };
    let (frames, end) = feed(stream, stream.len(), &limits);
    assert_eq!(feed(stream, usize::from(step) + 1, &limits), (frames.clone(), end));
    assert_eq!(feed(stream, 1, &limits), (frames.clone(), end));
    let mut at = 0;
    for request in frames {
        check(&request, &stream[at..][..request.len]);
        at += request.len;
    }
});

/// The frames of `stream`, arriving in pieces of `step` bytes, and the error that ends it, if one does.
fn feed(stream: &[u8], step: usize, limits: &Limits) -> (Vec<Request>, Option<ProtocolError>) {
    let (mut scanner, mut frames, mut start) = (RequestScanner::default(), Vec::new(), 0);
    let mut arrived = 0;
    while arrived < stream.len() {
        arrived = (arrived + step).min(stream.len());
        loop {
            match scanner.scan(&stream[start..arrived], limits) {
                Ok(Some(request)) => {
                    assert!(request.len <= arrived - start);
                    frames.push(request);
                    start += request.len;
                }
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fn check(request: &Request, frame: &[u8]) {
    match request.form {
        Form::Empty => {}
        Form::Inline => {
            if let Ok(words) = inline::split(frame) {
                assert!(!words.is_empty());
                rewritten(words.iter());
            }
        }
        Form::Array | Form::Loose => {
            let args = Args::new(frame);
            assert_eq!(args.clone().count(), request.argc as usize);
            assert_eq!(args.clone().next(), Some(request.name.of(frame)));
            let canonical = rewritten(args);
            assert_eq!(canonical == frame, request.form == Form::Array);
        }
    }
}

/// The canonical form of `args`, which must be one frame of the same arguments, to redis-protocol too.
fn rewritten<A>(args: A) -> Vec<u8>
where
    A: Iterator<Item: AsRef<[u8]>> + Clone,
{
    let mut frame = Vec::new();
    inline::encode(args.clone(), &mut frame);
    assert!(Args::new(&frame).eq(args.map(|arg| arg.as_ref().to_vec())));
    let decoded = decode_range(&frame).expect("redis-protocol reads what was written");
    assert_eq!(decoded.map(|(_, len)| len), Some(frame.len()));
    frame
}
