//! Manifests as trees that know where in the text each part stands.
//!
//! A tree is only read. What is to change is changed in the text, at the positions kept here, so everything else stays as
//! it was typed. Positions are bytes. An alias is a second place of the node that its anchor names.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use serde_json::{Map, Number, Value};

/// Deeper than any manifest: whatever walks down a tree may call itself so often.
const DEEPEST: usize = 100;
/// More parts than any manifest has, aliases counted as often as they stand.
const MOST_PARTS: usize = 1_000_000;

/// Braces are a mapping to YAML, so `{{ name }}` is one whose key is another.
const NO_TEXT: &str = "a key is no text (a template must be rendered first)";

/// Where a node stands. Several places have the same node if there are aliases.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Its own text, without anchor and tag: `*name` of an alias.
    pub(super) span: Range<usize>,
    pub(super) node: Rc<Node>,
    /// Its text names or is named by another place, itself or within.
    pub(super) linked: bool,
    /// How many levels there are below, aliases written out.
    depth: usize,
}

#[derive(Debug)]
pub(super) enum Node {
    /// A value, and whether it was written without quotes.
    Scalar(String, bool),
    List {
        items: Vec<Place>,
        flow: bool,
    },
    Map {
        members: Vec<(Place, Place)>,
        flow: bool,
    },
}

/// What keeps a text from being read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Error {
    /// Counted from 1; none if it is about all of the text.
    pub(super) line: Option<usize>,
    pub(super) problem: String,
}

/// All documents of a text; those without content are left out.
pub(super) fn read(text: &str) -> Result<Vec<Place>, Error> {
    let mut reader =
        Reader { text, starts: byte_positions(text), open: Vec::new(), anchors: HashMap::new(), documents: Vec::new() };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| of_parser(&error))?;
        reader.take(event, &span)?;
    }
    Ok(reader.documents)
}

fn of_parser(error: &ScanError) -> Error {
    let tab = if error.info().contains("tab") { " (indent with spaces)" } else { "" };
    Error { line: Some(error.marker().line()), problem: format!("this is no YAML: {}{tab}", error.info()) }
}

/// Where each character begins, if that differs from counting them.
fn byte_positions(text: &str) -> Option<Vec<usize>> {
    (!text.is_ascii()).then(|| text.char_indices().map(|(at, _)| at).chain([text.len()]).collect())
}

fn too_deep() -> String {
    format!("it is nested more than {DEEPEST} deep")
}

/// Builds trees from the parser's events.
struct Reader<'text> {
    text: &'text str,
    starts: Option<Vec<usize>>,
    open: Vec<Open>,
    /// What they name, and how deep it is.
    anchors: HashMap<usize, (Rc<Node>, usize)>,
    documents: Vec<Place>,
}

/// A list or mapping whose end has not come yet. A mapping's keys and values alternate.
struct Open {
    start: usize,
    parts: Vec<Place>,
    is_map: bool,
    flow: bool,
    anchor: usize,
}

