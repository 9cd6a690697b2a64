//! While Redis is away, the log says so from time to time; and once when it is back.
//!
//! [`Absence`] is pure: it is told ten times a second how things are, and says what is worth a line.

use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::breaker::State;
use super::health::Obstacle;

/// It is said so often that Redis is still away.
const EVERY: Duration = Duration::from_secs(30);

/// What comes and goes more often than this is not back: a server that accepts connections only to close them would fill
/// the log.
const SETTLED: Duration = Duration::from_secs(1);

/// Since when Redis is away, and what was said of it.
#[derive(Debug, Default)]
pub(super) struct Absence {
    spell: Option<Spell>,
    /// Answers given without Redis, when it was looked last.
    unserved: u64,
}

#[derive(Debug)]
struct Spell {
    began: Instant,
    /// When something was last said.
    said: Instant,
    /// Answers given without Redis, when it began and when something was last said.
    unserved_before: u64,
    unserved_said: u64,
    /// Since when Redis seems to be back.
    back: Option<Instant>,
}

/// What is worth a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Redis has been away for so long; so many answers were given without it since that was said last.
    Still(Duration, u64),
    /// It was away for so long, and so many answers were given without it.
    Over(Duration, u64),
}

impl Absence {
    /// Redis is away now or not, and since the start so many answers were given without it.
    pub(super) fn look(&mut self, away: bool, unserved: u64, now: Instant) -> Option<Word> {
        let before = std::mem::replace(&mut self.unserved, unserved);
        let Some(spell) = &mut self.spell else {
            if away {
                // It began after we had looked last.
                let (unserved_before, unserved_said) = (before, before);
                self.spell = Some(Spell { began: now, said: now, unserved_before, unserved_said, back: None });
            }
            return None;
        };
        if away {
            spell.back = None;
        } else {
            let back = *spell.back.get_or_insert(now);
            if now.saturating_duration_since(back) < SETTLED {
                return None;
            }
            let lasted = back.saturating_duration_since(spell.began);
            let word = Word::Over(lasted, unserved.saturating_sub(spell.unserved_before));
            self.spell = None;
            return Some(word);
        }
        if now.saturating_duration_since(spell.said) < EVERY {
            return None;
        }
        let since = unserved.saturating_sub(spell.unserved_said);
        (spell.said, spell.unserved_said) = (now, unserved);
        Some(Word::Still(now.saturating_duration_since(spell.began), since))
    }
}

impl Shared {
    /// Writes what there is to say of Redis' absence.
    pub(super) fn tell_of_absence(&self, absence: &mut Absence, now: Instant) {
        // One PING that is not answered is no absence.
        let obstacle = self.barrier();
        let away = obstacle.is_some() || self.view().state == State::HalfOpen;
        let unserved = self.metrics.sum(|cells| cells.given().iter().sum());
        let whole_seconds = |time: Duration| time.as_secs();
        match absence.look(away, unserved, now) {
            None => {}
            Some(Word::Still(lasted, unserved)) => {
                let why = match obstacle {
                    Some(Obstacle::Open(reason, _)) => reason.to_string(),
                    Some(obstacle @ (Obstacle::Isolated | Obstacle::Silent | Obstacle::Refused(_))) => {
                        obstacle.to_string()
                    }
                    Some(Obstacle::Unconnected(_)) => "no connection".to_owned(),
                    None => "it can be reached, and a few requests are tried".to_owned(),
                };
                // One from before says nothing of this outage; the one that began it came a moment before we looked.
                let of_now = |at: Instant| now.saturating_duration_since(at) <= lasted + SETTLED;
                let dial = self.problem().filter(|problem| problem.dial.is_some() && of_now(problem.at));
                tracing::warn!(
                    seconds = whole_seconds(lasted),
                    why,
                    unserved,
                    last_dial = dial.map(|problem| problem.text),
                    next_dial_ms = self.next_dial_ms(now),
                    "still without Redis"
                );
            }
            Some(Word::Over(lasted, unserved)) => {
                tracing::info!(seconds = whole_seconds(lasted), unserved, "Redis serves again");
            }
        }
    }

    /// When Redis is dialled next to see whether it is back. None while there is a connection or a dial is under way, and
    /// while nothing may be tried.
    pub(super) fn next_dial_in(&self, now: Instant) -> Option<Duration> {
        if self.has_usable() {
            return None;
        }
        let (allowed, _) = self.guard.with(|breaker| breaker.may_probe_from(now));
        let due = self.ask(|supervisor| supervisor.next_probe(now));
        Some(due?.max(allowed?).saturating_duration_since(now))
    }

    /// The same in milliseconds, for the log.
    pub(super) fn next_dial_ms(&self, now: Instant) -> Option<u64> {
        self.next_dial_in(now).map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    /// Looks every tenth of a second for so long; returns what was said, and when.
    fn watch(absence: &mut Absence, now: &mut Instant, long: Duration, away: bool, unserved: u64) -> Vec<Word> {
        let end = *now + long;
        let mut said = Vec::new();
        while *now < end {
            *now += STEP;
            said.extend(absence.look(away, unserved, *now));
        }
        said
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn of_a_redis_that_serves_nothing_is_said() {
        let (mut absence, mut now) = (Absence::default(), Instant::now());
        assert_eq!(watch(&mut absence, &mut now, seconds(600), false, 7), []);
    }

    #[test]
    fn it_is_said_every_half_minute_and_once_at_the_end() {
        let (mut absence, mut now) = (Absence::default(), Instant::now());
        watch(&mut absence, &mut now, seconds(1), false, 100);
        // Five requests were refused before it was looked.
        assert_eq!(watch(&mut absence, &mut now, STEP, true, 105), []);
        assert_eq!(watch(&mut absence, &mut now, seconds(29), true, 110), []);
        assert_eq!(watch(&mut absence, &mut now, seconds(1), true, 120), [Word::Still(seconds(30), 20)]);
        assert_eq!(watch(&mut absence, &mut now, seconds(30), true, 121), [Word::Still(seconds(60), 1)]);
        assert_eq!(watch(&mut absence, &mut now, STEP, false, 122), [], "it may go again");
        assert_eq!(watch(&mut absence, &mut now, seconds(1), false, 122), [Word::Over(seconds(60) + STEP, 22)]);
        assert_eq!(watch(&mut absence, &mut now, seconds(600), false, 122), []);
    }

    #[test]
    fn one_that_comes_and_goes_is_away() {
        let (mut absence, mut now) = (Absence::default(), Instant::now());
        let mut said = Vec::new();
        for _ in 0..31 {
            said.extend(watch(&mut absence, &mut now, STEP * 2, true, 0));
            said.extend(watch(&mut absence, &mut now, STEP * 8, false, 0));
        }
        assert_eq!(said, [Word::Still(seconds(30), 0)]);
        assert_eq!(watch(&mut absence, &mut now, seconds(1), false, 0).len(), 1, "it stays");
    }
}
