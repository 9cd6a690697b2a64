//! The container that is added.

use std::collections::BTreeMap;

use serde_json::Value;

use super::edit::Tree;
use super::options::Options;
use super::source::{Found, Upstream, entry_of};
use crate::config::flags;

/// The first sidecar; the next are `outrigger-2` and so on.
pub(super) const NAME: &str = "outrigger";
/// Where clients expect Redis.
const REDIS_PORT: u16 = 6379;
/// Where the probes and Prometheus look.
const HTTP_PORT: u16 = 9379;
/// The grace period of a pod that names none, in seconds.
const USUAL_GRACE: i64 = 30;
/// The names of ports have room for one digit.
const MOST: usize = 9;

/// A sidecar and its ports.
pub(super) struct Sidecar {
    pub(super) name: String,
    pub(super) upstream: Upstream,
    pub(super) port: u16,
    pub(super) http_port: u16,
    env: Vec<Tree>,
    port_name: String,
}

/// Whether a container is one of ours.
pub(super) fn is_ours(name: &str) -> bool {
    name.strip_prefix(NAME).is_some_and(|rest| {
        rest.is_empty() || rest.strip_prefix('-').is_some_and(|number| number.parse::<usize>().is_ok())
    })
}

/// One sidecar for each upstream, in the order in which they were found, on ports that nobody else has.
pub(super) fn for_each<'found>(
    found: impl Iterator<Item = &'found Found>,
    options: &Options,
    mut taken: Vec<i64>,
) -> Result<Vec<Sidecar>, String> {
    let mut sidecars: Vec<Sidecar> = Vec::new();
    for found in found {
        if sidecars.iter().any(|sidecar| sidecar.upstream == found.upstream) {
            continue;
        }
        let number = sidecars.len() + 1;
        if number > MOST {
            return Err(format!("it has more than {MOST} different upstreams"));
        }
        let asked = |port: Option<u16>| port.filter(|_| number == 1);
        let port = free(asked(options.port), options.port.unwrap_or(REDIS_PORT), &mut taken, "port")?;
        let http = options.http.1;
        let http_port = free(asked(http), http.unwrap_or(HTTP_PORT), &mut taken, "http")?;
        let (suffix, digit) = if number == 1 { Default::default() } else { (format!("-{number}"), number.to_string()) };
        sidecars.push(Sidecar {
            name: format!("{NAME}{suffix}"),
            upstream: found.upstream.clone(),
            port,
            http_port,
            env: found.env.clone(),
            port_name: format!("{NAME}-http{digit}"),
        });
    }
    Ok(sidecars)
}

/// The first port from `start` on that nobody has, which is then taken. One that was asked for must be free.
fn free(asked: Option<u16>, start: u16, taken: &mut Vec<i64>, annotation: &str) -> Result<u16, String> {
    if let Some(port) = asked.filter(|port| taken.contains(&i64::from(*port))) {
        return Err(format!("port {port} is another container's: choose another with outrigger.dev/{annotation}"));
    }
    let port = (start..=u16::MAX).find(|port| !taken.contains(&i64::from(*port))).ok_or("no port is free")?;
    taken.push(i64::from(port));
    Ok(port)
}

