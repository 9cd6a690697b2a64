//! Where a container's variable comes from, and what of it the sidecar needs.

use serde_json::Value;

use super::edit::{Edit, Pointer, Tree};
use super::options::Options;

/// How the application's URL begins once it is moved.
pub(super) const LOCAL: &str = "redis://127.0.0.1:";
/// The sidecar's variable for the URL.
pub(super) const UPSTREAM: &str = "OUTRIGGER_UPSTREAM";

/// What composing a URL may take: bytes of the values in it, and so many for each of them. Values that name each other twice
/// would otherwise double at each step.
const MOST_SUBSTITUTED: usize = 256 * 1024;
const COST: usize = 1024;

/// A container of the pod.
#[derive(Debug, Clone)]
pub(super) struct Container<'pod> {
    pub(super) at: Pointer,
    pub(super) name: &'pod str,
    pub(super) value: &'pod Value,
    /// It runs before the others, or begins to.
    pub(super) is_init: bool,
}

/// A variable that is moved.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The variable that holds the URL: the one asked for, or one that it refers to.
    pub(super) variable: String,
    /// What tells this upstream from others.
    pub(super) upstream: Upstream,
    /// What the sidecar gets in its environment.
    pub(super) env: Vec<Tree>,
    pub(super) kind: Kind,
}

/// Two variables with the same upstream share a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upstream {
    /// As people may see it.
    pub(super) shown: String,
    /// The sidecar's environment, as it will be.
    env: Vec<Value>,
}

/// How the application's variable is changed.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// A URL is written out.
    Literal { at: Pointer, url: String, rest: String, port: Option<u16>, has_password: bool },
    /// A key of a Secret or ConfigMap is named.
    Reference { at: Pointer },
    /// It comes with others, by `envFrom`.
    EnvFrom,
}

/// What gives the application the sidecar's address.
pub(super) enum Change {
    /// Its variable is changed.
    Edit(Edit),
    /// It gets a variable of its own, which is stronger than `envFrom`.
    Entry(Tree),
}

impl Found {
    /// The change that makes the variable name a port of this pod.
    pub(super) fn change(&self, port: u16, database: Option<u32>) -> Change {
        let local = format!("{LOCAL}{port}");
        let path = database.map(|number| format!("/{number}")).unwrap_or_default();
        match &self.kind {
            Kind::Literal { at, url, rest, .. } => {
                Change::Edit(Edit::Rewrite { at: at.clone(), was: url.clone(), is: local + rest })
            }
            Kind::Reference { at } => {
                Change::Edit(Edit::Exchange { at: at.clone(), name: "value", value: Tree::Text(local + &path) })
            }
            Kind::EnvFrom => Change::Entry(entry_of(&self.variable, "value", Tree::Text(local + &path))),
        }
    }
}

/// A variable that the container's own `env` names; nothing if it does not, or leaves it empty.
pub(super) fn named(container: &Container<'_>, variable: &str, options: &Options) -> Result<Option<Found>, String> {
    let entries = entries(container.value);
    let mut named = entries.iter().enumerate().filter(|(_, entry)| text(entry, "name") == variable);
    let (Some((index, entry)), twice) = (named.next(), named.next()) else { return Ok(None) };
    if twice.is_some() {
        return Err(format!("{variable} is there twice"));
    }
    let at = container.at.member("env").item(index);
    if let Some(source) = entry.get("valueFrom") {
        return reference(variable, source, &at).map(Some);
    }
    let value = text(entry, "value");
    if let Some(other) = refers_to(value) {
        if !entries.iter().take(index).any(|entry| text(entry, "name") == other) {
            return Err(format!("{variable} refers to {other}, which is not in `env` before it: name it there"));
        }
        return named_before(container, variable, other, options);
    }
    if value.is_empty() {
        return Ok(None);
    }
    literal(container, variable, index, value, options).map(Some)
}

/// The variable that another consists of, or begins with.
fn named_before(
    container: &Container<'_>,
    variable: &str,
    other: &str,
    options: &Options,
) -> Result<Option<Found>, String> {
    let found = named(container, other, options)?;
    found.map_or_else(|| Err(format!("{variable} is {other}, which is empty")), |found| Ok(Some(found)))
}

/// `$(NAME)` alone, or with a path behind it: then NAME is what holds the URL.
fn refers_to(value: &str) -> Option<&str> {
    let (name, rest) = value.strip_prefix("$(")?.split_once(')')?;
    (rest.is_empty() || rest.starts_with(['/', '?'])).then_some(name)
}