impl Reader<'_> {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), Error> {
        let (start, end) = (self.byte(span.start.index()), self.byte(span.end.index()));
        match event {
            Event::Scalar(value, style, anchor, _) => {
                let start = if matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) {
                    start
                } else {
                    self.content(start).min(end)
                };
                let span = start..self.end_of_scalar(start, end, style);
                let node = Node::Scalar(value.into_owned(), style == ScalarStyle::Plain);
                self.put(span, node, anchor, (anchor > 0, 0))?;
            }
            Event::SequenceStart(anchor, _) => self.open(start, false, anchor)?,
            Event::MappingStart(anchor, _) => self.open(start, true, anchor)?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    self.close(open, start)?;
                }
            }
            Event::Alias(anchor) => {
                let named = self.anchors.get(&anchor).cloned();
                let (node, depth) = named.ok_or_else(|| self.wrong(start, "an alias stands within what it names"))?;
                let name = self.text.get(start..end).unwrap_or_default().trim_end().len();
                self.place(Place { span: start..start + name, node, linked: true, depth });
            }
            Event::DocumentEnd => self.anchors.clear(),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => {}
        }
        Ok(())
    }

    fn open(&mut self, start: usize, is_map: bool, anchor: usize) -> Result<(), Error> {
        if self.open.len() >= DEEPEST {
            return Err(self.wrong(start, &too_deep()));
        }
        // The parser's own start of a list without indentation lies behind its first dash; the key before it is surer.
        let after_key = self.open.last().filter(|open| open.is_map && open.parts.len() % 2 == 1);
        let key_end = after_key.and_then(|open| open.parts.last()).map(|key| key.span.end);
        let start = match key_end {
            Some(end) if !is_map => self.content(self.content(end) + 1),
            _ => self.content(start),
        };
        let flow = self.text.get(start..).is_some_and(|rest| rest.starts_with(if is_map { '{' } else { '[' }));
        self.open.push(Open { start, parts: Vec::new(), is_map, flow, anchor });
        Ok(())
    }

    fn close(&mut self, open: Open, end: usize) -> Result<(), Error> {
        let Open { start, parts, is_map, flow, anchor } = open;
        let linked = anchor > 0 || parts.iter().any(|part| part.linked);
        let depth = 1 + parts.iter().map(|part| part.depth).max().unwrap_or_default();
        if depth > DEEPEST {
            return Err(self.wrong(start, &too_deep()));
        }
        let end = if flow { end + 1 } else { parts.last().map_or(start, |part| part.span.end) };
        let node = if is_map {
            let mut members: Vec<(Place, Place)> = Vec::new();
            let mut parts = parts.into_iter();
            while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
                members.push((key, value));
            }
            Node::Map { members, flow }
        } else {
            Node::List { items: parts, flow }
        };
        self.put(start..end.max(start), node, anchor, (linked, depth))
    }

    /// Keeps a node that is complete, with whether its text is linked, and its depth.
    fn put(
        &mut self,
        span: Range<usize>,
        node: Node,
        anchor: usize,
        (linked, depth): (bool, usize),
    ) -> Result<(), Error> {
        if let Node::Map { members, .. } = &node {
            let mut seen: Vec<_> = members.iter().filter_map(|(key, _)| Some((key.text()?, key.span.start))).collect();
            seen.sort_unstable();
            let twice = seen.array_windows().find(|[(one, _), (next, _)]| one == next && *one != "<<");
            if let Some([_, (name, at)]) = twice {
                return Err(self.wrong(*at, &format!("`{name}` is there twice")));
            }
        }
        let node = Rc::new(node);
        if anchor > 0 {
            self.anchors.insert(anchor, (Rc::clone(&node), depth));
        }
        self.place(Place { span, node, linked, depth });
        Ok(())
    }

    fn place(&mut self, place: Place) {
        match self.open.last_mut() {
            Some(open) => open.parts.push(place),
            None => self.documents.push(place),
        }
    }

    fn wrong(&self, at: usize, problem: &str) -> Error {
        let line = self.text.get(..at).map(|before| before.matches('\n').count() + 1);
        Error { line, problem: problem.to_owned() }
    }

    fn byte(&self, character: usize) -> usize {
        let at = self.starts.as_ref().map_or(Some(character), |starts| starts.get(character).copied());
        at.unwrap_or(self.text.len()).min(self.text.len())
    }

    /// The next content from here on: behind blanks, comments, anchors and tags.
    fn content(&self, mut at: usize) -> usize {
        loop {
            let rest = self.text.get(at..).unwrap_or_default();
            let skipped = match rest.chars().next() {
                Some(' ' | '\t' | '\r' | '\n' | '\u{feff}') => rest.chars().next().map_or(0, char::len_utf8),
                Some('#') => rest.find('\n').unwrap_or(rest.len()),
                Some('&' | '!') => rest.find(char::is_whitespace).unwrap_or(rest.len()),
                _ => return at,
            };
            at += skipped;
        }
    }

    /// The parser counts what follows a quoted scalar on its line, and the blank lines behind a block, as part of it.
    fn end_of_scalar(&self, start: usize, end: usize, style: ScalarStyle) -> usize {
        let text = self.text.get(start..end).unwrap_or_default();
        let length = match style {
            ScalarStyle::DoubleQuoted => {
                let mut escaped = false;
                let closing = text.char_indices().skip(1).find(|(_, letter)| {
                    let closes = *letter == '"' && !escaped;
                    escaped = *letter == '\\' && !escaped;
                    closes
                });
                closing.map(|(at, _)| at + 1)
            }
            ScalarStyle::SingleQuoted => {
                let body = text.get(1..).unwrap_or_default().replace("''", "  ");
                body.find('\'').map(|at| at + 2)
            }
            ScalarStyle::Plain | ScalarStyle::Literal | ScalarStyle::Folded => Some(text.trim_end().len()),
        };
        start + length.unwrap_or(text.len())
    }
}

