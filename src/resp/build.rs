//! Building replies: the few shapes that the proxy answers with itself.
//!
//! Everything is appended to a buffer of the caller's, so that answering allocates nothing.

use std::fmt::Display;
use std::io::Write;

/// Appends a simple string; `text` must not contain line ends.
pub fn simple(text: &str, out: &mut Vec<u8>) {
    line(b'+', text.as_bytes(), out);
}

/// Appends an error line; `text` begins with its code. Line ends in it become spaces, as in Redis, because they would end
/// the reply.
pub fn error(text: impl AsRef<[u8]>, out: &mut Vec<u8>) {
    let start = out.len() + 1;
    line(b'-', text.as_ref(), out);
    let end = out.len() - 2;
    for byte in out.get_mut(start..end).unwrap_or_default() {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
}

/// Appends an integer.
pub fn integer(value: u64, out: &mut Vec<u8>) {
    number(b':', value, out);
}

/// Appends an integer that may be negative.
pub fn signed(value: i64, out: &mut Vec<u8>) {
    number(b':', value, out);
}

/// Appends what stands for a missing value.
pub fn nil(resp3: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" });
}

/// Appends what stands for a missing array.
pub fn nil_array(resp3: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if resp3 { b"_\r\n" } else { b"*-1\r\n" });
}

/// Appends a bulk string.
pub fn bulk(bytes: &[u8], out: &mut Vec<u8>) {
    number(b'$', bytes.len() as u64, out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends a verbatim text of RESP3.
pub fn verbatim(text: &[u8], out: &mut Vec<u8>) {
    number(b'=', text.len() as u64 + 4, out);
    out.extend_from_slice(b"txt:");
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

/// Appends the header of an array (`*`), map (`%`) or other aggregate of `count` elements or pairs.
pub fn aggregate(sort: u8, count: usize, out: &mut Vec<u8>) {
    number(sort, count as u64, out);
}

fn number(sort: u8, value: impl Display, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{}{value}\r\n", char::from(sort));
}

fn line(sort: u8, text: &[u8], out: &mut Vec<u8>) {
    out.push(sort);
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_a_whole_frame() {
        let mut out = Vec::new();
        simple("OK", &mut out);
        error("ERR two\r\nlines", &mut out);
        integer(7, &mut out);
        signed(-7, &mut out);
        nil(false, &mut out);
        nil(true, &mut out);
        nil_array(false, &mut out);
        nil_array(true, &mut out);
        bulk(b"a\r\nb", &mut out);
        verbatim(b"hi", &mut out);
        aggregate(b'%', 2, &mut out);
        assert_eq!(
            out,
            b"+OK\r\n-ERR two  lines\r\n:7\r\n:-7\r\n$-1\r\n_\r\n*-1\r\n_\r\n$4\r\na\r\nb\r\n=6\r\ntxt:hi\r\n%2\r\n"
        );
    }
}
