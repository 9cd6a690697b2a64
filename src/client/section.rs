//! The section `# Outrigger` of `INFO`: what the proxy says of itself to whoever asks Redis.
//!
//! A server that is asked for a section it does not know leaves it out, so that ours can be added to any reply, and
//! `INFO outrigger` gives it alone.

use std::fmt::Write as _;

use crate::command::keys::is;
use crate::resp::build;
use crate::resp::request::Args;
use crate::upstream::breaker::State;
use crate::upstream::{Outlook, Shared};
use crate::version;

/// Names of sections that ours belongs to.
const NAMES: [&[u8]; 4] = [b"outrigger", b"default", b"all", b"everything"];

const TITLE: &str = "# Outrigger\r\n";

/// True if this `INFO` asks for our section too.
pub(super) fn is_wanted(request: &[u8]) -> bool {
    let mut sections = Args::new(request).skip(1).peekable();
    sections.peek().is_none() || sections.any(|section| NAMES.iter().any(|name| is(section, name)))
}

/// Appends a section; the reply was made here if Redis cannot be asked.
pub(super) fn write(upstream: &Shared, degraded: bool, out: &mut String) {
    let Outlook { pool, breaker, .. } = upstream.outlook();
    let mut lines = vec![
        ("degraded", u64::from(degraded).to_string()),
        ("version", version::VERSION.to_owned()),
        ("breaker", breaker.state.to_owned()),
        ("breaker_seconds", format!("{:.0}", breaker.for_seconds)),
        ("upstream_connections", pool.used.to_string()),
        ("pool_size", pool.size.to_string()),
        ("leases", pool.leases.used.to_string()),
        ("lease_waiters", pool.leases.waiting.to_string()),
    ];
    // In general words, which name no addresses: any client may ask.
    lines.extend(upstream.obstacle().map(|obstacle| ("obstacle", obstacle.to_string())));
    out.push_str(TITLE);
    for (name, value) in lines {
        // Writing to a string cannot fail.
        let _ = write!(out, "outrigger_{name}:{value}\r\n");
    }
}

/// Appends what it says before anything is known.
pub(crate) fn write_unknown(out: &mut String) {
    // Writing to a string cannot fail.
    let _ = write!(out, "{TITLE}outrigger_degraded:1\r\noutrigger_breaker:{}\r\n", State::Open.label());
}

/// Appends a whole reply to `INFO` with our section in it; false if it is none, such as an error.
pub(super) fn add(reply: &[u8], upstream: &Shared, out: &mut Vec<u8>) -> bool {
    let Some((is_verbatim, text)) = text_of(reply) else { return false };
    let mut section = String::new();
    write(upstream, false, &mut section);
    // Who asks only for what the server does not have gets an empty line from it.
    let told = match text.trim_ascii_end() {
        [] => section.into_bytes(),
        text => [text, b"\r\n\r\n", section.as_bytes()].concat(),
    };
    match is_verbatim {
        true => build::verbatim(&told, out),
        false => build::bulk(&told, out),
    }
    true
}

/// The text of a bulk string, or of a verbatim one of RESP3.
fn text_of(reply: &[u8]) -> Option<(bool, &[u8])> {
    let is_verbatim = reply.starts_with(b"=");
    if !is_verbatim && !reply.starts_with(b"$") {
        return None;
    }
    let start = reply.iter().position(|byte| *byte == b'\n')? + 1;
    let text = reply.get(start..)?.strip_suffix(b"\r\n")?;
    Some((is_verbatim, if is_verbatim { text.strip_prefix(b"txt:")? } else { text }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::inline;

    fn request(words: &str) -> Vec<u8> {
        let mut request = Vec::new();
        inline::encode(words.split(' ').map(str::as_bytes), &mut request);
        request
    }

    #[test]
    fn it_is_added_where_it_is_asked_for() {
        for wanted in ["INFO", "info DEFAULT", "INFO all", "INFO everything", "INFO Outrigger", "INFO server outrigger"]
        {
            assert!(is_wanted(&request(wanted)), "{wanted}");
        }
        for unwanted in ["INFO server", "INFO replication keyspace"] {
            assert!(!is_wanted(&request(unwanted)), "{unwanted}");
        }
    }

    #[test]
    fn only_a_text_is_added_to() {
        assert_eq!(text_of(b"$5\r\na:1\r\n\r\n"), Some((false, b"a:1\r\n".as_slice())));
        assert_eq!(text_of(b"=9\r\ntxt:a:1\r\n\r\n"), Some((true, b"a:1\r\n".as_slice())));
        for other in [b"-NOPERM no\r\n".as_slice(), b"$-1\r\n", b"$5", b"", b"=9\r\nmkd:a:1\r\n\r\n", b"+OK\r\n"] {
            assert_eq!(text_of(other), None, "{}", other.escape_ascii());
        }
    }
}
