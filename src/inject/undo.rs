//! Decides what takes the sidecar out of a workload again: injection, backwards.

use serde_json::Value;

use super::edit::{Edit, Pointer, Tree};
use super::options::{DOMAIN, MARKS};
use super::plan::Record;
use super::sidecar::is_ours;
use super::source::{Container, LOCAL, UPSTREAM, entries, text};
use super::workload::Workload;

/// What undoes the injection of a workload; nothing if it is not injected.
///
/// # Errors
/// It has been changed since, so that what it was cannot be told.
pub(super) fn uninject(document: &Value, workload: &Workload) -> Result<Option<Vec<Edit>>, String> {
    let annotations = workload.template.join(&["metadata", "annotations"]);
    let has = annotations.find(document).unwrap_or(&Value::Null);
    let [status, undo] = MARKS.map(|mark| has.get(format!("{DOMAIN}{mark}")).and_then(Value::as_str));
    if status.is_none() && undo.is_none() {
        return Ok(None);
    }
    let record: Record = serde_json::from_str(undo.unwrap_or_default())
        .map_err(|_| format!("{DOMAIN}undo does not say what it was: take the sidecar out by hand"))?;
    let containers = workload.containers(document);
    let mut edits = of_variables(&containers, &record)?;
    let mut removed: Vec<Pointer> = Vec::new();
    for container in containers.iter().filter(|container| is_ours(container.name)) {
        removed.push(container.at.clone());
    }
    let created = |name: &str| record.created.iter().any(|created| created == name);
    let only_ours = containers.iter().filter(|container| container.is_init).all(|container| is_ours(container.name));
    if created("initContainers") && only_ours {
        removed = vec![workload.pod().member("initContainers")];
    }
    let metadata = workload.template.member("metadata");
    let ours: Vec<_> =
        MARKS.map(|mark| format!("{DOMAIN}{mark}")).into_iter().chain(record.annotations.iter().cloned()).collect();
    let only_ours = |value: &Value, ours: &[String]| {
        value.as_object().is_some_and(|members| members.keys().all(|name| ours.contains(name)))
    };
    if created("metadata")
        && metadata.find(document).is_some_and(|value| only_ours(value, &["annotations".to_owned()]))
        && only_ours(has, &ours)
    {
        removed.push(metadata);
    } else if (created("annotations") || created("metadata")) && only_ours(has, &ours) {
        removed.push(annotations);
    } else {
        let there = ours.iter().filter(|name| has.get(name.as_str()).is_some());
        removed.extend(there.map(|name| annotations.member(name)));
    }
    // From behind, so that indices stay right.
    edits.extend(removed.into_iter().rev().map(|at| Edit::Remove { at }));
    Ok(Some(edits))
}

/// Gives the application its variables back.
fn of_variables(containers: &[Container<'_>], record: &Record) -> Result<Vec<Edit>, String> {
    let find = |name: &str| {
        let mut found = containers.iter().filter(|container| container.name == name);
        found.next().ok_or_else(|| format!("container {name} is not there any more: take the sidecar out by hand"))
    };
    let mut edits = Vec::new();
    for (name, variables) in &record.moved {
        let container = find(name)?;
        for (variable, sidecar) in variables {
            let words = record.words.get(name).and_then(|words| words.get(variable));
            edits.extend(moved_back(container, variable, find(sidecar)?, words)?);
        }
    }
    for (name, variables) in &record.added {
        let container = find(name)?;
        let has = entries(container.value);
        // What somebody has changed since is theirs.
        let is_added = |entry: &Value| {
            variables.iter().any(|variable| text(entry, "name") == variable.as_str())
                && text(entry, "value").starts_with(LOCAL)
        };
        let env = container.at.member("env");
        if record.created.contains(&format!("env/{name}")) && has.iter().all(|entry| is_added(entry)) {
            edits.push(Edit::Remove { at: env });
            continue;
        }
        let added = has.iter().enumerate().filter(|(_, entry)| is_added(entry));
        edits.extend(added.rev().map(|(index, _)| Edit::Remove { at: env.item(index) }));
    }
    Ok(edits)
}

/// Undoes the change of one variable; nothing if somebody has changed it since.
fn moved_back(
    container: &Container<'_>,
    variable: &str,
    sidecar: &Container<'_>,
    words: Option<&String>,
) -> Result<Option<Edit>, String> {
    let index_of = |of: &Container<'_>, name: &str| {
        let index = entries(of.value).iter().position(|entry| text(entry, "name") == name);
        index.ok_or_else(|| format!("container {} has no {name} any more: take the sidecar out by hand", of.name))
    };
    let index = index_of(container, variable)?;
    let at = container.at.member("env").item(index).member("value");
    let upstream = index_of(sidecar, UPSTREAM)?;
    let from = sidecar.at.member("env").item(upstream);
    let value =
        |of: &Container<'_>, index: usize| entries(of.value).get(index).map(|entry| text(entry, "value").to_owned());
    let now = value(container, index).unwrap_or_default();
    let Some(rest) = now.strip_prefix(LOCAL) else { return Ok(None) };
    let rest = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
    Ok(Some(match value(sidecar, upstream).filter(|url| !url.is_empty()) {
        Some(url) => Edit::Rewrite { at, was: now.clone(), is: format!("{url}{rest}") },
        None => {
            let from = from.member("valueFrom");
            let value = match words {
                Some(words) => Tree::Words(words.clone(), from),
                None => Tree::Copy(from),
            };
            Edit::Exchange { at, name: "valueFrom", value }
        }
    }))
}
