//! The corpus: commands written as one would type them, one to a line.
//!
//! `# …` is a remark. `== …` begins a section, which starts with nothing stored. `>=7.0` or `>=9.1` before a command keeps
//! it from older servers (commands that a server does not know at all are left out without being told).
//! Double quotes know `\r \n \t \\ \" \xHH`. A whole argument may be `{last}` (the payload of the reply before),
//! `{1k}` or `{100k}` (that many bytes of every value).

use crate::support::Kind;

/// All parts of the corpus; those with data commands first.
const PARTS: [&str; 10] = [
    include_str!("corpus/strings.txt"),
    include_str!("corpus/hashes.txt"),
    include_str!("corpus/lists.txt"),
    include_str!("corpus/sets.txt"),
    include_str!("corpus/zsets.txt"),
    include_str!("corpus/sketches.txt"),
    include_str!("corpus/streams.txt"),
    include_str!("corpus/keys.txt"),
    include_str!("corpus/scripts.txt"),
    include_str!("corpus/server.txt"),
];

/// How many of the parts are about data.
const DATA_PARTS: usize = 8;

/// One command of the corpus.
pub struct Line {
    /// As it is written, without the version.
    pub text: String,
    /// The oldest server it is meant for.
    pub since: Kind,
    /// Name and arguments.
    pub arguments: Vec<Argument>,
}

/// One argument.
pub enum Argument {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The payload of the reply before.
    Last,
}

/// The whole corpus.
pub fn lines() -> Vec<Line> {
    PARTS.iter().flat_map(|part| part.lines()).filter_map(Line::read).collect()
}

/// The part that is about data.
pub fn data_lines() -> Vec<Line> {
    PARTS[..DATA_PARTS].iter().flat_map(|part| part.lines()).filter_map(Line::read).collect()
}

impl Line {
    /// Reads one line; `None` for remarks.
    pub fn read(line: &str) -> Option<Self> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        if line.starts_with("== ") {
            return Self::read("FLUSHALL");
        }
        let (since, text) = match line.strip_prefix(">=").and_then(|rest| rest.split_once(' ')) {
            Some(("7.0", text)) => (Kind::Redis70, text),
            Some(("9.1", text)) => (Kind::Valkey91, text),
            Some((version, _)) => panic!("no such version: {version}"),
            None => (Kind::Redis62, line),
        };
        Some(Self { text: text.to_owned(), since, arguments: split(text) })
    }

    /// The name and the first argument if there is one, in capitals.
    pub fn words(&self) -> Vec<String> {
        self.text.split_whitespace().take(2).map(str::to_uppercase).collect()
    }
}

impl Argument {
    /// What is sent, given the payload of the reply before.
    pub fn bytes(&self, last: &[u8]) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Last => last.to_vec(),
        }
    }

    fn bare(word: &str) -> Self {
        match word {
            "{last}" => Self::Last,
            "{1k}" => Self::Bytes(all_bytes(1024)),
            "{100k}" => Self::Bytes(all_bytes(100 * 1024)),
            _ => Self::Bytes(word.as_bytes().to_vec()),
        }
    }
}

/// `length` bytes, of every value.
fn all_bytes(length: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(length).collect()
}

/// The arguments that `text` is made of.
pub fn split(mut text: &str) -> Vec<Argument> {
    let mut arguments = Vec::new();
    while !text.is_empty() {
        if let Some(quoted) = text.strip_prefix('"') {
            let (bytes, rest) = unquote(quoted);
            arguments.push(Argument::Bytes(bytes));
            text = rest.trim_start();
        } else {
            let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
            arguments.push(Argument::bare(word));
            text = rest.trim_start();
        }
    }
    arguments
}

/// The bytes up to the closing quote, and what follows it.
fn unquote(text: &str) -> (Vec<u8>, &str) {
    let mut bytes = Vec::new();
    let mut rest = text;
    loop {
        let mut letters = rest.chars();
        match letters.next().unwrap_or_else(|| panic!("no closing quote: {text}")) {
            '"' => return (bytes, letters.as_str()),
            '\\' => rest = unescape(letters.as_str(), &mut bytes),
            letter => {
                bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                rest = letters.as_str();
            }
        }
    }
}

/// Takes what follows a backslash; returns what comes after it.
fn unescape<'text>(text: &'text str, bytes: &mut Vec<u8>) -> &'text str {
    let (letter, rest) = text.split_at(1);
    match letter {
        "r" => bytes.push(b'\r'),
        "n" => bytes.push(b'\n'),
        "t" => bytes.push(b'\t'),
        "x" => {
            let (digits, rest) = rest.split_at(2);
            bytes.push(u8::from_str_radix(digits, 16).expect("two hexadecimal digits"));
            return rest;
        }
        _ => bytes.extend_from_slice(letter.as_bytes()),
    }
    rest
}
