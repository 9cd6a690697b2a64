//! The README's table of the log's lines, held against the lines that the code writes.

use super::{read, report, sources};
use std::collections::BTreeSet;

/// Levels that are in the table, as the code and as the table has them.
const LEVELS: [(&str, &str); 3] = [("error", "ERROR"), ("warn", "WARN"), ("info", "INFO")];

type Lines = BTreeSet<(&'static str, String)>;

#[test]
fn the_readme_lists_every_line_of_the_log() {
    let (written, listed) = (of_code(), of_readme());
    assert!(written.len() > 40, "the lines were not found: {written:?}");
    let missing = written.difference(&listed).map(|(level, message)| format!("{level} `{message}` is missing"));
    let surplus = listed.difference(&written).map(|(level, message)| format!("{level} `{message}` is never written"));
    report(
        "README.md has each line of the log in its table: | LEVEL | `message` | what it means, and what to do |; in the \
         code the message is the last thing in the macro",
        &missing.chain(surplus).collect::<Vec<_>>(),
    );
}

/// All that the code may write.
fn of_code() -> Lines {
    let mut lines = Lines::new();
    for source in sources() {
        let code = source.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (name, level) in LEVELS {
            let opening = format!("tracing::{name}!(");
            for (at, _) in code.match_indices(&opening) {
                lines.insert((level, last_text(&code[at + opening.len()..])));
            }
        }
    }
    lines
}

/// The last string before the parenthesis that is open here is closed.
fn last_text(code: &str) -> String {
    let (mut depth, mut text, mut last, mut within) = (1, String::new(), String::new(), false);
    for letter in code.chars() {
        match letter {
            '"' if within => {
                last = std::mem::take(&mut text);
                within = false;
            }
            '"' => within = true,
            _ if within => text.push(letter),
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    last
}

/// All that the table lists.
fn of_readme() -> Lines {
    let mut lines = Lines::new();
    for row in read("README.md").lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [levels, messages, _meaning] = cells.as_slice() else { continue };
        let levels: Vec<_> = levels.split(", ").collect();
        let known = |level: &&str| LEVELS.iter().find(|(_, shown)| shown == level).map(|(_, shown)| *shown);
        let levels: Vec<_> = levels.iter().filter_map(known).collect();
        let messages: Vec<_> = messages.split('`').skip(1).step_by(2).collect();
        // One level for all messages, one for each, or several for one.
        for (at, message) in messages.iter().enumerate() {
            let of_message = match levels.as_slice() {
                [level] => vec![*level],
                several if messages.len() == 1 => several.to_vec(),
                several => several.get(at).copied().into_iter().collect(),
            };
            lines.extend(of_message.into_iter().map(|level| (level, (*message).to_owned())));
        }
    }
    lines
}

#[test]
fn the_message_is_the_last_string_of_the_macro() {
    assert_eq!(last_text(r#"version = env!("A"), "forwarding"); f("not this")"#), "forwarding");
    assert_eq!(last_text("\n    %error,\n    \"it (broke)\"\n);"), "it (broke)");
}
