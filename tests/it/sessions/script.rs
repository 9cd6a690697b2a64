//! What the clients of one script do, one step after the other, as text that a person reads and writes.
//!
//! ```text
//! 1: WATCH s1; GET s1           client 1 sends these in one write
//! 2 waits: BLPOP l1 0.01        and the next step begins when client 2 is blocked no more
//! 2 finishes: SET s1 v          client 2 sends this, says that it sends nothing more, and reads to the end
//! 1 leaves                      client 1 closes its connection; its next step is that of a new connection
//! 1 resets                      the same, without an orderly end
//! ```
//!
//! `{id2}` within a command is the id that client 2 was told by CLIENT ID. Quotes are those of the corpus of single commands.

use crate::differential::split;
use crate::support::command;
use std::fmt;

/// The steps of up to [`MOST_CLIENTS`] clients.
#[derive(Clone, PartialEq, Eq)]
pub struct Script {
    /// In the order in which they happen.
    pub steps: Vec<Step>,
}

/// What one client does in one write.
#[derive(Clone, PartialEq, Eq)]
pub struct Step {
    /// Which client, from 1.
    pub client: usize,
    /// What it does besides sending.
    pub manner: Manner,
    /// What it sends.
    pub commands: Vec<String>,
}

/// How a step is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It sends.
    Says,
    /// It sends what may block for a short time, and nobody does anything until that is over.
    Waits,
    /// It sends, says that it sends nothing more, and reads to the end.
    Finishes,
    /// It closes its connection.
    Leaves,
    /// It closes its connection without an orderly end.
    Resets,
}

/// How many clients a script has at most.
pub const MOST_CLIENTS: usize = 5;

/// What separates the commands of a step, and what the steps of a script in one line.
const BETWEEN_COMMANDS: &str = "; ";
const BETWEEN_STEPS: &str = " | ";

impl Script {
    /// Reads what [`Display`](fmt::Display) shows: a step to a line, or separated by ` | `.
    pub fn read(text: &str) -> Self {
        let steps = text.lines().flat_map(|line| line.split(BETWEEN_STEPS)).map(str::trim);
        Self { steps: steps.filter(|step| !step.is_empty()).map(Step::read).collect() }
    }
}

impl Step {
    /// The client closes its sending side, so that all that is left to come to it comes.
    pub const fn end_of(client: usize) -> Self {
        Self { client, manner: Manner::Finishes, commands: Vec::new() }
    }

    fn read(text: &str) -> Self {
        let (head, commands) = text.split_once(':').unwrap_or((text, ""));
        let (client, verb) = head.split_once(' ').unwrap_or((head, ""));
        let manner = [Manner::Says, Manner::Waits, Manner::Finishes, Manner::Leaves, Manner::Resets];
        let manner = manner.into_iter().find(|manner| manner.verb() == verb);
        let client = client.parse().ok().filter(|client| (1..=MOST_CLIENTS).contains(client));
        match (client, manner) {
            (Some(client), Some(manner)) => Self { client, manner, commands: commands_of(commands) },
            _ => panic!("no step: {text}"),
        }
    }

    /// The clients whose ids are sent.
    pub fn named(&self) -> Vec<usize> {
        (1..=MOST_CLIENTS)
            .filter(|client| self.commands.iter().any(|text| text.contains(&placeholder(*client))))
            .collect()
    }

    /// What is sent, where `id` says the ids of clients.
    pub fn bytes(&self, id: impl Fn(usize) -> String) -> Vec<u8> {
        let mut bytes = Vec::new();
        for text in &self.commands {
            let told = self
                .named()
                .into_iter()
                .fold(text.clone(), |text, client| text.replace(&placeholder(client), &id(client)));
            let arguments: Vec<_> = split(&told).iter().map(|argument| argument.bytes(b"")).collect();
            bytes.extend(command(&arguments));
        }
        bytes
    }

    /// Whether one of the commands begins so, in whichever case.
    pub fn says(&self, start: &str) -> bool {
        self.commands.iter().any(|text| begins_with(text, start))
    }

    /// Whether one of the commands is exactly this.
    pub fn says_only(&self, whole: &str) -> bool {
        self.commands.iter().any(|text| text.eq_ignore_ascii_case(whole))
    }
}

/// Whether a command begins with these words, in whichever case.
pub fn begins_with(command: &str, start: &str) -> bool {
    let (words, wanted) = (command.split(' '), start.split(' '));
    wanted.clone().count() <= words.clone().count()
        && words.zip(wanted).all(|(word, wanted)| word.eq_ignore_ascii_case(wanted))
}

/// The commands of one write.
pub fn commands_of(text: &str) -> Vec<String> {
    text.split(BETWEEN_COMMANDS).map(str::trim).filter(|text| !text.is_empty()).map(ToOwned::to_owned).collect()
}

/// What stands for the id of a client.
pub fn placeholder(client: usize) -> String {
    format!("{{id{client}}}")
}

impl Manner {
    const fn verb(self) -> &'static str {
        match self {
            Self::Says => "",
            Self::Waits => "waits",
            Self::Finishes => "finishes",
            Self::Leaves => "leaves",
            Self::Resets => "resets",
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().enumerate().try_for_each(|(number, step)| {
            let before = if number == 0 { "" } else { "\n" };
            write!(out, "{before}{step}")
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.client)?;
        if self.manner != Manner::Says {
            write!(out, " {}", self.manner.verb())?;
        }
        if self.commands.is_empty() { Ok(()) } else { write!(out, ": {}", self.commands.join(BETWEEN_COMMANDS)) }
    }
}

#[test]
fn scripts_are_read_as_they_are_shown() {
    let text =
        "1: MULTI; SET s1 \"a b\"; EXEC\n2 waits: BLPOP l1 0.01\n1 leaves\n2 resets\n3 finishes: PING\n3 finishes";
    assert_eq!(Script::read(text).to_string(), text);
    assert_eq!(Script::read(&text.replace('\n', " | ")).to_string(), text);
    let step = Step::read("1: CLIENT UNBLOCK {id2}; PING");
    assert_eq!(step.named(), [2]);
    assert_eq!(
        step.bytes(|_| "17".to_owned()),
        [&command(&["CLIENT", "UNBLOCK", "17"])[..], &command(&["PING"])].concat()
    );
    assert!(step.says("client unblock") && step.says_only("ping") && !step.says_only("client"));
}
