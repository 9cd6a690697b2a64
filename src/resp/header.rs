//! Header lines such as `*3\r\n` and `$16\r\n`: a type byte, a decimal number, CR and LF.
//!
//! Shared by requests and replies. [`short`] is the hot path and knows only what well-behaved peers send;
//! whatever it declines goes to its caller's exact (and slower) reading.

use std::num::NonZero;

/// Value and length (type byte to LF) of a header of `sort` at the start of `line`: one to nine digits, no sign, no
/// leading zero, CRLF exactly. `None` for anything else, an unfinished line included.
#[inline]
pub(super) fn short(sort: u8, line: &[u8]) -> Option<(u32, usize)> {
    // Nearly all headers have one or two digits and something behind them: one load and one comparison tell.
    let Some(&bytes) = line.first_chunk::<8>() else {
        return longer(sort, line).map(unpack);
    };
    let word = u64::from_le_bytes(bytes);
    let [_, first, second, ..] = bytes.map(|byte| u32::from(byte.wrapping_sub(b'0')));
    if word & mask(1) == shape(sort, 1) && first < 10 {
        return Some((first, 4));
    }
    if word & mask(2) == shape(sort, 2) && (1..10).contains(&first) && second < 10 {
        return Some((first * 10 + second, 5));
    }
    longer(sort, line).map(unpack)
}

/// The bytes of a little-endian word that are fixed in a header of so many digits.
#[inline]
const fn mask(digits: u32) -> u64 {
    0xff | 0xffff << (8 + 8 * digits)
}

/// What [`mask`] leaves of a header of `sort`.
#[inline]
const fn shape(sort: u8, digits: u32) -> u64 {
    sort as u64 | (b'\r' as u64) << (8 + 8 * digits) | (b'\n' as u64) << (16 + 8 * digits)
}

/// [`short`] without a short cut. Value and length come packed into one register (length above), for what comes back
/// through memory would make every header wait for it.
fn longer(sort: u8, line: &[u8]) -> Option<NonZero<u64>> {
    let (&first, text) = line.split_first()?;
    if first != sort {
        return None;
    }
    let mut value = 0;
    for (index, &byte) in text.iter().enumerate().take(10) {
        match byte {
            b'0' if index == 0 && text.get(1) != Some(&b'\r') => return None,
            b'0'..=b'9' if index < 9 => value = value * 10 + u64::from(byte - b'0'),
            b'\r' if index > 0 && text.get(index + 1) == Some(&b'\n') => {
                return NonZero::new((index as u64 + 3) << 32 | value);
            }
            _ => return None,
        }
    }
    None
}

/// Value and length out of what [`longer`] returns.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "each half is 32 bits")]
fn unpack(packed: NonZero<u64>) -> (u32, usize) {
    (packed.get() as u32, (packed.get() >> 32) as usize)
}

/// The number `text` spells as Redis writes it: no `+`, no leading zero, no `-0`, no space, within 64 bits.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let canonical = match text {
        b"0" => true,
        [b'-', b'1'..=b'9', rest @ ..] | [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    canonical.then_some(text).and_then(|text| str::from_utf8(text).ok()?.parse().ok())
}