fn reference(variable: &str, source: &Value, at: &Pointer) -> Result<Found, String> {
    let known = [("secretKeyRef", "secret"), ("configMapKeyRef", "configmap")];
    let Some((kind, key)) = known.iter().find_map(|(member, kind)| Some((kind, source.get(*member)?))) else {
        let kinds: Vec<_> = source.as_object().into_iter().flatten().map(|(kind, _)| kind.as_str()).collect();
        return Err(format!(
            "{variable} comes from {}: only a Secret or a ConfigMap can be moved",
            kinds.join(" and ")
        ));
    };
    if key.get("optional").and_then(Value::as_bool).unwrap_or_default() {
        return Err(optional(variable));
    }
    let shown = format!("{kind}/{}, key {}", text(key, "name"), text(key, "key"));
    let from = at.member("valueFrom");
    let env = vec![entry_of(UPSTREAM, "valueFrom", Tree::Copy(from.clone()))];
    let same = serde_json::json!({"name": UPSTREAM, "valueFrom": source});
    let upstream = Upstream { shown, env: vec![same] };
    Ok(Found { variable: variable.to_owned(), upstream, env, kind: Kind::Reference { at: from } })
}

fn optional(variable: &str) -> String {
    format!(
        "{variable} is optional there, and the sidecar cannot do without: remove `optional: true`, or say \
         outrigger.dev/inject: \"false\""
    )
}

/// A URL that is written out: who answers there goes to the sidecar, the rest stays.
fn literal(
    container: &Container<'_>,
    variable: &str,
    index: usize,
    url: &str,
    options: &Options,
) -> Result<Found, String> {
    let (scheme, behind) =
        url.split_once("://").ok_or_else(|| format!("{variable} is no URL, such as redis://host:6379/0"))?;
    let entries = entries(container.value);
    let before = entries.get(..index).unwrap_or_default();
    let whole = substituted(url, before, &mut { MOST_SUBSTITUTED });
    let whole = whole.ok_or_else(|| format!("{variable} is composed of too much: write it out"))?;
    try_url(variable, &whole, options)?;
    let at = container.at.member("env").item(index).member("value");
    let end = behind.find(['/', '?', '#']).unwrap_or(behind.len());
    let (authority, mut rest) = behind.split_at_checked(end).unwrap_or_default();
    let mut upstream = format!("{scheme}://{authority}");
    if scheme != "redis" {
        if options.mounts.is_empty() {
            return Err(format!(
                "{variable} names a socket, which the sidecar does not see: mount its volume by outrigger.dev/volume-mounts"
            ));
        }
        // All of it names the socket, and its database is where clients of the sidecar begin.
        url.clone_into(&mut upstream);
        rest = "";
    }
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let has_password = user.contains(':');
    if let Some(beside) = password_beside(container, variable, options).filter(|_| !has_password) {
        return Err(format!(
            "the password in {beside} would reach the sidecar and not Redis: give it to the sidecar too, by \
             outrigger.dev/upstream-password-file and outrigger.dev/volume-mounts"
        ));
    }
    let mut needed = Vec::new();
    need(&upstream, before, container.value, &mut needed)?;
    let mut env: Vec<Value> = needed.into_iter().cloned().collect();
    env.push(serde_json::json!({"name": UPSTREAM, "value": upstream}));
    Ok(Found {
        variable: variable.to_owned(),
        env: env.iter().map(entry_in_order).collect(),
        upstream: Upstream { shown: if scheme == "redis" { host.to_owned() } else { "its socket".to_owned() }, env },
        kind: Kind::Literal { at, url: url.to_owned(), rest: rest.to_owned(), port: loopback_port(host), has_password },
    })
}

/// The variable that holds the password to a URL's, by its name, where the container has one and the sidecar has none.
pub(super) fn password_beside(container: &Container<'_>, variable: &str, options: &Options) -> Option<String> {
    let prefix = ["_URL", "_URI", "_DSN"].iter().find_map(|suffix| variable.strip_suffix(suffix)).unwrap_or(variable);
    let beside = format!("{prefix}_PASSWORD");
    let is_there = entries(container.value).iter().any(|entry| text(entry, "name") == beside);
    (is_there && !options.flags.contains_key("upstream-password-file")).then_some(beside)
}

/// Asks the proxy itself whether it would take the URL.
fn try_url(variable: &str, url: &str, options: &Options) -> Result<(), String> {
    options.try_out(url, &options.flags).map_err(|problem| {
        let about_url = problem.strip_prefix("--upstream (OUTRIGGER_UPSTREAM): ");
        about_url.map_or_else(|| problem.clone(), |problem| format!("{variable}: {problem}"))
    })
}

/// The port, if the URL names this pod itself.
fn loopback_port(host: &str) -> Option<u16> {
    let (name, port) = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).unwrap_or((host, "6379"));
    matches!(name, "localhost" | "127.0.0.1" | "[::1]").then(|| port.parse().ok()).flatten()
}

