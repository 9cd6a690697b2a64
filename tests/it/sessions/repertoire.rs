//! What clients may do, by groups, as `steps.txt` lists it; its head says how the lines are read.

use super::script::{Manner, commands_of};
use crate::support::Kind;
use std::collections::BTreeSet;

const TEXT: &str = include_str!("steps.txt");

/// Ordinary commands: part of every script.
pub const DATA: &str = "data";
/// Clients close their connections; this group has no lines of its own.
pub const LEAVING: &str = "leaving";

/// All that may be chosen from.
pub struct Repertoire {
    sections: Vec<Section>,
}

/// Lines under one heading.
pub struct Section {
    /// To which group of steps they belong.
    pub group: &'static str,
    /// In which state they are preferred.
    pub state: Option<State>,
    lines: Vec<Line>,
}

/// One step, with placeholders.
pub struct Line {
    since: Kind,
    with: Option<&'static str>,
    /// [`Manner::Says`] or [`Manner::Waits`].
    pub manner: Manner,
    /// One command each.
    pub commands: Vec<String>,
}

/// What is known of a client by what it has sent; a guess that only makes scripts more interesting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It has said MULTI.
    Queueing,
    /// It has said WATCH.
    Watching,
    /// It has subscribed.
    Subscribed,
    /// It has said CLIENT REPLY OFF.
    Muted,
    /// It has said MONITOR.
    Monitoring,
    /// Another client is blocked.
    Awaited,
}

impl State {
    const ALL: [(&str, Self); 6] = [
        ("queueing", Self::Queueing),
        ("watching", Self::Watching),
        ("subscribed", Self::Subscribed),
        ("muted", Self::Muted),
        ("monitoring", Self::Monitoring),
        ("awaited", Self::Awaited),
    ];
}

impl Repertoire {
    /// All of it.
    pub fn whole() -> Self {
        let mut sections: Vec<Section> = Vec::new();
        for line in TEXT.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match (line.strip_prefix("== "), sections.last_mut()) {
                (Some(heading), _) => sections.push(Section::headed(heading)),
                (None, Some(section)) => section.lines.push(Line::read(line)),
                (None, None) => panic!("steps.txt begins without a heading: {line}"),
            }
        }
        let whole = Self { sections };
        let known = whole.groups();
        let strange = whole.sections.iter().flat_map(|section| &section.lines).filter_map(|line| line.with);
        strange.for_each(|group| assert!(known.contains(group), "steps.txt: there is no group {group}"));
        whole
    }

    /// The names of all groups.
    pub fn groups(&self) -> BTreeSet<&'static str> {
        self.sections.iter().map(|section| section.group).chain([LEAVING]).collect()
    }

    /// The lines of a group in a state that this server knows, within a script of these groups.
    pub fn lines(&self, group: &str, state: Option<State>, kind: Kind, groups: &BTreeSet<&str>) -> Vec<&Line> {
        let sections = self.sections.iter().filter(|section| section.group == group && section.state == state);
        let lines = sections.flat_map(|section| &section.lines);
        lines.filter(|line| line.since <= kind && line.with.is_none_or(|with| groups.contains(with))).collect()
    }
}

impl Section {
    fn headed(heading: &'static str) -> Self {
        let (group, state) = match heading.split_once(" while ") {
            Some((group, state)) => (group, Some(state)),
            None => (heading, None),
        };
        let state = state.map(|name| {
            let found = State::ALL.into_iter().find(|(known, _)| *known == name);
            found.unwrap_or_else(|| panic!("steps.txt: no such state: {heading}")).1
        });
        Self { group, state, lines: Vec::new() }
    }
}

impl Line {
    fn read(mut text: &'static str) -> Self {
        let (mut since, mut with, mut manner) = (Kind::Redis62, None, Manner::Says);
        while let Some((word, rest)) = text.split_once(' ') {
            match word {
                ">=7.0" => since = Kind::Redis70,
                ">=9.1" => since = Kind::Valkey91,
                "waits:" => manner = Manner::Waits,
                "with" => {
                    let (group, rest) = rest.split_once(' ').unwrap_or_else(|| panic!("steps.txt: {text}"));
                    (with, text) = (Some(group), rest);
                    continue;
                }
                _ => break,
            }
            text = rest;
        }
        Self { since, with, manner, commands: commands_of(text) }
    }
}

#[test]
fn the_repertoire_is_read_as_it_is_meant() {
    let line = Line::read(">=7.0 with multi waits: BLPOP {l} 0.1; GET {s}");
    assert_eq!((line.since, line.with, line.manner), (Kind::Redis70, Some("multi"), Manner::Waits));
    assert_eq!(line.commands, ["BLPOP {l} 0.1", "GET {s}"]);
    let groups = BTreeSet::from(["multi"]);
    let queueing = Repertoire::whole().lines("multi", Some(State::Queueing), Kind::Redis62, &groups).len();
    assert!(queueing > 10, "{queueing} lines");
}
