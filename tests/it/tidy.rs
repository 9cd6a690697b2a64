//! The house rules, as far as a program can check them. Each failure says which line is meant and how to mend it.

mod log;

use crate::support::is_direct;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of code that a file may have; its subject then still fits into one sitting.
const MOST_CODE_LINES: usize = 700;

/// Notes of work left undone.
const UNDONE: [&str; 5] = ["TODO", "FIXME", "XXX", "todo!", "unimplemented!"];

/// What the code of a directory (with the file of its name) may say `crate::…` to.
const IMPORTS: &[(&str, Allowed)] = &[
    ("resp", Allowed::Only(&[])),
    ("command", Allowed::Only(&["resp"])),
    ("observe", Allowed::Only(&["command"])),
    ("buffer", Allowed::Only(&["transport"])),
    ("transport", Allowed::Only(&["buffer"])),
    ("upstream", Allowed::AllBut(&["admin", "app", "client", "command", "config", "worker"])),
    ("client", Allowed::AllBut(&["admin", "app", "config", "worker"])),
    ("lifecycle", Allowed::Only(&["observe", "secret"])),
    ("secret", Allowed::Only(&[])),
    ("inject", Allowed::Only(&["config"])),
    ("http", Allowed::Only(&["transport"])),
    ("webhook", Allowed::Only(&["config", "http", "inject", "lifecycle", "version"])),
    ("admin", Allowed::Only(&["buffer", "client", "http", "lifecycle", "observe", "secret", "upstream", "version"])),
];

/// Libraries that only these may name, so that each can be replaced in one place.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("redis_protocol", &["check", "resp", "upstream"]),
    ("clap", &["config", "main", "observe"]),
    ("hyper", &["admin", "http", "webhook"]),
    ("saphyr_parser", &["inject"]),
    ("rustls", &["webhook"]),
];

/// What the README says of the default where the help names none.
const NO_DEFAULT: [&str; 3] = ["required", "none", "off"];

