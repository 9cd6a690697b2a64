//! `outrigger inject` and `outrigger uninject`: manifests with the sidecar added, and taken out again.
//!
//! ```text
//!  text ─▶ yaml: tree with positions ─▶ workload: where pods are ─▶ plan | undo: edits ─▶ text: the same text, edited
//!                                          options, source ───────────┘                        │
//!                                                                       read again, compared ◀─┘
//! ```
//!
//! What is decided (`plan`, `undo`) is a list of [`edit::Edit`]s about a JSON document, so that whatever has a pod as JSON can
//! use it: the webhook makes a JSON patch of them (`patch`). Here they are carried out twice: on the document, and on its text. The text is read again, and must say what the
//! document says then; so nothing that anchors, merges or an unusual layout would make of an edit is ever written.
//!
//! What makes injection reversible is that nothing is lost: who answers at a URL, or the reference to a Secret, moves to the
//! sidecar in the same words; and an annotation names what was added.

pub mod edit;
pub mod options;
mod patch;
pub mod plan;
mod sidecar;
mod source;
mod text;
mod undo;
pub mod workload;
mod yaml;

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;

use crate::config::{Inject, Manifests};
use edit::{Edit, apply};
pub use options::Defaults;
pub use plan::Not;
use text::{Layout, Replacement};
use workload::{Known, Workload};

/// Where anchors keep a part from being changed for one place alone.
const SHARED: &str = "what must change stands for other parts too, by an anchor (&name, *name, <<): write it out";
/// Where the text after an edit is not what was meant, for no reason that is known.
const UNREADABLE: &str =
    "its layout is not understood, so it cannot be changed safely: run it through kubectl or yq first";

/// The annotation of what a node shows to the cluster of its static pods.
const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";

/// A manifest, and where it comes from.
struct Input {
    name: String,
    text: String,
}

/// What became of a workload, in words, and whether all is well.
struct Told {
    line: String,
    fine: bool,
}

/// What is done to one workload.
struct Change {
    edits: Vec<Edit>,
    said: String,
}

/// What injection changes of a pod that is about to be made.
#[derive(Debug)]
pub struct Patch {
    /// A patch of RFC 6902.
    pub operations: Value,
    /// What goes where, for people.
    pub said: String,
    /// What they should know besides.
    pub warnings: Vec<String>,
}

/// What injection changes of a pod that is about to be made: what [`run`] changes of its manifest. A pod that has its
/// sidecar is left alone.
///
/// # Errors
/// Why it does nothing.
pub fn patch(pod: &Value, defaults: &Defaults) -> Result<Patch, Not> {
    let workload = workload::workloads(pod).into_iter().find(|workload| workload.kind == "Pod");
    let workload = workload.ok_or_else(|| Not::Wanted("it is no pod".to_owned()))?;
    // By whatever way it came, and whoever else has changed the pod since.
    if workload.has_sidecar(pod) {
        return Err(Not::Wanted("it has its sidecar".to_owned()));
    }
    if undo::uninject(pod, &workload)?.is_some() {
        return Err(Not::Possible(
            "it says that it was injected, and has no sidecar: annotations were copied, but not all else".to_owned(),
        ));
    }
    if pod.pointer(MIRROR).is_some() {
        return Err(Not::Wanted("it shows a static pod, which is made by its node".to_owned()));
    }
    let plan = plan::inject(pod, &workload, defaults, &[], &|_, _| None)?;
    Ok(Patch { operations: patch::patch(pod, &plan.edits), said: plan.said, warnings: plan.warnings })
}