impl Place {
    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        if let Node::Scalar(text, _) = &*self.node { Some(text) } else { None }
    }

    /// Written in brackets: `{…}`, `[…]`, and all of JSON.
    pub(super) fn is_flow(&self) -> bool {
        matches!(&*self.node, Node::Map { flow: true, .. } | Node::List { flow: true, .. })
    }

    /// Nothing is written: `key:` alone.
    pub(super) fn is_blank(&self) -> bool {
        self.span.is_empty() && matches!(&*self.node, Node::Scalar(..))
    }

    /// The member of a mapping, with its key. One that is merged in (`<<`) gives way to one that is there.
    pub(super) fn member(&self, name: &str) -> Option<(&Self, &Self)> {
        let Node::Map { members, .. } = &*self.node else { return None };
        let own = members.iter().find(|(key, _)| key.text() == Some(name)).map(|(key, value)| (key, value));
        own.or_else(|| {
            let merged = members.iter().filter(|(key, _)| is_merge(key)).flat_map(|(_, value)| merged(value));
            merged.into_iter().find_map(|from| from.member(name))
        })
    }

    /// An item of a list.
    pub(super) fn item(&self, index: usize) -> Option<&Self> {
        if let Node::List { items, .. } = &*self.node { items.get(index) } else { None }
    }

    /// What it says, with aliases and merges written out.
    pub(super) fn value(&self) -> Result<Value, String> {
        let mut parts = 0;
        self.value_within(&mut parts)
    }

    fn value_within(&self, parts: &mut usize) -> Result<Value, String> {
        *parts += 1;
        if *parts > MOST_PARTS {
            return Err(format!("its aliases make it larger than {MOST_PARTS} parts"));
        }
        Ok(match &*self.node {
            Node::Scalar(text, plain) => scalar(text, *plain),
            Node::List { items, .. } => {
                Value::Array(items.iter().map(|item| item.value_within(parts)).collect::<Result<_, _>>()?)
            }
            Node::Map { members, .. } => {
                let mut map = Map::new();
                let merges = members.iter().filter(|(key, _)| is_merge(key)).flat_map(|(_, value)| merged(value));
                for from in merges {
                    if let Value::Object(more) = from.value_within(parts)? {
                        more.into_iter().for_each(|(key, value)| _ = map.entry(key).or_insert(value));
                    }
                }
                for (key, value) in members.iter().filter(|(key, _)| !is_merge(key)) {
                    let name = key.text().ok_or(NO_TEXT)?;
                    map.insert(name.to_owned(), value.value_within(parts)?);
                }
                Value::Object(map)
            }
        })
    }
}

fn is_merge(key: &Place) -> bool {
    matches!(&*key.node, Node::Scalar(text, true) if text == "<<")
}

