//! Inline requests: a line of words as a person types them, with the quoting rules of redis-server up to 8, and the
//! canonical array that such a line, or an oddly terminated array, is forwarded as.
//!
//! Valkey 9 also lets quoted and bare stretches touch within a word (`a"b"c`); here, as in Redis, that is unbalanced.

use super::request::{ProtocolError, is_cross_protocol, is_space};

/// The words of an inline request, its line end included or not.
///
/// Words are separated by white space. `"…"` may hold `\xHH`, `\n`, `\r`, `\t`, `\b`, `\a` and `\` before any other
/// byte to mean that byte; `'…'` only `\'`. A closing quote ends the word.
///
/// # Errors
/// [`ProtocolError::UnbalancedQuotes`], and [`ProtocolError::CrossProtocol`] if the first word belongs to HTTP.
pub fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
    let mut rest = line.strip_suffix(b"\n").map_or(line, |line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut words = Vec::new();
    loop {
        while let [first, tail @ ..] = rest
            && is_space(*first)
        {
            rest = tail;
        }
        if rest.is_empty() {
            break;
        }
        let mut word = Vec::new();
        rest = bare(rest, &mut word).ok_or(ProtocolError::UnbalancedQuotes)?;
        words.push(word);
    }
    match words.first() {
        Some(name) if is_cross_protocol(name) => Err(ProtocolError::CrossProtocol),
        _ => Ok(words),
    }
}

/// Writes a request as a canonical array of bulk strings.
pub fn encode<A>(args: A, out: &mut Vec<u8>)
where
    A: Iterator<Item: AsRef<[u8]>> + Clone,
{
    header(b'*', args.clone().count(), out);
    for arg in args {
        let arg = arg.as_ref();
        header(b'$', arg.len(), out);
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

fn header(sort: u8, value: usize, out: &mut Vec<u8>) {
    out.push(sort);
    out.extend_from_slice(value.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Reads one word into `word` and returns what follows it, or `None` if a quote in it is unbalanced.
fn bare<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            // Not all of `is_space`: a vertical tab or form feed separates words only where a word might begin.
            [] | [b' ' | b'\t' | b'\r' | b'\n', ..] => return Some(rest),
            [b'"', tail @ ..] => return double_quoted(tail, word),
            [b'\'', tail @ ..] => return single_quoted(tail, word),
            [byte, tail @ ..] => {
                word.push(*byte);
                rest = tail;
            }
        }
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, tail) = match rest {
            [] => return None,
            [b'"', tail @ ..] => return closed(tail),
            [b'\\', b'x', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (nibble(*high) << 4 | nibble(*low), tail)
            }
            [b'\\', escaped, tail @ ..] => (unescape(*escaped), tail),
            [byte, tail @ ..] => (*byte, tail),
        };
        word.push(byte);
        rest = tail;
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, tail) = match rest {
            [] => return None,
            [b'\'', tail @ ..] => return closed(tail),
            [b'\\', b'\'', tail @ ..] => (b'\'', tail),
            [byte, tail @ ..] => (*byte, tail),
        };
        word.push(byte);
        rest = tail;
    }
}

/// After a closing quote there must be white space, or nothing.
fn closed(rest: &[u8]) -> Option<&[u8]> {
    rest.first().is_none_or(|&byte| is_space(byte)).then_some(rest)
}

/// What `\` before `byte` means within double quotes.
fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

/// The value of an ASCII hexadecimal digit.
fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests;
