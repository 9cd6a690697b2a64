//! How long a blocking request is ready to wait, and where it says so.

use std::time::Duration;

use super::keys::place_of_block;
use super::table::Command;

/// What a request says about its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout {
    /// Which argument says so; the name is argument 0.
    pub at: usize,
    /// In which unit.
    pub unit: Unit,
    /// How long it waits; none if for ever.
    pub length: Option<Duration>,
}

/// The unit of a timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds, perhaps with decimals.
    Seconds,
    /// Whole milliseconds.
    Milliseconds,
}

impl Timeout {
    /// The argument that stands for `left` in its place. Not 0, which would be for ever.
    #[must_use]
    pub fn text(self, left: Duration) -> String {
        let millis = left.as_millis().max(1);
        match self.unit {
            Unit::Seconds => format!("{}.{:03}", millis / 1000, millis % 1000),
            Unit::Milliseconds => millis.to_string(),
        }
    }
}

/// The timeout of a request that blocks; none if it says none that is valid, so that the server will refuse it at once.
pub fn timeout<'a>(command: &Command, args: &(impl Iterator<Item = &'a [u8]> + Clone)) -> Option<Timeout> {
    let count = args.clone().count();
    let (at, unit) = match command.name {
        "blmpop" | "bzmpop" => (1, Unit::Seconds),
        "blmovem" => (5, Unit::Seconds),
        "wait" => (2, Unit::Milliseconds),
        "waitaof" => (3, Unit::Milliseconds),
        "xread" | "xreadgroup" | "ts.read" => (place_of_block(command, args.clone())?, Unit::Milliseconds),
        // It stands last in the commands of lists and sorted sets.
        _ => (count.checked_sub(1)?, Unit::Seconds),
    };
    let text = std::str::from_utf8(args.clone().nth(at)?).ok()?;
    let seconds = match unit {
        Unit::Seconds => text.parse::<f64>().ok()?,
        Unit::Milliseconds => f64::from(u32::try_from(text.parse::<i64>().ok()?).ok()?) / 1000.0,
    };
    let length = Duration::try_from_secs_f64(seconds).ok()?;
    Some(Timeout { at, unit, length: Some(length).filter(|length| !length.is_zero()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::table;

    fn of(words: &str) -> Option<(usize, Option<u128>)> {
        let args: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        let command = table::of_request(args.iter().copied()).expect("known");
        timeout(command, &args.iter().copied()).map(|found| (found.at, found.length.map(|length| length.as_millis())))
    }

    #[test]
    fn every_blocking_command_says_it_somewhere() {
        assert_eq!(of("BLPOP a b 1.5"), Some((3, Some(1500))));
        assert_eq!(of("BRPOPLPUSH a b 0"), Some((3, None)));
        assert_eq!(of("BLMOVE a b LEFT RIGHT 0.001"), Some((5, Some(1))));
        assert_eq!(of("BLMPOP 3 1 a LEFT"), Some((1, Some(3000))));
        assert_eq!(of("BZPOPMIN a 2"), Some((2, Some(2000))));
        assert_eq!(of("XREAD COUNT 1 BLOCK 250 STREAMS s $"), Some((4, Some(250))));
        assert_eq!(of("XREADGROUP GROUP g c BLOCK 0 STREAMS s >"), Some((5, None)));
        assert_eq!(of("XREADGROUP GROUP block c BLOCK 7 STREAMS block >"), Some((5, Some(7))));
        assert_eq!(of("WAIT 1 100"), Some((2, Some(100))));
    }

    #[test]
    fn what_the_server_refuses_has_none() {
        for words in ["BLPOP a x", "BLPOP a -1", "BLPOP a nan", "BLPOP a inf", "XREAD BLOCK x STREAMS s $", "WAIT 1 -5"]
        {
            assert_eq!(of(words), None, "{words}");
        }
    }

    #[test]
    fn what_is_left_is_written_in_its_unit() {
        let seconds = Timeout { at: 1, unit: Unit::Seconds, length: None };
        assert_eq!(seconds.text(Duration::from_millis(1250)), "1.250");
        assert_eq!(seconds.text(Duration::ZERO), "0.001");
        let millis = Timeout { unit: Unit::Milliseconds, ..seconds };
        assert_eq!(millis.text(Duration::from_millis(40)), "40");
    }
}
