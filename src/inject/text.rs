//! Carries out changes on the text of a manifest: what is not changed stays byte for byte.
//!
//! What is added can be taken out again without a trace. Lines are added behind the end of a line and removed from there;
//! in brackets something is added right before what follows it, and removed up to there.

use std::ops::Range;

use serde_json::{Value, json};

use super::edit::{Edit, Pointer, Tree};
use super::yaml::{Node, Place};

/// Text that stands for a range of the text before.
pub(super) type Replacement = (Range<usize>, String);

/// What cannot be changed where it stands.
const ESCAPED: &str = "it is not written in one piece: write it on one line, without escapes";

/// Puts replacements into a text. They may repeat each other, where a text stands for several parts, but not overlap.
pub(super) fn replace(text: &str, mut replacements: Vec<Replacement>) -> Option<String> {
    replacements.sort_by_key(|(range, _)| (range.start, range.end));
    replacements.dedup();
    let (mut out, mut done) = (String::with_capacity(text.len() * 2), 0);
    for (range, new) in replacements {
        out.push_str(text.get(done..range.start)?);
        out.push_str(&new);
        done = range.end;
    }
    out.push_str(text.get(done..)?);
    Some(out)
}

/// One document of a text, and how it is laid out.
pub(super) struct Layout<'text> {
    text: &'text str,
    document: &'text Place,
    value: &'text Value,
    newline: &'static str,
    /// Columns from a key to those below it.
    step: usize,
    /// Columns from a key to the dashes of its list.
    dash: usize,
    /// Columns from a dash to what follows it.
    gap: usize,
}

/// A part of the document, and what is around it.
struct Spot<'text> {
    place: &'text Place,
    /// Its key, if it is a member.
    key: Option<&'text Place>,
    parent: Option<&'text Place>,
}

/// How brackets are filled: on one line, or with a line for each part.
#[derive(Clone)]
enum Fill {
    Line,
    Lines { indent: String, unit: String },
}

impl<'text> Layout<'text> {
    /// Lines are indented as those of the pod's specification are.
    pub(super) fn new(text: &'text str, document: &'text Place, value: &'text Value, pod: &Pointer) -> Self {
        let first_line = text.split_inclusive('\n').next().unwrap_or_default();
        let newline = if first_line.ends_with("\r\n") { "\r\n" } else { "\n" };
        let mut layout = Self { text, document, value, newline, step: 2, dash: 0, gap: 2 };
        let keys = layout.find(pod).zip(layout.find(&pod.member("containers")));
        if let Some((pod, containers)) = keys
            && let (Some(above), Some(key), false) = (pod.key, containers.key, pod.place.is_flow())
        {
            let key_column = layout.column(key.span.start);
            layout.step = key_column.saturating_sub(layout.column(above.span.start)).max(1);
            if let Some(item) = containers.place.item(0).filter(|_| !containers.place.is_flow()) {
                let dash = containers.place.span.start;
                layout.dash = layout.column(dash).saturating_sub(key_column);
                layout.gap = layout.column(item.span.start).saturating_sub(layout.column(dash)).clamp(2, 8);
            }
        }
        layout
    }

    /// What an edit does to the text.
    pub(super) fn replacement(&self, edit: &Edit) -> Result<Replacement, String> {
        let missing = |at: &Pointer| format!("{at} is not there");
        match edit {
            Edit::Rewrite { at, was, is } => {
                let span = self.find(at).ok_or_else(|| missing(at))?.place.span.clone();
                let mut found = self.slice(&span).match_indices(was.as_str()).map(|(offset, _)| span.start + offset);
                match (found.next(), found.next()) {
                    (Some(start), None) => Ok((start..start + was.len(), is.clone())),
                    _ => Err(ESCAPED.to_owned()),
                }
            }
            Edit::Exchange { at, name, value } => {
                let spot = self.find(at).ok_or_else(|| missing(at))?;
                let key = spot.key.ok_or_else(|| missing(at))?;
                let column = self.column(key.span.start);
                let flow = spot.parent.is_some_and(Place::is_flow);
                let new = match value {
                    // What was in brackets here is not known where only the sidecar is.
                    Tree::Copy(from) if !flow && self.is_in_brackets(from) => None,
                    Tree::Copy(from) => self.copied(from, Some(column), flow),
                    Tree::Words(words, _) => Some(words.clone()),
                    Tree::Text(_) | Tree::Number(_) | Tree::Flag(_) | Tree::List(_) | Tree::Map(_) => None,
                };
                let new = new.unwrap_or_else(|| {
                    let quote = self.slice(&key.span).chars().next().filter(|first| matches!(first, '"' | '\''));
                    let name = quote.map_or_else(|| (*name).to_owned(), |quote| format!("{quote}{name}{quote}"));
                    if flow {
                        format!("{name}: {}", self.flow(value, &Fill::Line))
                    } else {
                        self.member_named(&name, value, column)
                    }
                });
                Ok((key.span.start..spot.end(), new))
            }
            Edit::Prepend { at, items } => {
                let spot = self.find(at).ok_or_else(|| missing(at))?;
                let column = self.column(spot.key.ok_or_else(|| missing(at))?.span.start);
                if spot.place.is_flow() {
                    let first = spot.place.item(0).map(|item| item.span.start);
                    return Ok(
                        self.in_brackets(&spot, first, |fill| items.iter().map(|tree| self.flow(tree, fill)).collect())
                    );
                }
                let dashes =
                    if spot.place.item(0).is_some() { self.column(spot.place.span.start) } else { column + self.dash };
                let lines = items.iter().map(|item| self.line(dashes) + &self.item(item, dashes)).collect();
                self.below_key(&spot, lines)
            }
            Edit::Add { at, before, members } => self.add(&self.find(at).ok_or_else(|| missing(at))?, *before, members),
            Edit::Remove { at } => self.remove(at).ok_or_else(|| missing(at)),
        }
    }

