//! While Redis is away, the log says so from time to time; and once when it is back. What begins with a line of its own (the
//! breaker opens, a dial fails) is not said again; that it has fallen silent is.
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

/// How Redis is away.
#[derive(Debug, Clone, Copy)]
pub(super) struct Away {
    /// Since when, as far as is known.
    since: Instant,
    /// No other line says that it is.
    untold: bool,
}

/// What is worth a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It is away, and nothing has been said of it.
    Begun,
    /// Redis has been away for so long; so many answers were given without it since that was said last.
    Still(Duration, u64),
    /// It was away for so long, and so many answers were given without it.
    Over(Duration, u64),
}

impl Absence {
    /// Redis is away now or not, and since the start so many answers were given without it.
    pub(super) fn look(&mut self, away: Option<Away>, unserved: u64, now: Instant) -> Option<Word> {
        let before = std::mem::replace(&mut self.unserved, unserved);
        let Some(spell) = &mut self.spell else {
            let Away { since, untold } = away?;
            // It began after we had looked last.
            let (unserved_before, unserved_said) = (before, before);
            self.spell = Some(Spell { began: since, said: now, unserved_before, unserved_said, back: None });
            return untold.then_some(Word::Begun);
        };
        if away.is_some() {
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
        let obstacle = self.obstacle();
        let silent = obstacle == Some(Obstacle::Silent);
        let is_away = obstacle.is_some() || self.view().state == State::HalfOpen;
        let away = is_away.then(|| Away { since: if silent { self.silent_since() } else { now }, untold: silent });
        let unserved = self.metrics.sum(|cells| cells.given().iter().sum());
        let whole_seconds = |time: Duration| time.as_secs();
        match absence.look(away, unserved, now) {
            None => {}
            Some(Word::Begun) => {
                let why = obstacle.map(|obstacle| obstacle.to_string());
                tracing::warn!(why, next_dial_ms = self.next_dial_ms(now), "Redis is silent");
            }
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

    /// When Redis is dialled next to see whether it is back. None while there is a connection that is not silent or a dial is
    /// under way, and while nothing may be tried.
    pub(super) fn next_dial_in(&self, now: Instant) -> Option<Duration> {
        if self.has_usable() {
            // Who is silent for so long is given up, and dialled anew.
            let patience = self.config.request_timeout.saturating_mul(2);
            let given_up = || (self.silent_since() + patience).saturating_duration_since(now);
            return (self.obstacle() == Some(Obstacle::Silent)).then(given_up);
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

    /// Looks every tenth of a second for so long; returns what was said.
    fn watch(absence: &mut Absence, now: &mut Instant, long: Duration, away: bool, unserved: u64) -> Vec<Word> {
        let end = *now + long;
        let mut said = Vec::new();
        while *now < end {
            *now += STEP;
            said.extend(absence.look(away.then_some(Away { since: *now, untold: false }), unserved, *now));
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
    fn silence_is_said_at_once_and_counts_from_its_beginning() {
        let (mut absence, mut now) = (Absence::default(), Instant::now());
        let silent = Away { since: now, untold: true };
        now += seconds(2);
        assert_eq!(absence.look(Some(silent), 0, now), Some(Word::Begun));
        now += STEP;
        assert_eq!(absence.look(Some(silent), 0, now), None, "once");
        watch(&mut absence, &mut now, seconds(8), true, 0);
        let said = watch(&mut absence, &mut now, seconds(2), false, 0);
        assert!(matches!(said[..], [Word::Over(lasted, 0)] if lasted > seconds(10)), "{said:?}");
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
