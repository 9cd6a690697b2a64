//! What of a document is about pods: where workloads and their pods are, and which keys Secrets and ConfigMaps have.

use std::collections::BTreeSet;

use serde_json::Value;

use super::edit::Pointer;
use super::sidecar::is_ours;
use super::source::{Container, UPSTREAM, entries, text};

/// Something that makes pods, or is one.
#[derive(Debug, Clone)]
pub struct Workload {
    /// The whole object.
    pub(super) at: Pointer,
    /// What has the pod's metadata and specification.
    pub(super) template: Pointer,
    /// As kubectl names it: `Deployment/web`.
    pub(super) title: String,
    pub(super) kind: String,
    pub(super) namespace: String,
}

/// A Secret or ConfigMap in full.
#[derive(Debug, Clone)]
pub struct Known {
    namespace: String,
    /// `secret/NAME` or `configmap/NAME`.
    source: String,
    keys: BTreeSet<String>,
}

/// The workloads of a document, those in lists included.
#[must_use]
pub fn workloads(document: &Value) -> Vec<Workload> {
    objects(document).into_iter().filter_map(|(at, object)| workload(at, object)).collect()
}

/// The Secrets and ConfigMaps of a document.
#[must_use]
pub fn known(document: &Value) -> Vec<Known> {
    objects(document).into_iter().filter_map(|(_, object)| known_keys(object)).collect()
}

/// The document itself, or the items of a list.
fn objects(document: &Value) -> Vec<(Pointer, &Value)> {
    let root = Pointer::default();
    let items = document.get("items").and_then(Value::as_array).filter(|_| text(document, "kind").ends_with("List"));
    let Some(items) = items else { return vec![(root, document)] };
    let list = root.member("items");
    items.iter().enumerate().map(|(index, item)| (list.item(index), item)).collect()
}

fn workload(at: Pointer, object: &Value) -> Option<Workload> {
    let (kind, version) = (text(object, "kind"), text(object, "apiVersion"));
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let path: &[&str] = match (kind, group) {
        ("Pod", "") => &[],
        ("ReplicationController", "")
        | ("Deployment" | "ReplicaSet" | "DaemonSet", "apps" | "extensions")
        | ("StatefulSet", "apps")
        | ("Job", "batch") => &["spec", "template"],
        ("CronJob", "batch") => &["spec", "jobTemplate", "spec", "template"],
        _ => return None,
    };
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    let name = [text(metadata, "name"), text(metadata, "generateName")].into_iter().find(|name| !name.is_empty());
    Some(Workload {
        template: at.join(path),
        at,
        title: format!("{kind}/{}", name.unwrap_or("(without name)")),
        kind: kind.to_owned(),
        namespace: text(metadata, "namespace").to_owned(),
    })
}

fn known_keys(object: &Value) -> Option<Known> {
    let kind = match text(object, "kind") {
        "Secret" => "secret",
        "ConfigMap" => "configmap",
        _ => return None,
    };
    let metadata = object.get("metadata")?;
    let data = ["data", "stringData"].into_iter().filter_map(|member| object.get(member)?.as_object());
    Some(Known {
        namespace: text(metadata, "namespace").to_owned(),
        source: format!("{kind}/{}", text(metadata, "name")),
        keys: data.flatten().map(|(key, _)| key.clone()).collect(),
    })
}

impl Workload {
    /// The pod's specification.
    pub(super) fn pod(&self) -> Pointer {
        self.template.member("spec")
    }

    /// Its containers, and those that run before them.
    pub(super) fn containers<'value>(&self, document: &'value Value) -> Vec<Container<'value>> {
        let of = |list: &str, is_init: bool| {
            let at = self.pod().member(list);
            let items = at.find(document).and_then(Value::as_array).into_iter().flatten().enumerate();
            items
                .map(|(index, value)| Container { at: at.item(index), name: text(value, "name"), value, is_init })
                .collect::<Vec<_>>()
        };
        [of("containers", false), of("initContainers", true)].concat()
    }

    /// Whether a sidecar of ours is among them: by its name, and since it is told where Redis is.
    pub(super) fn has_sidecar(&self, document: &Value) -> bool {
        let is_told =
            |container: &Container<'_>| entries(container.value).iter().any(|entry| text(entry, "name") == UPSTREAM);
        self.containers(document).iter().any(|container| is_ours(container.name) && is_told(container))
    }

    /// Whether a source has a key, if it is known.
    pub(super) fn source_has(&self, known: &[Known], source: &str, key: &str) -> Option<bool> {
        let same = |known: &&Known| {
            let near = known.namespace.is_empty() || self.namespace.is_empty() || known.namespace == self.namespace;
            near && known.source == source
        };
        known.iter().find(same).map(|known| known.keys.contains(key))
    }
}