    fn add(&self, spot: &Spot<'_>, before: Option<&str>, members: &[(String, Tree)]) -> Result<Replacement, String> {
        let first = if let Node::Map { members, .. } = &*spot.place.node { members.first() } else { None };
        let next = before.and_then(|name| spot.place.member(name));
        if spot.place.is_flow() {
            let start = next.map(|(key, _)| key.span.start).or_else(|| Some(first?.0.span.start));
            let inside = |fill: &Fill| {
                members.iter().map(|(name, tree)| format!("{}: {}", json!(name), self.flow(tree, fill))).collect()
            };
            return Ok(self.in_brackets(spot, start, inside));
        }
        let own = first.map(|(key, _)| self.column(key.span.start));
        let column = match (own, spot.key) {
            (Some(column), _) => column,
            (None, Some(key)) => self.column(key.span.start) + self.step,
            (None, None) => return Err("there is nothing to add to".to_owned()),
        };
        let rendered = members.iter().map(|(name, tree)| self.member(name, tree, column));
        let Some((key, _)) = next else {
            return self.below_key(spot, rendered.map(|member| self.line(column) + &member).collect());
        };
        let line = self.line_start(key.span.start);
        if self.slice(&(line..key.span.start)).trim().is_empty() {
            let end = self.line_end_before(self.above_comments(line, column));
            return Ok((end..end, rendered.map(|member| self.line(column) + &member).collect()));
        }
        // The key stands behind a dash.
        let at = key.span.start;
        Ok((at..at, rendered.map(|member| member + &self.line(column)).collect()))
    }

    /// Adds lines right below the line of a key.
    fn below_key(&self, spot: &Spot<'_>, lines: String) -> Result<Replacement, String> {
        let key = spot.key.ok_or("there is no key to add to")?;
        let written_otherwise = matches!(&*spot.place.node, Node::Scalar(..)) && !spot.place.is_blank();
        if written_otherwise {
            return Err(format!("write nothing instead of `{}`", self.slice(&spot.place.span)));
        }
        let rest = self.text.get(key.span.end..).unwrap_or_default();
        let length =
            rest.find('\n').map_or(rest.len(), |at| rest.get(..at).unwrap_or_default().trim_end_matches('\r').len());
        let end = key.span.end + length;
        Ok((end..end, lines))
    }

    /// Adds parts in brackets, before the one that begins at `first`.
    fn in_brackets(&self, spot: &Spot<'_>, first: Option<usize>, parts: impl Fn(&Fill) -> Vec<String>) -> Replacement {
        let Some(at) = first else {
            let at = spot.place.span.start + 1;
            return (at..at, parts(&Fill::Line).join(", "));
        };
        let before = self.slice(&(spot.place.span.start + 1..at));
        let blank = before.get(before.trim_end().len()..).unwrap_or_default();
        let (fill, blank) = match blank.rsplit_once('\n') {
            None => (Fill::Line, if blank.is_empty() { " " } else { blank }),
            Some((_, indent)) => {
                let line = self.text.get(self.line_start(spot.place.span.start)..).unwrap_or_default();
                let outer = line.len() - line.trim_start_matches([' ', '\t']).len();
                let unit = indent.get(outer..).filter(|unit| !unit.is_empty()).unwrap_or("  ").to_owned();
                (Fill::Lines { indent: indent.to_owned(), unit }, blank)
            }
        };
        (at..at, parts(&fill).into_iter().map(|part| part + "," + blank).collect())
    }

