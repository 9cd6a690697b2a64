//! Whether what a client heard can be true, given what the server holds in the end. Does no I/O.
//!
//! Clients share nothing, and each one's writes run in its order, so what may be in the server follows from its history
//! alone: what was acknowledged is there once; what was refused is not; what is indeterminate is there once or not at all,
//! and never behind something acknowledged later, whatever that wrote: once a read lacks it after such an acknowledgement,
//! it must never come. A read may come back empty unless Redis was known to be well. What it does hold must be this
//! client's own, no older than what it knows to have happened, and not yet to be written. Of a transaction all has run or
//! nothing.

mod tests;

use super::history::{Asked, COUNT_SPACING, Event, Heard, History};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::mem;
use std::time::Duration;

/// What the server holds in the end for one client.
#[derive(Clone, Debug)]
pub struct Held {
    /// All entries of its list.
    pub list: Vec<String>,
    /// Its counter.
    pub count: u64,
    /// Its text.
    pub text: String,
}

impl Held {
    /// What it is before the first request: nothing is empty, so that an empty reply is never the true one.
    pub fn at_first(client: u64) -> Self {
        let first = format!("{client}:0");
        Self { list: vec![first.clone()], count: client * COUNT_SPACING, text: first }
    }
}

/// In which way something cannot be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// It ran more often than it may have.
    Excess,
    /// It was acknowledged, and is not there.
    Lost,
    /// It came before what it must come after, or was seen before it was asked for.
    Order,
    /// It is not this client's.
    Foreign,
    /// It is no reply to this request.
    Strange,
}

/// One thing that cannot be true.
#[derive(Clone, Debug)]
pub struct Complaint {
    /// In which way.
    pub wrong: Wrong,
    client: u64,
    what: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "client {}, {:?}: {}", self.client, self.wrong, self.what)
    }
}

/// Everything in this history that cannot be true.
pub fn check(history: &History, held: &Held) -> Vec<Complaint> {
    let mut judge = Judge { client: history.client, events: &history.events, complaints: Vec::new() };
    judge.kinds();
    judge.list(&held.list);
    judge.list_replies(&held.list);
    judge.count(held.count);
    judge.text(&held.text);
    if history.is_whole {
        judge.whole(held);
    }
    judge.complaints
}

struct Judge<'history> {
    client: u64,
    events: &'history [Event],
    complaints: Vec<Complaint>,
}

