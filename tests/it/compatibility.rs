//! The README's compatibility table, held against what is decided about each command.

use outrigger::command::route::{Cause, Route, Transaction, route};
use outrigger::command::table;
use std::collections::{BTreeMap, BTreeSet};
use std::{env, fs};

/// Rows of groups of commands, rather than of commands. What is shared is told by groups: it needs no row of its own.
const GROUPS: &[&str] = &["| shared", "Any shared command", "Commands that Outrigger does not know"];

/// Where a request goes, in the words with which the table's second column begins.
fn told(route: Route) -> &'static str {
    match route {
        Route::Shared(_) => "shared",
        Route::Local(_) => "answered here",
        Route::Transaction(Transaction::Watch) => "a lease",
        Route::Transaction(_) => "a transaction",
        Route::Subscription(_) => "over one connection of each worker",
        Route::Leased(Cause::Replication) => "on the connection that carried",
        Route::Leased(_) => "a lease",
        Route::Control => "over a new connection",
        Route::Refused => "refused",
    }
}

fn route_of(name: &str) -> Route {
    let words: Vec<&[u8]> = name.split(' ').map(str::as_bytes).collect();
    route(table::find(words[0]), || words.iter().copied())
}

/// The commands that the README's table names, and what it says of them.
fn written() -> BTreeMap<String, String> {
    let readme = fs::read_to_string(format!("{}/README.md", env!("CARGO_MANIFEST_DIR"))).expect("there is a README");
    let section = readme.split("\n## What works today\n").nth(1).expect("it has this section");
    let rows = section.split("\n## ").next().unwrap_or_default().lines().filter(|line| line.starts_with("| "));
    let mut written = BTreeMap::new();
    for row in rows.filter(|row| !GROUPS.iter().any(|group| row.contains(group))) {
        let mut cells = row.trim_matches('|').split(" | ").map(str::trim);
        let (Some(commands), Some(fate)) = (cells.next(), cells.next()) else { continue };
        for name in commands.split('`').skip(1).step_by(2).filter(|name| !name.ends_with('…')) {
            let known = written.insert(name.to_lowercase(), fate.to_owned());
            assert!(known.is_none(), "{name} has two rows");
        }
    }
    written
}

#[test]
fn the_readme_says_of_each_command_what_happens_to_it() {
    let written = written();
    let mut wrong = Vec::new();
    let mut named = BTreeSet::new();
    for command in table::all().iter().filter(|command| !command.is_container()) {
        let name = command.name.replace('|', " ");
        // With an option that asks for it.
        let words = if matches!(name.as_str(), "xread" | "xreadgroup") {
            format!("{name} block 0 streams s $")
        } else {
            name.clone()
        };
        let fate = told(route_of(&words));
        match written.get(&name) {
            Some(text) if text.starts_with(fate) => {}
            Some(text) => wrong.push(format!("{name}: {fate}; the README says: {text}")),
            // The first rows are about groups of them, and what is not in the table is refused as HTTP is.
            None if fate == "shared" || matches!(name.as_str(), "post" | "host:") => {}
            None => wrong.push(format!("{name}: {fate}; the README does not name it")),
        }
        named.insert(name);
    }
    let nothing = written.keys().filter(|name| !named.contains(*name) && table::find(name.as_bytes()).is_none());
    wrong.extend(nothing.map(|name| format!("{name} is in the README and is no command")));
    assert!(wrong.is_empty(), "README.md, What works today:\n  {}", wrong.join("\n  "));
}