    fn remove(&self, at: &Pointer) -> Option<Replacement> {
        let spot = self.find(at)?;
        let (parent, start) = (spot.parent?, spot.key.unwrap_or(spot.place).span.start);
        let starts: Vec<usize> = match &*parent.node {
            Node::List { items, .. } => items.iter().map(|item| item.span.start).collect(),
            Node::Map { members, .. } => members.iter().map(|(key, _)| key.span.start).collect(),
            Node::Scalar(..) => return None,
        };
        let next = starts.iter().copied().find(|other| *other > start);
        let line = self.line_start(start);
        let alone = self.slice(&(line..start)).trim_matches([' ', '-']).is_empty() && spot.key.is_none()
            || self.slice(&(line..start)).trim().is_empty();
        let range = match next {
            _ if !parent.is_flow() && alone => self.line_end_before(line)..spot.end(),
            Some(next) => start..next,
            None if parent.is_flow() => start..spot.end(),
            None => return None,
        };
        Some((range, String::new()))
    }

    /// Where a pointer leads.
    fn find(&self, pointer: &Pointer) -> Option<Spot<'text>> {
        let mut spot = Spot { place: self.document, key: None, parent: None };
        for part in pointer.parts() {
            let parent = spot.place;
            let item = part.parse().ok().and_then(|index| parent.item(index)).map(|place| (None, place));
            let (key, place) = item.or_else(|| parent.member(part).map(|(key, place)| (Some(key), place)))?;
            spot = Spot { place, key, parent: Some(parent) };
        }
        Some(spot)
    }

    /// The words of a member, unless those of another are the same there, and can be indented otherwise and back.
    pub(super) fn own_words(&self, at: &Pointer, other: Option<&Pointer>) -> Option<String> {
        let spot = self.find(at)?;
        let (column, flow) = (self.column(spot.key?.span.start), spot.parent.is_some_and(Place::is_flow));
        let own = self.copied(at, Some(column), flow)?;
        let same = other.and_then(|other| self.copied(other, Some(column), flow)).is_some_and(|other| other == own);
        let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
        let ragged = own.lines().skip(1).any(|line| !line.trim().is_empty() && indent(line) < column);
        (!same || ragged).then_some(own)
    }

    fn is_in_brackets(&self, at: &Pointer) -> bool {
        self.find(at).and_then(|spot| spot.parent).is_some_and(Place::is_flow)
    }

    /// A member's own words, moved to a column; none if they would not mean the same elsewhere.
    fn copied(&self, from: &Pointer, column: Option<usize>, flow: bool) -> Option<String> {
        let spot = self.find(from)?;
        let key = spot.key?;
        let is_block = matches!(&*spot.place.node, Node::List { .. } | Node::Map { .. }) && !spot.place.is_flow();
        if spot.place.linked || (flow && is_block) {
            return None;
        }
        let words = self.slice(&(key.span.start..spot.end()));
        let mut lines = words.split_inclusive('\n');
        let mut out = lines.next().unwrap_or_default().to_owned();
        for line in lines {
            let (from, to) = (self.column(key.span.start), column?);
            let blanks = line.len() - line.trim_start_matches(' ').len();
            if line.trim().is_empty() {
                out.push_str(line);
            } else if to >= from {
                out.push_str(&" ".repeat(to - from));
                out.push_str(line);
            } else {
                out.push_str(line.get((from - to).min(blanks)..).unwrap_or_default());
            }
        }
        Some(out)
    }

    /// A member whose key begins at a column; further lines are indented accordingly.
    fn member(&self, name: &str, tree: &Tree, column: usize) -> String {
        if let Tree::Copy(from) = tree
            && let Some(words) = self.copied(from, Some(column), false)
        {
            return words;
        }
        self.member_named(&scalar(name), tree, column)
    }

    fn member_named(&self, name: &str, tree: &Tree, column: usize) -> String {
        let below = match tree {
            Tree::Text(text) => return format!("{name}: {}", scalar(text)),
            Tree::Copy(from) | Tree::Words(_, from) => {
                let value = from.find(self.value).map(Tree::of).unwrap_or(Tree::List(Vec::new()));
                return self.member_named(name, &value, column);
            }
            Tree::List(items) if !items.is_empty() => {
                let column = column + self.dash;
                items.iter().map(|item| self.line(column) + &self.item(item, column)).collect::<String>()
            }
            Tree::Map(members) if !members.is_empty() => {
                let column = column + self.step;
                members.iter().map(|(name, tree)| self.line(column) + &self.member(name, tree, column)).collect()
            }
            Tree::Number(_) | Tree::Flag(_) | Tree::List(_) | Tree::Map(_) => {
                return format!("{name}: {}", self.flow(tree, &Fill::Line));
            }
        };
        format!("{name}:{below}")
    }

    fn item(&self, tree: &Tree, column: usize) -> String {
        let dash = format!("-{}", " ".repeat(self.gap - 1));
        let column = column + self.gap;
        match tree {
            Tree::Text(text) => dash + &scalar(text),
            Tree::Map(members) if !members.is_empty() => {
                let members: Vec<_> = members.iter().map(|(name, tree)| self.member(name, tree, column)).collect();
                dash + &members.join(&self.line(column))
            }
            Tree::Number(_) | Tree::Flag(_) | Tree::List(_) | Tree::Map(_) | Tree::Copy(_) | Tree::Words(..) => {
                dash + &self.flow(tree, &Fill::Line)
            }
        }
    }

    /// In brackets, as JSON has it.
    fn flow(&self, tree: &Tree, fill: &Fill) -> String {
        let inner = match fill {
            Fill::Line => Fill::Line,
            Fill::Lines { indent, unit } => Fill::Lines { indent: format!("{indent}{unit}"), unit: unit.clone() },
        };
        let column = if let Fill::Lines { indent, .. } = &inner { Some(indent.len()) } else { None };
        let between = |open: &str, parts: Vec<String>, close: &str| match (fill, &inner) {
            (Fill::Lines { indent, .. }, Fill::Lines { indent: deeper, .. }) if !parts.is_empty() => {
                let line = format!("{}{deeper}", self.newline);
                let parts = parts.join(&format!(",{line}"));
                format!("{open}{line}{parts}{}{indent}{close}", self.newline)
            }
            _ => format!("{open}{}{close}", parts.join(", ")),
        };
        match tree {
            Tree::Text(text) => json!(text).to_string(),
            Tree::Number(number) => number.to_string(),
            Tree::Flag(flag) => flag.to_string(),
            Tree::List(items) => between("[", items.iter().map(|item| self.flow(item, &inner)).collect(), "]"),
            Tree::Map(members) => {
                let part = |(name, tree): &(String, Tree)| {
                    let words = if let Tree::Copy(from) = tree { self.copied(from, column, true) } else { None };
                    words.unwrap_or_else(|| format!("{}: {}", json!(name), self.flow(tree, &inner)))
                };
                between("{", members.iter().map(part).collect(), "}")
            }
            Tree::Copy(from) | Tree::Words(_, from) => {
                self.flow(&from.find(self.value).map_or(Tree::List(Vec::new()), Tree::of), fill)
            }
        }
    }

    fn line(&self, column: usize) -> String {
        format!("{}{}", self.newline, " ".repeat(column))
    }

    fn slice(&self, range: &Range<usize>) -> &'text str {
        self.text.get(range.clone()).unwrap_or_default()
    }

    fn column(&self, at: usize) -> usize {
        at - self.line_start(at)
    }

    fn line_start(&self, at: usize) -> usize {
        self.slice(&(0..at)).rfind('\n').map_or(0, |newline| newline + 1)
    }

    /// The end of the line before the one that starts here, without its line end.
    fn line_end_before(&self, line: usize) -> usize {
        let before = self.slice(&(0..line));
        let before = before.strip_suffix('\n').unwrap_or(before);
        before.strip_suffix('\r').unwrap_or(before).len()
    }

    /// Where the comments begin that stand right above a line, at the same column.
    fn above_comments(&self, mut line: usize, column: usize) -> usize {
        while line > 0 {
            let above = self.line_start(line - 1);
            let text = self.slice(&(above..line));
            if !text.trim_start().starts_with('#') || text.len() - text.trim_start().len() != column {
                break;
            }
            line = above;
        }
        line
    }
}

impl Spot<'_> {
    /// Where its text ends, the colon of an empty member included.
    fn end(&self) -> usize {
        let key = self.key.map_or(0, |key| key.span.end + 1);
        if self.place.is_blank() { self.place.span.end.max(key) } else { self.place.span.end }
    }
}

/// A string as people write it in YAML: bare if it then is still a string, to readers of any version.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 10] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "none"];
    let fine = |letter: char| letter.is_ascii_alphanumeric() || "-_./:@$()%".contains(letter);
    let digits = text.trim_start_matches(|letter: char| letter.is_ascii_digit());
    // Quantities: 50m, 128Mi.
    let quantity = digits.len() < text.len() && matches!(digits, "m" | "k" | "M" | "G" | "Ki" | "Mi" | "Gi");
    let begins = text.starts_with(|first: char| first.is_ascii_alphabetic() || matches!(first, '/' | '$'));
    let word = WORDS.contains(&text.to_ascii_lowercase().as_str());
    if (begins || quantity) && text.chars().all(fine) && !text.ends_with(':') && !word {
        text.to_owned()
    } else if text.contains('"') && !text.contains('\'') && text.chars().all(|letter| !letter.is_control()) {
        format!("'{text}'")
    } else {
        json!(text).to_string()
    }
}
