//! Decides what injection changes of a workload. It reads no text and writes none: the same decision serves whatever has
//! the workload as JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::edit::{Edit, Pointer, Tree};
use super::options::{DOMAIN, Defaults, Options, of};
use super::sidecar::{Sidecar, for_each, is_ours, settings};
use super::source::{Change, Container, Found, Kind, brought, named, password_beside, text};
use super::workload::{Known, Workload};

/// Containers of a pod, and variables of each.
const MOST_CONTAINERS: usize = 100;
const MOST_VARIABLES: usize = 1000;

/// What is to be done to a workload.
#[derive(Debug)]
pub struct Plan {
    /// In their order.
    pub edits: Vec<Edit>,
    /// What goes where, for people.
    pub said: String,
    /// What they should know besides.
    pub warnings: Vec<String>,
}

/// Why nothing is done.
#[derive(Debug, PartialEq, Eq)]
pub enum Not {
    /// It is not meant.
    Wanted(String),
    /// It cannot be done rightly.
    Possible(String),
}

impl From<String> for Not {
    fn from(reason: String) -> Self {
        Self::Possible(reason)
    }
}

/// What is kept in an annotation for whoever takes the sidecar out again.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Record {
    /// Containers, their variables that were changed, and the sidecar that knows what they were.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) moved: BTreeMap<String, BTreeMap<String, String>>,
    /// Of these, in which words it said what it was, where the sidecar has others for the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) words: BTreeMap<String, BTreeMap<String, String>>,
    /// Containers, and the variables that they were given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) added: BTreeMap<String, Vec<String>>,
    /// Lists and mappings that were not there: `env` of a container as `env/NAME`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) created: Vec<String>,
    /// Annotations besides our own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) annotations: Vec<String>,
}

/// A variable that is moved, and whose it is.
struct Move<'pod> {
    container: Container<'pod>,
    found: Found,
}

/// The words in which a member is written, if those of the other, put in its place, would not be the same.
pub type Words<'text> = &'text dyn Fn(&Pointer, Option<&Pointer>) -> Option<String>;

/// What injection does to a workload that has no sidecar. Where there is no text, there are no `words`.
///
/// # Errors
/// Why it does nothing.
pub fn inject(
    document: &Value,
    workload: &Workload,
    defaults: &Defaults,
    known: &[Known],
    words: Words<'_>,
) -> Result<Plan, Not> {
    let annotations = [&workload.at, &workload.template]
        .map(|at| at.join(&["metadata", "annotations"]).find(document).unwrap_or(&Value::Null));
    let Some(options) = of(defaults, annotations)? else {
        return Err(Not::Wanted(format!("{DOMAIN}inject is \"false\"")));
    };
    let Some(pod) = workload.pod().find(document).filter(|pod| pod.get("containers").is_some()) else {
        return Err(Not::Wanted("it has no containers".to_owned()));
    };
    let containers = workload.containers(document);
    check_size(&containers)?;
    let (moves, mut warnings) = moves(&containers, workload, &options, known)?;
    check_pod(pod, &containers, workload, &options)?;
    options.try_out("redis://host", &settings(&options, pod))?;
    let sidecars = for_each(moves.iter().map(|found| &found.found), &options, taken(&containers, &moves))?;
    if sidecars.len() > 1 && options.flags.contains_key("upstream-password-file") {
        return Err(Not::Possible(format!(
            "it has several upstreams, and {DOMAIN}upstream-password-file would be the password of all: keep each in its URL"
        )));
    }
    let literal = |found: &&Move<'_>| matches!(found.found.kind, Kind::Literal { has_password: true, .. });
    warnings.extend(moves.iter().find(literal).map(|found| {
        format!("the password in {} is written out in the manifest: better keep it in a Secret", found.found.variable)
    }));
    warnings.extend(moves.iter().filter(|found| !matches!(found.found.kind, Kind::Literal { .. })).filter_map(|found| {
        let beside = password_beside(&found.container, &found.found.variable, &options)?;
        Some(format!(
            "{beside} stands beside {}, and goes to the sidecar, which takes any: unless the URL holds the password, give it \
             to the sidecar by {DOMAIN}upstream-password-file",
            found.found.variable
        ))
    }));
    let mut record = Record { words: words_of(&moves, words), ..Record::default() };
    let mut edits = of_variables(&moves, &sidecars, &options, &mut record);
    let list = if options.native { "initContainers" } else { "containers" };
    let added: Vec<Tree> = sidecars.iter().map(|sidecar| sidecar.container(&options, pod)).collect();
    let add = if pod.get(list).is_some() {
        Edit::Prepend { at: workload.pod().member(list), items: added }
    } else {
        record.created.push(list.to_owned());
        Edit::Add {
            at: workload.pod(),
            before: Some("containers"),
            members: vec![(list.to_owned(), Tree::List(added))],
        }
    };
    edits.push(of_annotations(document, workload, &options, &sidecars, record));
    edits.push(add);
    Ok(Plan { edits, said: said(&moves, &sidecars), warnings })
}