/// Adds sidecars. The exit code is 1, and nothing is written, if one workload is refused or cannot be read.
#[must_use]
pub fn run(wanted: &Inject) -> ExitCode {
    let defaults = Defaults::new(wanted.image.clone(), &wanted.sidecar);
    answer(&wanted.manifests, |inputs, told| {
        // What an earlier injection did is undone first, so that the same options give the same bytes.
        let (mut undoing, undone) = (Vec::new(), RefCell::new(HashSet::new()));
        let before = change_all(inputs, &mut undoing, |document, workload, _, _| {
            let edits = undo::uninject(document, workload).unwrap_or_default();
            edits.is_some().then(|| undone.borrow_mut().insert(workload.title.clone()));
            Ok(edits.map(Change::silent))
        })?;
        if undoing.iter().any(|told| !told.fine) {
            return Err(undoing);
        }
        let known = known(&before);
        change_all(&before, told, |document, workload, layout, warnings| {
            if let Err(reason) = undo::uninject(document, workload) {
                return Err(Not::Possible(reason));
            }
            let plan = plan::inject(document, workload, &defaults, &known, &|at, other| layout.own_words(at, other));
            let plan = match plan {
                Err(Not::Wanted(reason)) if undone.borrow().contains(&workload.title) => {
                    let said = format!("the sidecar is taken out: {reason}");
                    return Ok(Some(Change { edits: Vec::new(), said }));
                }
                plan => plan?,
            };
            warnings.extend(plan.warnings);
            Ok(Some(Change { edits: plan.edits, said: format!("injected: {}", plan.said) }))
        })
    })
}

/// Takes sidecars out. The exit code is 1, and nothing is written, if that cannot be done for one workload.
#[must_use]
pub fn undo(manifests: &Manifests) -> ExitCode {
    answer(manifests, |inputs, told| {
        change_all(inputs, told, |document, workload, _, _| match undo::uninject(document, workload) {
            Ok(Some(edits)) => Ok(Some(Change { edits, said: "the sidecar is taken out".to_owned() })),
            Ok(None) => Err(Not::Wanted("it has no sidecar".to_owned())),
            Err(reason) => Err(Not::Possible(reason)),
        })
    })
}

/// Reads manifests, has them changed, says what happened, and writes the result if all is well.
#[expect(clippy::print_stderr, reason = "what happened is not part of the manifests, which go to the standard output")]
fn answer(
    manifests: &Manifests,
    work: impl FnOnce(&[Input], &mut Vec<Told>) -> Result<Vec<Input>, Vec<Told>>,
) -> ExitCode {
    let mut told = Vec::new();
    let result = read(&manifests.files)
        .map_err(|problem| vec![Told::wrong(problem)])
        .and_then(|inputs| work(&inputs, &mut told));
    let outputs = result.unwrap_or_else(|problems| {
        told.extend(problems);
        Vec::new()
    });
    told.iter().for_each(|told| eprintln!("{}", told.line));
    if told.iter().any(|told| !told.fine) {
        eprintln!("nothing is written");
        return ExitCode::FAILURE;
    }
    match io::stdout().lock().write_all(joined(&outputs).as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write: {error}");
            ExitCode::FAILURE
        }
    }
}

fn read(files: &[PathBuf]) -> Result<Vec<Input>, String> {
    let stdin = [PathBuf::from("-")];
    let files = if files.is_empty() { &stdin } else { files };
    let read_one = |file: &PathBuf| {
        let mut bytes = Vec::new();
        let (name, read) = if file.as_os_str() == "-" {
            ("standard input".to_owned(), io::stdin().read_to_end(&mut bytes).map(drop))
        } else {
            (file.display().to_string(), fs::read(file).map(|read| bytes = read))
        };
        read.map_err(|error| format!("{name}: {error}"))?;
        let text = String::from_utf8(bytes).map_err(|_| format!("{name}: it is not in UTF-8"))?;
        Ok(Input { name, text })
    };
    files.iter().map(read_one).collect()
}

/// All texts as one, their documents apart.
fn joined(outputs: &[Input]) -> String {
    let mut out = String::new();
    for Input { text, .. } in outputs {
        let text = if out.is_empty() { text.as_str() } else { text.trim_start_matches('\u{feff}') };
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        if !out.is_empty() && !text.starts_with("---") {
            out.push_str("---\n");
        }
        out.push_str(text);
    }
    out
}

/// The Secrets and ConfigMaps in all manifests.
fn known(inputs: &[Input]) -> Vec<Known> {
    let documents = inputs.iter().filter_map(|input| yaml::read(&input.text).ok()).flatten();
    documents.filter_map(|document| document.value().ok()).flat_map(|value| workload::known(&value)).collect()
}