/// The mappings that a `<<` brings, the strongest first.
fn merged(value: &Place) -> Vec<&Place> {
    match &*value.node {
        Node::List { items, .. } => items.iter().collect(),
        Node::Map { .. } | Node::Scalar(..) => vec![value],
    }
}

/// Plain scalars as Kubernetes reads them, but for fractions, which stay text: nothing here depends on them.
fn scalar(text: &str, plain: bool) -> Value {
    match text {
        _ if !plain => Value::String(text.to_owned()),
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Value::Bool(false),
        _ => text
            .parse()
            .map_or_else(|_| Value::String(text.to_owned()), |number: i64| Value::Number(Number::from(number))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of what a path leads to.
    fn at<'text>(text: &'text str, path: &str) -> &'text str {
        let documents = read(text).expect("it is YAML");
        let mut place = documents.first().expect("there is a document");
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let item = part.parse().ok().and_then(|index| place.item(index));
            place = item.or_else(|| Some(place.member(part)?.1)).unwrap_or_else(|| panic!("no {part}"));
        }
        &text[place.span.clone()]
    }

    #[test]
    fn the_text_of_each_part_is_found() {
        let text = "a: b # c\nq: \"x\\\"y\" # z\ns: 'it''s'  # '\nl:\n- é: 1 # one\n  f: {g: [1, 'two' ], h: 3 } # h\n\nt: |-\n  \
                    two\n  lines\n# end\ne:\nu: &n [1] # u\nv: *n # v\nw:   &m !!map\n  k: 1\n";
        for (path, expected) in [
            ("a", "b"),
            ("q", "\"x\\\"y\""),
            ("s", "'it''s'"),
            ("l", "- é: 1 # one\n  f: {g: [1, 'two' ], h: 3 }"),
            ("l/0", "é: 1 # one\n  f: {g: [1, 'two' ], h: 3 }"),
            ("l/0/f/g", "[1, 'two' ]"),
            ("l/0/f/g/1", "'two'"),
            ("t", "two\n  lines"),
            ("e", ""),
            ("u", "[1]"),
            ("v", "*n"),
            ("w", "k: 1"),
        ] {
            assert_eq!(at(text, path), expected, "{path}");
            let windows = text.replace('\n', "\r\n");
            assert_eq!(at(&windows, path), expected.replace('\n', "\r\n"), "{path}, with CRLF");
        }
        assert_eq!(at("\u{feff}a: {b: c}", "a"), "{b: c}", "behind a byte order mark");
    }

    #[test]
    fn merges_and_aliases_are_written_out() {
        let read =
            read("base: &b {a: 1, c: yes}\nm:\n  <<: *b\n  a: '2'\nn: {<<: [{a: 3}, *b]}\n").expect("it is YAML");
        let value = read.first().expect("there is one").value().expect("it has a value");
        let json =
            serde_json::json!({"base": {"a": 1, "c": true}, "m": {"a": "2", "c": true}, "n": {"a": 3, "c": true}});
        assert_eq!(value, json);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, line, problem) in [
            ("a:\n\tb: 1\n", 2, "indent with spaces"),
            ("a: 1\nb: *c\n", 2, "unknown anchor"),
            ("a: 1\nb: {c: 1, c: 2}\n", 2, "`c` is there twice"),
            ("a: &a [*a]\n", 1, "within what it names"),
        ] {
            let error = read(text).expect_err("it is wrong");
            assert_eq!(error.line, Some(line), "{text}: {error:?}");
            assert!(error.problem.contains(problem), "{text}: {error:?}");
        }
        assert!(read(&"[".repeat(DEEPEST + 1)).expect_err("it is deep").problem.contains("nested"));
        let bomb: String = (1..9).map(|n| format!("k{n}: &k{n} [{}]\n", format!("*k{}, ", n - 1).repeat(10))).collect();
        let bomb = read(&format!("k0: &k0 x\n{bomb}")).expect("it is YAML");
        assert!(bomb.first().expect("there is one").value().expect_err("it is huge").contains("aliases"));
    }
}