/// Whatever sends a pod to a webhook may send one that takes for ever to look at. No real one is near these bounds.
fn check_size(containers: &[Container<'_>]) -> Result<(), String> {
    if containers.len() > MOST_CONTAINERS {
        return Err(format!("it has more than {MOST_CONTAINERS} containers"));
    }
    let of_many = |container: &&Container<'_>| super::source::entries(container.value).len() > MOST_VARIABLES;
    if let Some(container) = containers.iter().find(of_many) {
        return Err(format!("container {} has more than {MOST_VARIABLES} variables", container.name));
    }
    Ok(())
}

/// What would not work in this pod.
fn check_pod(pod: &Value, containers: &[Container<'_>], workload: &Workload, options: &Options) -> Result<(), String> {
    if let Some(ours) = containers.iter().find(|container| is_ours(container.name)) {
        return Err(format!("it has a container named {} that was not injected", ours.name));
    }
    let of_all = pod.get("resources").and_then(Value::as_object);
    if of_all.is_some_and(|resources| !resources.is_empty()) && !options.resources.is_empty() {
        return Err(format!(
            "it has resources for the whole pod (spec.resources), which the sidecar's own may exceed: let it share them, by \
             {DOMAIN}requests.cpu, {DOMAIN}requests.memory and {DOMAIN}limits.memory: none"
        ));
    }
    if pod.pointer("/os/name").is_some_and(|name| name == "windows") {
        return Err("its pods are for Windows".to_owned());
    }
    if pod.get("hostNetwork").and_then(Value::as_bool).unwrap_or_default()
        && (options.port.is_none() || options.http.1.is_none())
    {
        return Err(format!(
            "it uses the node's network, where ports are shared with other pods: choose two with {DOMAIN}port and {DOMAIN}http"
        ));
    }
    let ends = |policy: &str| matches!(policy, "Never" | "OnFailure");
    if !options.native
        && (matches!(workload.kind.as_str(), "Job" | "CronJob") || ends(text(pod, "restartPolicy")))
        && options.flags.get("quitquitquit").is_none_or(|value| value != "true")
    {
        return Err(format!(
            "with a classic sidecar it would never complete: use a native one, or say {DOMAIN}quitquitquit: \"true\" and have \
             what runs end it by POST /quitquitquit, also where it fails"
        ));
    }
    let volumes = pod.get("volumes").and_then(Value::as_array).into_iter().flatten();
    let named: Vec<_> = volumes.map(|volume| text(volume, "name")).collect();
    // A StatefulSet's claims are volumes too, and stand elsewhere.
    let missing = options.mounts.iter().find(|(volume, _)| !named.contains(&volume.as_str()));
    if let Some((volume, _)) = missing.filter(|_| workload.kind != "StatefulSet") {
        return Err(format!("{DOMAIN}volume-mounts: the pod has no volume `{volume}`"));
    }
    let is_mounted = |file: &str| options.mounts.iter().any(|(_, path)| Path::new(file).starts_with(path));
    let files = options.flags.iter().filter(|(flag, _)| flag.ends_with("-file"));
    if let Some((flag, file)) = files.into_iter().find(|(_, file)| !is_mounted(file)) {
        return Err(format!(
            "{DOMAIN}{flag}: the sidecar sees no volume at `{file}`: mount one by {DOMAIN}volume-mounts"
        ));
    }
    Ok(())
}

/// All variables that are to be moved, and what is to be said of others.
fn moves<'pod>(
    containers: &[Container<'pod>],
    workload: &Workload,
    options: &Options,
    known: &[Known],
) -> Result<(Vec<Move<'pod>>, Vec<String>), Not> {
    let (mut moves, mut warnings, mut left): (Vec<Move<'pod>>, _, _) = (Vec::new(), Vec::new(), None);
    for variable in &options.variables {
        let mut has_any = false;
        let mut without = Vec::new();
        for container in containers {
            if container.is_init && !options.native {
                let entries = super::source::entries(container.value);
                if entries.iter().any(|entry| text(entry, "name") == variable.as_str()) {
                    warnings.push(format!(
                        "init container {} keeps its {variable}: a classic sidecar starts after it",
                        container.name
                    ));
                }
                continue;
            }
            let found = named(container, variable, options);
            match found.map_err(|reason| format!("container {}: {reason}", container.name))? {
                Some(found) => {
                    has_any = true;
                    let again =
                        |other: &Move<'_>| other.container.at == container.at && other.found.variable == found.variable;
                    if !moves.iter().any(again) {
                        moves.push(Move { container: container.clone(), found });
                    }
                }
                None => without.push(container),
            }
        }
        let (brought, unsure) = from_elsewhere(&without, variable, has_any, workload, options, known)?;
        match unsure {
            Some(Unsure::Taken(warning)) => warnings.push(warning),
            Some(Unsure::Left(source)) => left = Some(source),
            None => {}
        }
        if brought.is_empty() && !has_any && options.insists {
            return Err(Not::Possible(format!("no container has {variable}")));
        }
        moves.extend(brought);
    }
    let hint = left.map(|source| format!("{source} may bring it by envFrom: if so, say {DOMAIN}from or --from"));
    if moves.is_empty() {
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        return Err(Not::Wanted(format!("no container has {}{hint}", options.variables.join(" or "))));
    }
    warnings.extend(hint.map(|hint| format!("another container is left as it is, though {hint}")));
    Ok((moves, warnings))
}

/// Where it is not known whether a source of `envFrom` brings a variable.
enum Unsure {
    /// It is taken to do so: a warning.
    Taken(String),
    /// This one is left alone.
    Left(String),
}

/// The variable of containers that have it by `envFrom` only, which may not say what it brings.
fn from_elsewhere<'pod>(
    containers: &[&Container<'pod>],
    variable: &str,
    has_any: bool,
    workload: &Workload,
    options: &Options,
    known: &[Known],
) -> Result<(Vec<Move<'pod>>, Option<Unsure>), String> {
    let (mut candidates, mut left) = (Vec::new(), None);
    for container in containers {
        let declared = super::source::entries(container.value).iter().any(|entry| text(entry, "name") == variable);
        // Its own `env` has it, empty, which is stronger.
        if declared {
            continue;
        }
        let mut brought = brought(container, variable);
        brought.retain(|brought| {
            let wanted = options.from.as_ref().is_none_or(|from| *from == brought.source);
            wanted && workload.source_has(known, &brought.source, &brought.key) != Some(false)
        });
        let surely =
            |source: &str, key: &str| options.from.is_some() || workload.source_has(known, source, key) == Some(true);
        // The last source is the strongest.
        match brought.pop() {
            Some(last) if surely(&last.source, &last.key) => candidates.push((*container, last, true)),
            // To guess wrongly would keep the pod from starting.
            Some(last) if !has_any && options.insists => {
                candidates.extend(brought.into_iter().chain([last]).map(|brought| (*container, brought, false)));
            }
            Some(last) => left = Some(Unsure::Left(last.source)),
            None => {}
        }
    }
    let mut sources: Vec<_> = candidates.iter().map(|(_, brought, _)| brought.source.as_str()).collect();
    sources.sort_unstable();
    sources.dedup();
    if sources.len() > 1 && candidates.iter().any(|(.., sure)| !sure) {
        return Err(format!(
            "{variable} may come from {}: say which by {DOMAIN}from or --from, or {DOMAIN}inject: \"false\"",
            sources.join(" or ")
        ));
    }
    let unsure = candidates.iter().find(|(.., sure)| !sure).map(|(_, brought, _)| {
        let (source, key) = (&brought.source, &brought.key);
        Unsure::Taken(format!("{variable} is taken to be in {source}, key {key}: no pod starts without"))
    });
    let moved = candidates.iter().map(|(container, brought, _)| {
        brought.found(variable).map(|found| Move { container: (*container).clone(), found })
    });
    Ok((moved.collect::<Result<_, _>>()?, unsure.or(left)))
}

/// Ports that containers declare, or where a URL says that one listens.
fn taken(containers: &[Container<'_>], moves: &[Move<'_>]) -> Vec<i64> {
    let ports = containers.iter().filter_map(|container| container.value.get("ports")?.as_array()).flatten();
    let declared = ports.filter_map(|port| port.get("containerPort")?.as_i64());
    let named = moves.iter().filter_map(|found| match &found.found.kind {
        Kind::Literal { port, .. } => port.map(i64::from),
        Kind::Reference { .. } | Kind::EnvFrom => None,
    });
    declared.chain(named).collect()
}

/// The words that a sidecar cannot keep: it has those of the first variable that it stands for, as it is indented.
fn words_of(moves: &[Move<'_>], words: Words<'_>) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut kept = BTreeMap::<String, BTreeMap<_, _>>::new();
    let reference = |found: &Found| {
        if let Kind::Reference { at } = &found.kind { Some(at.clone()) } else { None }
    };
    for (index, Move { container, found }) in moves.iter().enumerate() {
        let first = moves.iter().take(index + 1).find(|first| first.found.upstream == found.upstream);
        if let Some((first, at)) = first.zip(reference(found))
            && let Some(words) = words(&at, reference(&first.found).as_ref())
        {
            kept.entry(container.name.to_owned()).or_default().insert(found.variable.clone(), words);
        }
    }
    kept
}

/// Points the application at its sidecars.
fn of_variables(moves: &[Move<'_>], sidecars: &[Sidecar], options: &Options, record: &mut Record) -> Vec<Edit> {
    let mut edits = Vec::new();
    let mut given: Vec<(&Container<'_>, Vec<Tree>)> = Vec::new();
    for Move { container, found } in moves {
        let Some(sidecar) = sidecars.iter().find(|sidecar| sidecar.upstream == found.upstream) else { continue };
        match found.change(sidecar.port, options.database) {
            Change::Edit(edit) => {
                edits.push(edit);
                let moved = record.moved.entry(container.name.to_owned()).or_default();
                moved.insert(found.variable.clone(), sidecar.name.clone());
            }
            Change::Entry(entry) => {
                match given.iter_mut().find(|(other, _)| other.at == container.at) {
                    Some((_, entries)) => entries.push(entry),
                    None => given.push((container, vec![entry])),
                }
                record.added.entry(container.name.to_owned()).or_default().push(found.variable.clone());
            }
        }
    }
    for (container, entries) in given {
        edits.push(if container.value.get("env").is_some() {
            Edit::Prepend { at: container.at.member("env"), items: entries }
        } else {
            record.created.push(format!("env/{}", container.name));
            let members = vec![("env".to_owned(), Tree::List(entries))];
            Edit::Add { at: container.at.clone(), before: Some("envFrom"), members }
        });
    }
    edits
}

/// Marks the pod template, and tells others about the sidecar where they are told nothing else.
fn of_annotations(
    document: &Value,
    workload: &Workload,
    options: &Options,
    sidecars: &[Sidecar],
    mut record: Record,
) -> Edit {
    let metadata = workload.template.member("metadata");
    let annotations = metadata.member("annotations");
    let has = annotations.find(document).and_then(Value::as_object);
    let has_any = |prefix: &str| has.is_some_and(|has| has.keys().any(|name| name.starts_with(prefix)));
    let mut members = vec![(format!("{DOMAIN}status"), Tree::text("injected"))];
    let mut more = Vec::new();
    if let Some(first) = sidecars.first().filter(|_| !has_any("prometheus.io/")) {
        more.push(("prometheus.io/scrape".to_owned(), Tree::text("true")));
        more.push(("prometheus.io/port".to_owned(), Tree::Text(first.http_port.to_string())));
    }
    let default = "kubectl.kubernetes.io/default-container";
    let app = workload.containers(document).into_iter().find(|container| !container.is_init);
    if let Some(app) = app.filter(|_| !options.native && !has_any(default)) {
        more.push((default.to_owned(), Tree::text(app.name)));
    }
    record.annotations = more.iter().map(|(name, _)| name.clone()).collect();
    let (at, before, created) = match metadata.find(document) {
        None => (workload.template.clone(), Some("spec"), Some("metadata")),
        Some(metadata_value) if metadata_value.get("annotations").is_none() => (metadata, None, Some("annotations")),
        Some(_) => (annotations, None, None),
    };
    record.created.extend(created.map(str::to_owned));
    let undo = serde_json::to_string(&record).unwrap_or_default();
    members.push((format!("{DOMAIN}undo"), Tree::Text(undo)));
    members.extend(more);
    let members = match created {
        None => members,
        Some("annotations") => vec![("annotations".to_owned(), Tree::Map(members))],
        Some(_) => vec![("metadata".to_owned(), Tree::map([("annotations", Tree::Map(members))]))],
    };
    Edit::Add { at, before, members }
}

/// What goes where.
fn said(moves: &[Move<'_>], sidecars: &[Sidecar]) -> String {
    let of = |sidecar: &Sidecar| {
        let mine = moves.iter().filter(|found| found.found.upstream == sidecar.upstream);
        let mine: Vec<_> = mine.map(|found| format!("{} of {}", found.found.variable, found.container.name)).collect();
        format!("{} -> 127.0.0.1:{} -> {}", mine.join(", "), sidecar.port, sidecar.upstream.shown)
    };
    sidecars.iter().map(of).collect::<Vec<_>>().join("; ")
}