enum Allowed {
    Only(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}

impl Allowed {
    fn permits(&self, module: &str) -> bool {
        match self {
            Self::Only(modules) => modules.contains(&module),
            Self::AllBut(modules) => !modules.contains(&module),
        }
    }
}

#[test]
fn every_file_opens_by_saying_what_it_is_for() {
    let silent = sources().into_iter().filter(|source| !source.text.starts_with("//! "));
    report(
        "begin the file with `//! ` and a sentence: what it is for, and what it owns",
        &silent.map(|source| source.path).collect::<Vec<_>>(),
    );
}

#[test]
fn no_file_is_longer_than_a_sitting() {
    let lengths = sources().into_iter().map(|source| (source.code().len(), source.path));
    let long = lengths.filter(|(lines, _)| *lines > MOST_CODE_LINES);
    report(
        &format!("more than {MOST_CODE_LINES} lines of code: move what can be named on its own to a file of that name"),
        &long.map(|(lines, path)| format!("{path}: {lines} lines")).collect::<Vec<_>>(),
    );
}

#[test]
fn nothing_is_left_undone() {
    let mut found = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            if UNDONE.iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    report("do it now, or write an issue and remove the note", &found);
}

#[test]
fn dependencies_between_modules_point_one_way() {
    let sources = sources();
    let modules: BTreeSet<_> = sources.iter().map(Source::module).collect();
    let mut found = Vec::new();
    for source in &sources {
        let own = source.module();
        let Some((_, allowed)) = IMPORTS.iter().find(|(module, _)| *module == own) else { continue };
        let used = source.modules_used();
        for used in used.iter().map(String::as_str).filter(|used| *used != own && modules.contains(used)) {
            if !allowed.permits(used) {
                found.push(format!("{} uses crate::{used}", source.path));
            }
        }
    }
    report(
        "these directories do not know each other: hand in what is needed as an argument or a trait, or move it to the \
         side that owns it (the rules are IMPORTS in tests/it/tidy.rs)",
        &found,
    );
}

#[test]
fn libraries_are_named_only_where_they_can_be_replaced() {
    let mut found = Vec::new();
    for source in sources() {
        for (library, places) in LIBRARIES {
            let names = |line: &&str| line.contains(&format!("{library}::"));
            if !places.contains(&source.module()) && source.code().iter().any(names) {
                found.push(format!("{} names {library}, which belongs to {places:?}", source.path));
            }
        }
    }
    report("let the place that the library belongs to offer what is needed in our own words", &found);
}

#[test]
fn every_dependency_says_why_it_is_there() {
    let manifest = read("Cargo.toml");
    let (mut unexplained, mut lists_dependencies, mut before) = (Vec::new(), false, "");
    for line in manifest.lines() {
        if line.starts_with('[') {
            lists_dependencies = line.contains("dependencies");
        } else if lists_dependencies && line.contains('=') && !line.starts_with('#') && !before.starts_with("# ") {
            unexplained.push(format!("Cargo.toml: {line}"));
        }
        before = line;
    }
    report("say in a comment on the line above what we use it for", &unexplained);
}

/// Sections of the README that list flags, and what they are flags of.
const TABLES: [(&str, &[&str]); 2] = [("## Configuration", &[]), ("### Webhook", &["webhook"])];

#[test]
fn the_readme_lists_every_flag_as_the_help_does() {
    let mut found = Vec::new();
    for (section, command) in TABLES {
        let (help, readme) = (flags_of_help(command), flags_of_readme(section));
        assert!(help.contains_key("--listen"), "the help could not be read: {help:?}");
        for (flag, told) in &help {
            match readme.get(flag) {
                None => found.push(format!("{section}: {flag} is missing; the help says {told}")),
                Some(written) if !written.agrees_with(told) => {
                    found.push(format!("{section}: {flag}: the README says {written}, the help {told}"));
                }
                Some(_) => {}
            }
        }
        let surplus = readme.keys().filter(|flag| !help.contains_key(*flag));
        found.extend(surplus.map(|flag| format!("{section}: {flag} does not exist")));
    }
    report(
        &format!(
            "README.md has one row for each flag of `outrigger --help`: | `--flag VALUE` | `VARIABLE` | `default` | \
             meaning |; a default that the help does not state is one of {NO_DEFAULT:?}"
        ),
        &found,
    );
}

/// Fails with how to mend it and everything that was found.
fn report(remedy: &str, found: &[String]) {
    assert!(found.is_empty(), "{remedy}:\n  {}", found.join("\n  "));
}

/// One file of `src`.
struct Source {
    /// From the root of the repository.
    path: String,
    /// The modules it lies in, its own name last: `["upstream", "pool"]`.
    names: Vec<String>,
    text: String,
}

impl Source {
    fn module(&self) -> &str {
        &self.names[0]
    }

    /// Its lines, but for blank ones and comments.
    fn code(&self) -> Vec<&str> {
        self.text.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//")).collect()
    }

    /// What the code names at the root of the crate, by `crate::` or by enough `super::`.
    fn modules_used(&self) -> BTreeSet<String> {
        let code = self.code().join("\n");
        let to_the_root = "super::".repeat(self.names.len());
        let mut used = BTreeSet::new();
        for root in ["crate::", &to_the_root] {
            for (start, _) in code.match_indices(root) {
                let goes_on = |before: &str| before.ends_with(|last: char| is_of_name(last) || last == ':');
                if !goes_on(&code[..start]) {
                    used.extend(first_names(&code[start + root.len()..]));
                }
            }
        }
        used
    }
}

/// The first name of a path, or of every path in `{…}`.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| text.trim_start().chars().take_while(|letter| is_of_name(*letter)).collect::<String>();
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut names, mut depth) = (vec![name(group)], 0);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(&group[at + 1..])),
            _ => {}
        }
    }
    names
}

fn is_of_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

