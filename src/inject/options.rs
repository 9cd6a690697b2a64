//! What is wanted for one workload: what was typed, and over it the workload's own annotations.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use serde_json::Value;

use crate::config::{Sidecar, flags, try_flags};

/// Variables that may be looked for.
const MOST_VARIABLES: usize = 20;

/// The domain of all annotations.
pub(super) const DOMAIN: &str = "outrigger.dev/";
/// Annotations that injection leaves behind.
pub(super) const MARKS: [&str; 2] = ["status", "undo"];
/// Annotations that are not named after a flag.
const OWN: [&str; 13] = [
    "inject",
    "sidecar",
    "image",
    "env",
    "from",
    "db",
    "port",
    "volume-mounts",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
    "http",
];
/// Flags that injection sets itself, and what to name instead.
const SET: [(&str, &str); 4] = [
    ("password-file", "the application's variable would not hold that password"),
    ("upstream", "the variable that is moved says it"),
    ("listen", "choose a port with outrigger.dev/port"),
    ("listen-strict", "the application's variable can name one address only"),
];

/// Longest name, in bytes, that Kubernetes lets an annotation have behind its domain.
const LONGEST_NAME: usize = 63;

/// What a sidecar asks for unless it is told otherwise.
const CPU: &str = "50m";
/// The same of memory.
const MEMORY: &str = "32Mi";

/// What was typed, for all workloads.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// A native sidecar, or a container beside the others.
    pub native: bool,
    /// The sidecar's image.
    pub image: String,
    /// Variables that hold a URL.
    pub variables: Vec<String>,
    /// Where `envFrom` brings them from: `secret/NAME` or `configmap/NAME`.
    pub from: Option<String>,
}

impl Defaults {
    /// What the flags say.
    #[must_use]
    pub fn new(image: String, sidecar: &Sidecar) -> Self {
        Self { native: !sidecar.classic, image, variables: sidecar.env.clone(), from: sidecar.from.clone() }
    }
}

/// What is wanted for one workload.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) native: bool,
    pub(super) image: String,
    pub(super) variables: Vec<String>,
    /// An annotation says that it has these variables: it is wrong if it has not.
    pub(super) insists: bool,
    pub(super) from: Option<String>,
    /// The database of URLs that are not known here.
    pub(super) database: Option<u32>,
    pub(super) port: Option<u16>,
    /// Address and port of HTTP; the port only if it was asked for.
    pub(super) http: (String, Option<u16>),
    /// Names of volumes, and where they are mounted.
    pub(super) mounts: Vec<(String, String)>,
    /// `requests.cpu` and so on; without those that are not wanted.
    pub(super) resources: BTreeMap<&'static str, String>,
    /// Flags of the sidecar and their values.
    pub(super) flags: BTreeMap<String, String>,
}

/// What the annotations of a workload and, stronger, of its pod template ask for; nothing if they decline.
pub(super) fn of(defaults: &Defaults, annotations: [&Value; 2]) -> Result<Option<Options>, String> {
    let mut asked = BTreeMap::new();
    for (name, value) in annotations.into_iter().filter_map(Value::as_object).flatten() {
        if let Some(name) = name.strip_prefix(DOMAIN).filter(|name| !MARKS.contains(name)) {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            asked.insert(name.to_owned(), text);
        }
    }
    let mut options = Options {
        native: defaults.native,
        image: defaults.image.clone(),
        variables: defaults.variables.clone(),
        insists: ["inject", "env", "from"].iter().any(|name| asked.contains_key(*name)),
        from: defaults.from.clone(),
        database: None,
        port: None,
        http: ("[::]".to_owned(), None),
        mounts: Vec::new(),
        resources: BTreeMap::from([
            ("requests.cpu", CPU.to_owned()),
            ("requests.memory", MEMORY.to_owned()),
            ("limits.memory", "128Mi".to_owned()),
        ]),
        flags: BTreeMap::new(),
    };
    match asked.remove("inject").as_deref() {
        None | Some("true") => {}
        Some("false") => return Ok(None),
        Some(other) => return Err(wrong("inject", other, "is neither true nor false")),
    }
    for (name, value) in asked {
        options.take(&name, &value)?;
    }
    options.fit_requests()?;
    if let Some(from) = &options.from
        && !from.split_once('/').is_some_and(|(kind, name)| matches!(kind, "secret" | "configmap") && !name.is_empty())
    {
        return Err(format!("`{from}` is no source: give secret/NAME or configmap/NAME"));
    }
    Ok(Some(options))
}

