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
    /// When they are preferred; otherwise they are as good as any.
    pub when: Option<When>,
    lines: Vec<Line>,
}

/// One step, with placeholders.
pub struct Line {
    since: Kind,
    with: Vec<&'static str>,
    /// [`Manner::Says`] or [`Manner::Waits`].
    pub manner: Manner,
    /// One command each.
    pub commands: Vec<String>,
}

/// Whose state prefers the lines of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The client itself is in it.
    While(State),
    /// Another client is.
    Beside(State),
}

/// What is known of a client by what it has sent; a guess that only makes scripts more interesting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It has sent what blocks.
    Blocked,
    /// It has said MONITOR.
    Monitoring,
    /// It has said CLIENT REPLY OFF.
    Muted,
    /// It has said MULTI.
    Queueing,
    /// It has subscribed.
    Subscribed,
    /// It has said CLIENT TRACKING ON.
    Tracking,
    /// It has said WATCH.
    Watching,
}

impl State {
    const ALL: [(&str, Self); 7] = [
        ("blocked", Self::Blocked),
        ("monitoring", Self::Monitoring),
        ("muted", Self::Muted),
        ("queueing", Self::Queueing),
        ("subscribed", Self::Subscribed),
        ("tracking", Self::Tracking),
        ("watching", Self::Watching),
    ];

    fn named(name: &str) -> Self {
        let found = Self::ALL.into_iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("steps.txt: no such state: {name}")).1
    }
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
        let strange = whole.sections.iter().flat_map(|section| &section.lines).flat_map(|line| &line.with);
        strange.for_each(|group| assert!(known.contains(*group), "steps.txt: there is no group {group}"));
        whole
    }

    /// The names of all groups.
    pub fn groups(&self) -> BTreeSet<&'static str> {
        self.sections.iter().map(|section| section.group).chain([LEAVING]).collect()
    }

    /// For each line of groups other than [`DATA`], which group it is of.
    pub fn group_of_each_line(&self) -> impl ExactSizeIterator<Item = &'static str> {
        let sections = self.sections.iter().filter(|section| section.group != DATA);
        let groups: Vec<_> = sections.flat_map(|section| section.lines.iter().map(|_| section.group)).collect();
        groups.into_iter()
    }

    /// The lines of a group that this server knows, within a script of these groups.
    pub fn lines(&self, group: &str, when: Option<When>, kind: Kind, groups: &BTreeSet<&str>) -> Vec<&Line> {
        let sections = self.sections.iter().filter(|section| section.group == group && section.when == when);
        let lines = sections.flat_map(|section| &section.lines);
        lines.filter(|line| line.since <= kind && line.with.iter().all(|with| groups.contains(with))).collect()
    }
}

impl Section {
    fn headed(heading: &'static str) -> Self {
        let (group, when) = match heading.split(' ').collect::<Vec<_>>()[..] {
            [group] => (group, None),
            [group, "while", state] => (group, Some(When::While(State::named(state)))),
            [group, "beside", state] => (group, Some(When::Beside(State::named(state)))),
            _ => panic!("steps.txt: no such heading: {heading}"),
        };
        Self { group, when, lines: Vec::new() }
    }
}

impl Line {
    fn read(mut text: &'static str) -> Self {
        let (mut since, mut with, mut manner) = (Kind::Redis62, Vec::new(), Manner::Says);
        while let Some((word, rest)) = text.split_once(' ') {
            match word {
                ">=7.0" => since = Kind::Redis70,
                ">=9.1" => since = Kind::Valkey91,
                "waits:" => manner = Manner::Waits,
                "with" => {
                    let (group, rest) = rest.split_once(' ').unwrap_or_else(|| panic!("steps.txt: {text}"));
                    with.push(group);
                    text = rest;
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
    let line = Line::read(">=7.0 with multi with watch waits: BLPOP {l} 0.1; GET {s}");
    assert_eq!((line.since, &line.with[..], line.manner), (Kind::Redis70, &["multi", "watch"][..], Manner::Waits));
    assert_eq!(line.commands, ["BLPOP {l} 0.1", "GET {s}"]);
    let groups = BTreeSet::from(["multi"]);
    let queueing = Repertoire::whole().lines("multi", Some(When::While(State::Queueing)), Kind::Redis62, &groups).len();
    assert!(queueing > 10, "{queueing} lines");
}