#[test]
fn imports_are_found_however_they_are_written() {
    let source = |names: &[&str], text: &str| Source {
        path: String::new(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        text: text.to_owned(),
    };
    let used = |names: &[&str], text: &str| source(names, text).modules_used().into_iter().collect::<Vec<_>>();
    assert_eq!(used(&["resp"], "use crate::client::Clients;"), ["client"]);
    assert_eq!(used(&["resp"], "use crate::{\n    client::{a, b},\n    worker,\n};"), ["", "client", "worker"]);
    assert_eq!(used(&["resp"], "fn f(c: &crate::config::Config) {}"), ["config"]);
    assert_eq!(used(&["resp", "reply"], "use super::super::config;\nuse super::header;"), ["config"]);
    assert_eq!(used(&["resp", "reply"], "/// As [`crate::config`].\n// use crate::app;"), [""; 0]);
}

/// All files of `src`, in the order of their paths.
fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    collect(&root().join("src"), &mut paths);
    paths.sort();
    assert!(paths.len() > 10, "src was not found: {paths:?}");
    paths.iter().map(|path| source(path)).collect()
}

fn source(path: &Path) -> Source {
    let path = path.strip_prefix(root()).expect("it was found there").display().to_string();
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    Source { names: inside.split('/').map(str::to_owned).collect(), text: read(&path), path }
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the directory can be read") {
        let path = entry.expect("the directory can be read").path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path} cannot be read: {error}"))
}

/// What is said of one flag.
#[derive(Debug)]
struct Flag {
    variable: String,
    default: Option<String>,
}

impl Flag {
    fn agrees_with(&self, other: &Self) -> bool {
        self.variable == other.variable && self.default == other.default
    }
}

impl std::fmt::Display for Flag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`, default: {}", self.variable, self.default.as_deref().unwrap_or("none"))
    }
}

/// The flags that the help of the program or one of its commands lists, but for `--help` and `--version`.
fn flags_of_help(command: &[&str]) -> BTreeMap<String, Flag> {
    let output =
        Command::new(binary()).args(command).arg("--help").env_clear().output().expect("the program can be run");
    assert!(output.status.success(), "outrigger --help ended with {}", output.status);
    let text = String::from_utf8(output.stdout).expect("the help is UTF-8");
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("--") {
            blocks.push(Vec::new());
        }
        if let Some(block) = blocks.last_mut() {
            block.push(line);
        }
    }
    blocks.into_iter().filter_map(|block| flag_of_help(&block)).collect()
}

/// One flag and all that the help says of it, in the lines that it is wrapped to.
fn flag_of_help(lines: &[&str]) -> Option<(String, Flag)> {
    let text = lines.join(" ");
    let (name, _) = text.split_once(' ')?;
    let variable = between(&text, "[env: ", "]")?.split('=').next()?.to_owned();
    // A list as default may hold brackets itself: it ends where the line does.
    let default = lines.iter().find_map(|line| line.strip_prefix("[default: ")?.strip_suffix(']'));
    let default = default.or_else(|| between(&text, "[default: ", "]")).map(str::to_owned);
    Some((name.to_owned(), Flag { variable, default }))
}

fn between<'text>(text: &'text str, start: &str, end: &str) -> Option<&'text str> {
    text.split_once(start)?.1.split_once(end).map(|(inside, _)| inside)
}

/// The rows in a section of the README whose first cell is a flag.
fn flags_of_readme(section: &str) -> BTreeMap<String, Flag> {
    let readme = read("README.md");
    let lines = readme.lines().skip_while(|line| *line != section).skip(1);
    let rows = lines.take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| `--"));
    let mut flags = BTreeMap::new();
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(|cell| cell.trim().replace('`', "")).collect();
        let [flag, variable, default, _meaning] = cells.as_slice() else {
            panic!("this row of README.md has not four cells: {row}");
        };
        let name = flag.split(' ').next().unwrap_or_default().to_owned();
        let default = Some(default.clone()).filter(|default| !NO_DEFAULT.contains(&default.as_str()));
        let twice = flags.insert(name, Flag { variable: variable.clone(), default });
        assert!(twice.is_none(), "README.md has two rows for this flag: {row}");
    }
    flags
}

/// The program under test; the one just built where the tests run without a proxy.
fn binary() -> String {
    let named = std::env::var("OUTRIGGER_BIN").ok().filter(|_| !is_direct());
    named.unwrap_or_else(|| env!("CARGO_BIN_EXE_outrigger").to_owned())
}