impl Options {
    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        let items = || value.split(',').map(str::trim).filter(|item| !item.is_empty());
        match name {
            "sidecar" => match value {
                "native" => self.native = true,
                "classic" => self.native = false,
                _ => return Err(wrong(name, value, "is neither native nor classic")),
            },
            "image" if !value.trim().is_empty() => value.trim().clone_into(&mut self.image),
            "env" if items().next().is_some() => {
                let mut known = HashSet::new();
                self.variables = items().filter(|item| known.insert(*item)).map(str::to_owned).collect();
                if self.variables.len() > MOST_VARIABLES {
                    return Err(format!("{DOMAIN}env: it names more than {MOST_VARIABLES} variables"));
                }
            }
            "from" => self.from = Some(value.to_owned()),
            "db" => self.database = Some(value.parse().map_err(|_| wrong(name, value, "is not a database number"))?),
            "port" => self.port = Some(port(name, value)?),
            "http" => {
                let (host, number) = value.rsplit_once(':').unwrap_or_default();
                let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
                if !address.is_ok_and(|address| !address.is_loopback()) {
                    return Err(wrong(
                        name,
                        value,
                        "is not IP:PORT with an address that probes can reach, such as [::]",
                    ));
                }
                self.http = (host.to_owned(), Some(port(name, number)?));
            }
            "volume-mounts" => {
                for item in items() {
                    let mount =
                        item.split_once(':').filter(|(volume, path)| !volume.is_empty() && path.starts_with('/'));
                    let mount = mount.filter(|(_, path)| !path.contains(':'));
                    let (volume, path) = mount.ok_or_else(|| wrong(name, item, "is not VOLUME:/path"))?;
                    if self.mounts.iter().any(|(_, other)| other == path) {
                        return Err(wrong(name, value, "has a path twice"));
                    }
                    self.mounts.push((volume.to_owned(), path.to_owned()));
                }
            }
            "image" | "env" => return Err(wrong(name, value, "is empty")),
            _ => {
                if let Some(key) = OWN.into_iter().find(|own| *own == name) {
                    return self.take_resource(key, value);
                }
                if let Some((_, instead)) = SET.iter().find(|(flag, _)| *flag == name) {
                    return Err(format!("{DOMAIN}{name} cannot be set: {instead}"));
                }
                let known = flags();
                if !known.iter().any(|flag| flag.name == name) {
                    return Err(unknown(name, known.iter().map(|flag| flag.name.as_str())));
                }
                self.flags.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(())
    }

    /// Whether a proxy with this URL and these settings would start in such a container.
    pub(super) fn try_out(&self, url: &str, settings: &BTreeMap<String, String>) -> Result<(), String> {
        let mut all = settings.clone();
        // As many as there will be, not as there would be here: two where there is the CPU time for them.
        let two = self.resources.get("limits.cpu").and_then(|limit| amount(limit)).is_some_and(|cores| cores >= 2.0);
        all.entry("workers".to_owned()).or_insert_with(|| if two { "2" } else { "1" }.to_owned());
        all.insert("upstream".to_owned(), url.to_owned());
        try_flags(all.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }

    /// A request beyond its limit would be refused by the cluster: one that nobody asked for follows the limit.
    fn fit_requests(&mut self) -> Result<(), String> {
        for (request, limit, usual) in
            [("requests.cpu", "limits.cpu", CPU), ("requests.memory", "limits.memory", MEMORY)]
        {
            let [wanted, most] = [request, limit].map(|name| self.resources.get(name).map_or("", String::as_str));
            if amount(wanted).zip(amount(most)).is_none_or(|(wanted, most)| wanted <= most) {
                continue;
            }
            if wanted != usual {
                return Err(format!(
                    "{DOMAIN}{request}: `{wanted}` is more than {DOMAIN}{limit}, which is `{most}`: raise that"
                ));
            }
            self.resources.remove(request);
        }
        Ok(())
    }

    /// A quantity of CPU or memory, or `none`.
    fn take_resource(&mut self, name: &'static str, value: &str) -> Result<(), String> {
        if value == "none" {
            self.resources.remove(name);
        } else if amount(value).is_some_and(|amount| amount > 0.0) {
            self.resources.insert(name, value.to_owned());
        } else {
            return Err(wrong(name, value, "is no quantity, such as 50m or 128Mi, nor none"));
        }
        Ok(())
    }
}

/// A quantity as Kubernetes writes it: cores, or bytes.
fn amount(value: &str) -> Option<f64> {
    let digits = value.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match value.get(digits.len()..)? {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some(digits.parse::<f64>().ok()? * unit)
}

fn port(name: &str, value: &str) -> Result<u16, String> {
    value.parse().ok().filter(|port| *port >= 1024).ok_or_else(|| {
        wrong(name, value, "is no port from 1024 to 65535, which is what a sidecar without rights can have")
    })
}

fn wrong(name: &str, value: &str, problem: &str) -> String {
    format!("{DOMAIN}{name}: `{value}` {problem}")
}

/// Says which annotations may have been meant.
fn unknown<'flag>(name: &str, flags: impl Iterator<Item = &'flag str>) -> String {
    let mut near: Vec<_> = flags
        .filter(|flag| SET.iter().all(|(set, _)| set != flag))
        .chain(OWN)
        .filter(|_| name.len() <= LONGEST_NAME)
        .map(|known| (distance(name, known), known))
        .filter(|(far, known)| *far <= 3 || known.contains(name) || name.contains(known))
        .collect();
    near.sort_unstable();
    near.truncate(3);
    let near: Vec<_> = near.iter().map(|(_, known)| format!("{DOMAIN}{known}")).collect();
    let hint = if near.is_empty() { String::new() } else { format!(": did you mean {}?", near.join(" or ")) };
    format!("{DOMAIN}{name} is no annotation{hint}")
}

/// How many letters must change to make one word the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (index, letter) in one.chars().enumerate() {
        let (mut diagonal, mut left) = (index, index + 1);
        let mut next = vec![left];
        for (above, another) in row.iter().skip(1).zip(other.chars()) {
            left = (diagonal + usize::from(letter != another)).min(above + 1).min(left + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(workload: &Value, template: &Value) -> Result<Option<Options>, String> {
        let defaults = Defaults {
            native: true,
            image: "outrigger:1".to_owned(),
            variables: vec!["REDIS_URL".to_owned()],
            from: None,
        };
        of(&defaults, [workload, template])
    }

    fn refused(name: &str, value: &str) -> String {
        let annotation = json!({format!("{DOMAIN}{name}"): value});
        read(&annotation, &Value::Null).expect_err(&format!("{name}: {value} is refused"))
    }

    #[test]
    fn the_template_is_stronger_than_the_workload() {
        let workload = json!({"outrigger.dev/pool-size": "8", "outrigger.dev/db": "1", "other.dev/image": "x"});
        let options = read(&workload, &json!({"outrigger.dev/pool-size": "9", "outrigger.dev/limits.cpu": "1"}));
        let options = options.expect("they are right").expect("they ask for it");
        assert_eq!(options.flags, BTreeMap::from([("pool-size".to_owned(), "9".to_owned())]));
        assert_eq!((options.database, options.insists), (Some(1), false));
        assert_eq!(options.resources.get("limits.cpu").map(String::as_str), Some("1"));
        assert!(read(&Value::Null, &json!({"outrigger.dev/inject": "false"})).expect("it is right").is_none());
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_is_near() {
        assert_eq!(
            refused("poolsize", "3"),
            "outrigger.dev/poolsize is no annotation: did you mean outrigger.dev/pool-size?"
        );
        assert_eq!(refused("zzzzzzzzzz", "3"), "outrigger.dev/zzzzzzzzzz is no annotation");
        assert!(refused("listen", "x").contains("outrigger.dev/port"));
        for (name, value) in [
            ("inject", "maybe"),
            ("sidecar", "x"),
            ("db", "-1"),
            ("port", "80"),
            ("http", "off"),
            ("http", "127.0.0.1:9000"),
            ("volume-mounts", "v"),
            ("volume-mounts", "v:/a:rw"),
            ("volume-mounts", "v:/a,w:/a"),
            ("limits.memory", "much"),
            ("env", " "),
            ("from", "redis"),
        ] {
            assert!(refused(name, value).contains(value), "{name}");
        }
    }

    #[test]
    fn requests_stay_within_limits() {
        let of = |name: &str, value: &str| {
            let annotation = json!({format!("{DOMAIN}{name}"): value});
            let options = read(&annotation, &Value::Null).expect("it is right").expect("it asks for it");
            options.resources.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of("limits.cpu", "20m"), "limits.cpu=20m limits.memory=128Mi requests.memory=32Mi");
        assert_eq!(of("limits.memory", "none"), "requests.cpu=50m requests.memory=32Mi");
        assert!(refused("requests.memory", "256Mi").contains("outrigger.dev/limits.memory, which is `128Mi`"));
    }

    #[test]
    fn distances_are_counted() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!((distance("", "abc"), distance("abc", "abc")), (3, 0));
    }
}