impl Judge<'_> {
    fn complain(&mut self, wrong: Wrong, what: String) {
        self.complaints.push(Complaint { wrong, client: self.client, what });
    }

    /// The id of one of this client's entries or texts.
    fn id(&self, text: &str) -> Option<u64> {
        text.strip_prefix(&format!("{}:", self.client))?.parse().ok()
    }

    /// Each reply is one that the request can have.
    fn kinds(&mut self) {
        for Event { asked, heard, is_calm, .. } in self.events {
            let is_failure = matches!(heard, Heard::Unavailable) || heard.is_open();
            // A connection that ended is for others to judge.
            let is_error = matches!(heard, Heard::Unavailable | Heard::Indeterminate);
            if matches!(heard, Heard::Strange(_)) || (asked.is_read() && is_error) {
                self.complain(Wrong::Strange, format!("{asked:?} heard {heard:?}"));
            }
            if *is_calm && (is_failure || *heard == Heard::Nothing) {
                self.complain(Wrong::Lost, format!("{asked:?} heard {heard:?} although Redis is well"));
            }
        }
    }

    /// As often as the list has grown, the counter has.
    fn whole(&mut self, held: &Held) {
        let at_first = Held::at_first(self.client);
        let (grown, counted) = (held.list.len() - at_first.list.len(), held.count.abs_diff(at_first.count));
        if counted != grown as u64 {
            self.complain(Wrong::Lost, format!("{grown} entries and {counted} counted: a transaction ran in part"));
        }
    }

    /// Each entry of the list may be there, and is where it may be.
    fn list(&mut self, list: &[String]) {
        let heard: HashMap<_, _> = self.events.iter().filter_map(appended).collect();
        let mut seen = HashMap::new();
        let mut latest = 0;
        for (place, entry) in list.iter().enumerate() {
            let Some(id) = self.id(entry).filter(|id| *id == 0 || heard.contains_key(id)) else {
                self.complain(Wrong::Foreign, format!("the list holds {entry} at {place}"));
                continue;
            };
            if let Some(first) = seen.insert(id, place) {
                self.complain(Wrong::Excess, format!("the list holds {entry} at {first} and {place}"));
            } else if id < latest {
                self.complain(Wrong::Order, format!("the list holds {entry} at {place}, behind {latest}"));
            }
            if heard.get(&id) == Some(&&Heard::Unavailable) {
                self.complain(Wrong::Excess, format!("{entry} was not sent, and is there"));
            }
            latest = latest.max(id);
        }
        for (id, reply) in heard {
            if reply.is_served() && !seen.contains_key(&id) {
                self.complain(Wrong::Lost, format!("{id} was acknowledged, and is not there"));
            }
        }
    }

    /// What was said of the list while it grew was true at that time.
    fn list_replies(&mut self, list: &[String]) {
        let ids: Vec<_> = list.iter().map(|entry| self.id(entry)).collect();
        let places: HashMap<_, _> = ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
        // The last id asked for, and the last before what was acknowledged; how long the list is known to be.
        let (mut asked, mut settled, mut length) = (0, 0, 1);
        for event in self.events {
            if is_acknowledged(event.asked, &event.heard) {
                settled = asked;
            }
            match (event.asked, &event.heard) {
                (Asked::Append(id), heard) => {
                    asked = id;
                    let Heard::Number(number) = heard else { continue };
                    let place = places.get(&Some(id)).map_or(0, |place| place + 1);
                    // Its absence is complained of already.
                    if place > 0 && usize::try_from(*number).is_ok_and(|number| ids.get(number - 1) != Some(&Some(id)))
                    {
                        self.complain(Wrong::Foreign, format!("appending {id} heard {number}, and it is at {place}"));
                    }
                    length = length.max(place);
                }
                (Asked::ReadList, Heard::Texts(texts)) => {
                    let read: Vec<_> = texts.iter().map(|text| self.id(text)).collect();
                    let end = read.last().and_then(|last| places.get(last)).map_or(0, |place| place + 1);
                    if read.contains(&None) {
                        self.complain(Wrong::Foreign, format!("the list was {texts:?}"));
                    } else if read.iter().flatten().any(|id| *id > asked) {
                        self.complain(
                            Wrong::Order,
                            format!("the list was {texts:?} when {asked} was the last asked for"),
                        );
                    } else if end < length {
                        self.complain(Wrong::Lost, format!("the list was {texts:?}, and had {length} entries before"));
                    } else if !ids[..end].ends_with(&read) {
                        self.complain(Wrong::Order, format!("the list was {texts:?}, and is not so now"));
                    } else if let Some(late) = ids[end..].iter().flatten().find(|id| **id <= settled) {
                        self.complain(
                            Wrong::Order,
                            format!("the list was {texts:?} when {late} might not run any more, and it did"),
                        );
                    }
                    length = length.max(end);
                }
                _ => {}
            }
        }
    }

    /// The counter never holds more or less than it may.
    fn count(&mut self, held: u64) {
        let base = self.client * COUNT_SPACING;
        // What was acknowledged; what else is known to have run.
        let (mut done, mut extra) = (0, 0);
        // What else may have run since: what was asked for before the latest acknowledged write, and what behind it.
        let (mut settled, mut open) = (0, 0);
        let last = Event { asked: Asked::ReadCount, heard: Heard::Number(held), took: Duration::ZERO, is_calm: true };
        for event in self.events.iter().chain([&last]) {
            if is_acknowledged(event.asked, &event.heard) {
                settled += mem::take(&mut open);
            }
            let number = match (event.asked, &event.heard) {
                (Asked::Count, heard) if heard.is_open() => {
                    open += 1;
                    continue;
                }
                (Asked::Count | Asked::ReadCount, Heard::Number(number)) => *number,
                _ => continue,
            };
            done += u64::from(event.asked == Asked::Count);
            let Some(count) = number.checked_sub(base).filter(|count| *count < COUNT_SPACING) else {
                self.complain(Wrong::Foreign, format!("{:?} heard {number}", event.asked));
                continue;
            };
            if count < done + extra {
                self.complain(Wrong::Lost, format!("{count} counted, {done} acknowledged, {extra} more seen"));
            } else if count > done + extra + settled + open {
                let most = extra + settled + open;
                self.complain(Wrong::Excess, format!("{count} counted, {done} acknowledged, {most} may be too"));
            }
            let more = count.saturating_sub(done).max(extra) - extra;
            extra += more;
            // What had not run before something that was acknowledged may not run any more.
            open = open.saturating_sub(more.saturating_sub(mem::take(&mut settled)));
        }
    }

    /// The text was never an older one than it must have been.
    fn text(&mut self, held: &str) {
        let mut refused = HashSet::new();
        let (mut asked, mut oldest) = (0, 0);
        // The last before what was acknowledged, by now and when the text was read: none that was missed then may come.
        let (mut settled, mut missed) = (0, 0);
        let last = Heard::Text(held.to_owned());
        let events = self.events.iter().map(|event| (event.asked, &event.heard));
        for (request, heard) in events.chain([(Asked::ReadText, &last)]) {
            if is_acknowledged(request, heard) {
                settled = asked;
            }
            match (request, heard) {
                (Asked::Put(id), heard) => {
                    asked = id;
                    match heard {
                        Heard::Done => oldest = id,
                        Heard::Unavailable => drop(refused.insert(id)),
                        _ => {}
                    }
                }
                (Asked::ReadText, Heard::Text(text)) => {
                    let Some(id) = self.id(text) else {
                        self.complain(Wrong::Foreign, format!("the text was {text}"));
                        continue;
                    };
                    if id < oldest || id > asked {
                        self.complain(Wrong::Order, format!("the text was {text}, between {oldest} and {asked}"));
                    } else if refused.contains(&id) {
                        self.complain(Wrong::Excess, format!("the text was {text}, which was not sent"));
                    } else if id != oldest && id <= missed {
                        self.complain(Wrong::Order, format!("the text was {text}, which might not run any more"));
                    }
                    (oldest, missed) = (oldest.max(id), settled);
                }
                _ => {}
            }
        }
    }
}

/// The id of an entry that was to be appended, and what became of it.
const fn appended(event: &Event) -> Option<(u64, &Heard)> {
    match event.asked {
        Asked::Append(id) => Some((id, &event.heard)),
        _ => None,
    }
}

/// Whether it is a write, and Redis itself said that it ran.
const fn is_acknowledged(asked: Asked, heard: &Heard) -> bool {
    !asked.is_read() && heard.is_served()
}