/// The names in `$(NAME)`. A doubled `$` stands for itself.
fn references(value: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = value;
    while let Some(at) = rest.find('$') {
        rest = rest.get(at + 1..).unwrap_or_default();
        if let Some(behind) = rest.strip_prefix('$') {
            rest = behind;
        } else if let Some((name, behind)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            names.push(name);
            rest = behind;
        }
    }
    names
}

/// The entries that a value refers to, in the order in which they must stand.
fn need<'pod>(
    value: &str,
    before: &[&'pod Value],
    container: &Value,
    needed: &mut Vec<&'pod Value>,
) -> Result<(), String> {
    for name in references(value) {
        let Some(index) = before.iter().rposition(|entry| text(entry, "name") == name) else {
            if container.get("envFrom").is_some() {
                return Err(format!("it refers to {name}, which may come by envFrom: name it in `env`, before it"));
            }
            // Kubernetes' own variables about services are in every container.
            continue;
        };
        let Some(entry) = before.get(index).copied() else { continue };
        if needed.iter().any(|known| std::ptr::eq(*known, entry)) {
            continue;
        }
        if entry.get("valueFrom").is_some_and(|from| from.get("resourceFieldRef").is_some()) {
            return Err(format!("it refers to {name}, which is about the container's own resources"));
        }
        need(text(entry, "value"), before.get(..index).unwrap_or_default(), container, needed)?;
        if !needed.contains(&entry) {
            needed.push(entry);
        }
    }
    Ok(())
}

/// The value with what is known put in, and a stand-in for the rest; nothing if that takes more than is `left`.
fn substituted(value: &str, before: &[&Value], left: &mut usize) -> Option<String> {
    *left = left.checked_sub(value.len() + COST)?;
    let mut out = value.to_owned();
    for name in references(value) {
        let index = before.iter().rposition(|entry| text(entry, "name") == name);
        let known = index.and_then(|index| Some((before.get(index)?.get("value")?.as_str()?, before.get(..index)?)));
        let known = known.map_or_else(|| Some("1".to_owned()), |(value, before)| substituted(value, before, left))?;
        out = out.replacen(&format!("$({name})"), &known, 1);
    }
    Some(out)
}

/// A source that `envFrom` names, and that may bring the variable.
pub(super) struct Brought {
    /// `secret/NAME` or `configmap/NAME`.
    pub(super) source: String,
    /// The key there.
    pub(super) key: String,
    optional: bool,
}

/// All that may bring a variable to a container.
pub(super) fn brought(container: &Container<'_>, variable: &str) -> Vec<Brought> {
    let sources = container.value.get("envFrom").and_then(Value::as_array).into_iter().flatten();
    let brings = |source: &Value| {
        let key = variable.strip_prefix(text(source, "prefix")).filter(|key| !key.is_empty())?.to_owned();
        let known = [("secretRef", "secret"), ("configMapRef", "configmap")];
        let (kind, named) = known.iter().find_map(|(member, kind)| Some((kind, source.get(*member)?)))?;
        let optional = named.get("optional").and_then(Value::as_bool).unwrap_or_default();
        Some(Brought { source: format!("{kind}/{}", text(named, "name")), key, optional })
    };
    sources.filter_map(brings).collect()
}

impl Brought {
    /// The variable, taken from there.
    pub(super) fn found(&self, variable: &str) -> Result<Found, String> {
        if self.optional {
            return Err(optional(variable));
        }
        let (kind, name) = self.source.split_once('/').unwrap_or_default();
        let member = if kind == "secret" { "secretKeyRef" } else { "configMapKeyRef" };
        let key = Tree::map([("name", Tree::text(name)), ("key", Tree::text(&self.key))]);
        let env = vec![entry_of(UPSTREAM, "valueFrom", Tree::map([(member, key)]))];
        let upstream = Upstream {
            shown: format!("{}, key {}", self.source, self.key),
            env: env.iter().map(|tree| tree.value(&Value::Null)).collect(),
        };
        Ok(Found { variable: variable.to_owned(), upstream, env, kind: Kind::EnvFrom })
    }
}

pub(super) fn entry_of(name: &str, member: &str, value: Tree) -> Tree {
    Tree::map([("name", Tree::text(name)), (member, value)])
}

/// An entry with its name first.
fn entry_in_order(entry: &Value) -> Tree {
    let rest = entry.as_object().into_iter().flatten().filter(|(member, _)| *member != "name");
    let rest = rest.map(|(member, value)| (member.clone(), Tree::of(value)));
    Tree::Map([("name".to_owned(), Tree::text(text(entry, "name")))].into_iter().chain(rest).collect())
}

/// A container's own variables.
pub(super) fn entries(container: &Value) -> Vec<&Value> {
    container.get("env").and_then(Value::as_array).into_iter().flatten().collect()
}

/// A member that is a string; empty if there is none.
pub(super) fn text<'value>(value: &'value Value, member: &str) -> &'value str {
    value.get(member).and_then(Value::as_str).unwrap_or_default()
}