/// Changes the workloads of all manifests as is decided for each.
fn change_all(
    inputs: &[Input],
    told: &mut Vec<Told>,
    decide: impl Fn(&Value, &Workload, &Layout<'_>, &mut Vec<String>) -> Result<Option<Change>, Not>,
) -> Result<Vec<Input>, Vec<Told>> {
    let mut problems = Vec::new();
    let mut outputs = Vec::new();
    for input in inputs {
        match change(&input.text, told, &decide) {
            Ok(text) => outputs.push(Input { name: input.name.clone(), text }),
            Err(yaml::Error { line, problem }) => {
                let line = line.map(|line| format!(":{line}")).unwrap_or_default();
                problems.push(Told::wrong(format!("{}{line}: {problem}", input.name)));
            }
        }
    }
    if problems.is_empty() { Ok(outputs) } else { Err(problems) }
}

/// Changes one text.
fn change(
    text: &str,
    told: &mut Vec<Told>,
    decide: impl Fn(&Value, &Workload, &Layout<'_>, &mut Vec<String>) -> Result<Option<Change>, Not>,
) -> Result<String, yaml::Error> {
    let documents = yaml::read(text)?;
    let mut replacements: Vec<Replacement> = Vec::new();
    let mut expected = Vec::new();
    let mut titles = Vec::new();
    for document in &documents {
        let line = text.get(..document.span.start).map(|before| before.matches('\n').count() + 1);
        let value = document.value().map_err(|problem| yaml::Error { line, problem })?;
        let mut after = value.clone();
        let mut changed = Vec::new();
        for workload in workload::workloads(&value) {
            let mut warnings = Vec::new();
            let layout = Layout::new(text, document, &value, &workload.pod());
            let decided = decide(&value, &workload, &layout, &mut warnings);
            told.extend(
                warnings.into_iter().map(|warning| Told::fine(&workload.title, &format!("warning: {warning}"))),
            );
            let done = decided.and_then(|change| {
                let Some(change) = change else { return Ok(None) };
                let edits = change.edits.iter().map(|edit| layout.replacement(edit));
                replacements.extend(edits.collect::<Result<Vec<_>, _>>()?);
                apply(&mut after, &change.edits);
                changed.push(workload.title.clone());
                Ok(Some(change.said).filter(|said| !said.is_empty()))
            });
            told.extend(match done {
                Ok(said) => said.map(|said| Told::fine(&workload.title, &said)),
                Err(Not::Wanted(reason)) => Some(Told::fine(&workload.title, &format!("left alone: {reason}"))),
                Err(Not::Possible(reason)) => Some(Told::wrong(format!("{}: refused: {reason}", workload.title))),
            });
        }
        expected.push(after);
        titles.push((changed.join(" and "), document.linked));
    }
    let edited = text::replace(text, replacements).filter(|edited| !edited.is_empty() || text.is_empty());
    let read_again = edited.as_deref().and_then(|edited| yaml::read(edited).ok()).unwrap_or_default();
    let found = read_again.iter().map(yaml::Place::value).map(Result::ok).chain(std::iter::repeat(None));
    for ((expected, (title, linked)), found) in expected.iter().zip(&titles).zip(found) {
        if !found.is_some_and(|found| is_same(&found, expected)) {
            if title.is_empty() {
                continue;
            }
            let reason = if *linked { SHARED } else { UNREADABLE };
            told.push(Told::wrong(format!("{title}: refused: {reason}")));
        }
    }
    Ok(edited.unwrap_or_default())
}

/// Whether two documents say the same: nothing, `{}` and `[]` do.
fn is_same(one: &Value, other: &Value) -> bool {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let same = |(name, value)| other.get(name).is_some_and(|other| is_same(value, other));
            one.len() == other.len() && one.iter().all(same)
        }
        _ => one == other || is_empty(one) && is_empty(other),
    }
}

impl Change {
    fn silent(edits: Vec<Edit>) -> Self {
        Self { edits, said: String::new() }
    }
}

impl Told {
    fn fine(title: &str, said: &str) -> Self {
        Self { line: format!("{title}: {said}"), fine: true }
    }

    fn wrong(line: String) -> Self {
        Self { line, fine: false }
    }
}