impl Sidecar {
    /// The container.
    pub(super) fn container(&self, options: &Options, pod: &Value) -> Tree {
        let mut members = vec![("name", Tree::text(&self.name)), ("image", Tree::text(&options.image))];
        if options.native {
            members.push(("restartPolicy", Tree::text("Always")));
        }
        members.push(("env", Tree::List(self.environment(options, pod))));
        let port =
            Tree::map([("name", Tree::text(&self.port_name)), ("containerPort", Tree::Number(self.http_port.into()))]);
        members.push(("ports", Tree::List(vec![port])));
        members.push(("startupProbe", self.probe("/startupz", [("periodSeconds", 1), ("failureThreshold", 30)])));
        let patient = [("periodSeconds", 10), ("timeoutSeconds", 5), ("failureThreshold", 6)];
        members.push(("livenessProbe", self.probe("/livez", patient)));
        if options.flags.get("ready-requires-upstream").is_some_and(|value| value == "true") {
            members.push(("readinessProbe", self.probe("/readyz", [("periodSeconds", 5), ("timeoutSeconds", 5)])));
        }
        if !options.native {
            // Containers start one after the other, and each waits for this of the one before.
            let command = ["outrigger", "wait"].map(Tree::text);
            let exec = Tree::map([("exec", Tree::map([("command", Tree::List(command.into()))]))]);
            members.push(("lifecycle", Tree::map([("postStart", exec)])));
        }
        members.push(("resources", resources(&options.resources)));
        members.push(("securityContext", security()));
        members.push(("terminationMessagePolicy", Tree::text("FallbackToLogsOnError")));
        if !options.mounts.is_empty() {
            let mount = |(volume, path): &(String, String)| {
                let (name, path) = (Tree::text(volume), Tree::text(path));
                Tree::map([("name", name), ("mountPath", path), ("readOnly", Tree::Flag(true))])
            };
            members.push(("volumeMounts", Tree::List(options.mounts.iter().map(mount).collect())));
        }
        Tree::Map(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    fn environment(&self, options: &Options, pod: &Value) -> Vec<Tree> {
        let mut own = BTreeMap::new();
        if self.port != REDIS_PORT {
            own.insert("listen".to_owned(), format!("127.0.0.1:{0},[::1]:{0}", self.port));
        }
        own.insert("http".to_owned(), format!("{}:{}", options.http.0, self.http_port));
        own.extend(settings(options, pod));
        // In the order of the help.
        let given = flags().into_iter().filter_map(|flag| own.remove(&flag.name).map(|value| (flag.variable, value)));
        let given = given.map(|(variable, value)| entry_of(&variable, "value", Tree::Text(value)));
        self.env.iter().cloned().chain(given).collect()
    }

    fn probe<const N: usize>(&self, path: &str, timing: [(&str, i64); N]) -> Tree {
        let get = Tree::map([("path", Tree::text(path)), ("port", Tree::text(&self.port_name))]);
        let timing = timing.into_iter().map(|(name, value)| (name.to_owned(), Tree::Number(value)));
        Tree::Map([("httpGet".to_owned(), get)].into_iter().chain(timing).collect())
    }
}

/// The flags that do not depend on which of the sidecars it is.
pub(super) fn settings(options: &Options, pod: &Value) -> BTreeMap<String, String> {
    let mut settings = stopping(pod, options.native);
    settings.extend(options.flags.clone());
    settings
}

/// How long it takes to stop, where the defaults do not fit the pod.
fn stopping(pod: &Value, native: bool) -> BTreeMap<String, String> {
    let mut flags = BTreeMap::new();
    let grace = pod.get("terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(USUAL_GRACE).max(2);
    // A sixth of the time is left, as of the usual 30 s.
    let most = grace - (grace / 6).max(1);
    if grace < USUAL_GRACE || (!native && grace > USUAL_GRACE) {
        flags.insert("max-sigterm-delay".to_owned(), format!("{most}s"));
    }
    if !native {
        // The application hears of the end at the same time, or later if it sleeps first, and has things to finish.
        let containers = pod.get("containers").and_then(Value::as_array).into_iter().flatten();
        let sleep = containers.filter_map(|container| container.pointer("/lifecycle/preStop/sleep/seconds")?.as_i64());
        let least = sleep.max().unwrap_or_default().clamp(0, most) + 5;
        flags.insert("min-sigterm-delay".to_owned(), format!("{}s", (most / 2).min(least)));
    }
    flags
}

fn resources(wanted: &BTreeMap<&'static str, String>) -> Tree {
    let group = |group: &'static str| {
        let of_group = wanted.iter().filter_map(move |(name, value)| Some((name.strip_prefix(group)?, value)));
        let members: Vec<_> =
            of_group.map(|(name, value)| (name.trim_start_matches('.').to_owned(), Tree::text(value))).collect();
        (group.to_owned(), Tree::Map(members))
    };
    let groups = [group("requests"), group("limits")].into_iter();
    Tree::Map(groups.filter(|(_, members)| *members != Tree::Map(Vec::new())).collect())
}

/// What the restricted pod security standard asks for, and a file system that is only read.
fn security() -> Tree {
    Tree::map([
        ("runAsNonRoot", Tree::Flag(true)),
        ("runAsUser", Tree::Number(65532)),
        ("runAsGroup", Tree::Number(65532)),
        ("allowPrivilegeEscalation", Tree::Flag(false)),
        ("readOnlyRootFilesystem", Tree::Flag(true)),
        ("capabilities", Tree::map([("drop", Tree::List(vec![Tree::text("ALL")]))])),
        ("seccompProfile", Tree::map([("type", Tree::text("RuntimeDefault"))])),
    ])
}
