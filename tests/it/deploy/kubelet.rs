//! A pod as the kubelet runs it: containers are processes in one network, started in their order, probed, and ended in theirs.
//!
//! Everything is as the manifest says, but for three things: an image is a program of this machine, a volume is a folder of the
//! test (paths to where it would be mounted are replaced), and processes belong to who runs the test.

use super::cluster::Network;
use super::probe::Probe;
use super::{list, name_of, root};
use crate::program::run_to_end;
use crate::support::{Kind, PATIENCE, dependency, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A running pod; its processes are ended when it is dropped.
pub(super) struct Pod {
    network: Arc<Network>,
    spec: Value,
    secrets: BTreeMap<String, Value>,
    folder: TempDir,
    containers: Vec<Container>,
}

struct Container {
    spec: Value,
    child: Child,
    log: PathBuf,
    verdicts: Arc<Mutex<Verdicts>>,
    /// Probes end when this does.
    watched: Option<Sender<()>>,
}

/// What the probes of a container have shown.
#[derive(Debug, Default)]
struct Verdicts {
    started: bool,
    ready: bool,
    asked: usize,
    /// Failures after the start, and what would have had it started anew.
    failures: Vec<String>,
}

/// How a container ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) name: String,
    pub(super) status: ExitStatus,
    /// From the pod's end on.
    pub(super) after: Duration,
}

impl Pod {
    /// Starts the pods that a workload describes: one of them, up to its containers' start. `documents` have the Secrets.
    pub(super) fn start(network: &Arc<Network>, spec: &Value, documents: &[Value]) -> Self {
        let secrets = documents.iter().filter(|document| document["kind"] == "Secret");
        let mut pod = Self {
            network: Arc::clone(network),
            spec: spec.clone(),
            secrets: secrets.map(|secret| (name_of(secret).to_owned(), secret["stringData"].clone())).collect(),
            folder: tempfile::tempdir().expect("a temporary directory can be made"),
            containers: Vec::new(),
        };
        pod.fill_volumes();
        for container in list(&spec["initContainers"]) {
            pod.launch(container);
            if container["restartPolicy"] == "Always" {
                pod.wait_until_started(name_of(container));
            } else {
                let ended = pod.wait_for_end(name_of(container), Instant::now());
                assert!(ended.status.success(), "init container: {ended:?}\n{}", pod.log(&ended.name));
            }
        }
        for container in list(&spec["containers"]) {
            pod.launch(container);
            pod.run_after_start(container);
        }
        pod
    }

    /// Starts a container: at first, or again.
    fn launch(&mut self, container: &Value) {
        let name = name_of(container).to_owned();
        self.containers.retain(|known| name_of(&known.spec) != name);
        let log = self.folder.path().join(format!("{name}.log"));
        let output = fs::File::options().create(true).append(true).open(&log).expect("the log can be made");
        let words = self.words_of(container);
        let mut command = self.within(container, &words);
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("a file can be shared")).stderr(output);
        let child = command.spawn().expect("ip can be run");
        let verdicts = Arc::default();
        let watched = watch(container, &self.network, &verdicts);
        self.containers.push(Container { spec: container.clone(), child, log, verdicts, watched: Some(watched) });
    }

    /// A command in a container: its network and its environment.
    fn within(&self, container: &Value, words: &[String]) -> Command {
        let mut command = self.network.command(&words[0]);
        command.args(&words[1..]).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        for variable in list(&container["env"]) {
            let value = match variable.pointer("/valueFrom/secretKeyRef") {
                Some(key) => text(&self.secrets[text(&key["name"])][text(&key["key"])]),
                None => text(&variable["value"]),
            };
            command.env(name_of(variable), self.moved(container, value));
        }
        command
    }

    /// The program of a container's image, and its arguments.
    fn words_of(&self, container: &Value) -> Vec<String> {
        let image = text(&container["image"]).split(':').next().unwrap_or_default();
        let app = root().join("deploy/kubernetes/example/app/app.py").display().to_string();
        let own = match (list(&container["command"]), image) {
            ([], "outrigger") => vec!["outrigger".to_owned()],
            ([], "web") => vec!["python".to_owned(), app],
            ([], other) => panic!("what is the program of image {other}?"),
            (words, _) => words.iter().map(|word| text(word).to_owned()).collect(),
        };
        let arguments = list(&container["args"]).iter().map(|argument| self.moved(container, text(argument)));
        on_this_machine(own).into_iter().chain(arguments).collect()
    }

    /// A path on a volume, as it is on this machine; any other text as it is.
    fn moved(&self, container: &Value, value: &str) -> String {
        let on = |mount: &Value| {
            let within = Path::new(value).strip_prefix(text(&mount["mountPath"])).ok()?;
            Some(self.folder.path().join(text(&mount["name"])).join(within).display().to_string())
        };
        list(&container["volumeMounts"]).iter().find_map(on).unwrap_or_else(|| value.to_owned())
    }

    /// Secrets are files; everything else is an empty folder that stays as long as the pod.
    fn fill_volumes(&self) {
        for container in list(&self.spec["containers"]).iter().chain(list(&self.spec["initContainers"])) {
            for mount in list(&container["volumeMounts"]) {
                fs::create_dir_all(self.folder.path().join(text(&mount["name"]))).expect("a folder can be made");
            }
        }
        let secrets = list(&self.spec["volumes"]).iter().filter(|volume| volume["secret"].is_object());
        secrets.for_each(|volume| self.fill(volume));
    }

    /// Writes a Secret's files as the kubelet does: into a folder of their own, which takes the place of the one before in one
    /// step; names lead to it.
    fn fill(&self, volume: &Value) {
        let folder = self.folder.path().join(name_of(volume));
        let secret = &self.secrets[text(&volume["secret"]["secretName"])];
        let version = format!("..{}", fastrand::u64(..));
        fs::create_dir(folder.join(&version)).expect("a folder can be made");
        for item in list(&volume["secret"]["items"]) {
            let path = text(&item["path"]);
            fs::write(folder.join(&version).join(path), text(&secret[text(&item["key"])])).expect("it can be written");
            // Stays from the first time on.
            let _ = symlink(Path::new("..data").join(path), folder.join(path));
        }
        symlink(version, folder.join("..data_tmp")).expect("a link can be made");
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("it can be renamed");
    }

    /// Somebody changes a Secret: the pod's files follow.
    pub(super) fn change_secret(&mut self, name: &str, change: impl Fn(&str) -> String) {
        let secret = self.secrets.get_mut(name).expect("there is such a Secret").as_object_mut().expect("it has texts");
        secret.values_mut().for_each(|value| *value = Value::String(change(text(value))));
        let is_it = |volume: &&Value| volume["secret"]["secretName"] == name;
        list(&self.spec["volumes"]).iter().filter(is_it).for_each(|volume| self.fill(volume));
    }

    fn run_after_start(&self, container: &Value) {
        let words = list(&container["lifecycle"]["postStart"]["exec"]["command"]);
        if !words.is_empty() {
            let words = on_this_machine(words.iter().map(|word| text(word).to_owned()).collect());
            let (status, written) = run_to_end(&mut self.within(container, &words), PATIENCE);
            assert!(status.success(), "{words:?}: {status}: {written}");
        }
    }

    /// As long as the startup probe may take.
    fn wait_until_started(&self, name: &str) {
        let container = self.container(name);
        let probe = Probe::of(&container.spec, "startupProbe");
        let limit =
            probe.map_or(PATIENCE, |probe| probe.delay + probe.period * u32::try_from(probe.failures).expect("few"));
        wait_until(&format!("{name} has started:\n{}", self.log(name)), limit, || {
            container.verdicts.lock().expect("no holder panics").started
        });
    }

    fn container(&self, name: &str) -> &Container {
        self.containers.iter().find(|container| name_of(&container.spec) == name).expect("there is such a container")
    }

    /// Whether the pod would be routed to.
    pub(super) fn is_ready(&self) -> bool {
        self.containers.iter().all(|container| container.verdicts.lock().expect("no holder panics").ready)
    }

    /// What a container has written.
    pub(super) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Makes every liveness and readiness probe now, beside those that come by themselves; fails the test if any has ever failed
    /// since its container had started, or if a container has ended.
    pub(super) fn assert_well(&mut self) {
        for container in &mut self.containers {
            let name = name_of(&container.spec);
            let ended = container.child.try_wait().expect("a child can be waited for");
            assert_eq!(ended, None, "{name} has ended");
            for probe in ["livenessProbe", "readinessProbe"] {
                if let Some(probe) = Probe::of(&container.spec, probe) {
                    probe.ask(&self.network).unwrap_or_else(|error| panic!("{name}: {error}"));
                }
            }
            let verdicts = container.verdicts.lock().expect("no holder panics");
            assert!(verdicts.failures.is_empty(), "probes of {name} have failed: {:?}", verdicts.failures);
        }
    }

    /// How many probes there have been.
    pub(super) fn probes(&self) -> usize {
        self.containers.iter().map(|container| container.verdicts.lock().expect("no holder panics").asked).sum()
    }

    /// Ends a container at once, as a crash would.
    pub(super) fn crash(&mut self, name: &str) {
        let container = self.find(name);
        container.watched = None;
        container.child.kill().expect("it is ours");
        container.child.wait().expect("it can be waited for");
    }

    /// Starts it again, as the kubelet does.
    pub(super) fn start_again(&mut self, name: &str) {
        let spec = self.find(name).spec.clone();
        self.launch(&spec);
        self.wait_until_started(name);
    }

    fn find(&mut self, name: &str) -> &mut Container {
        self.containers
            .iter_mut()
            .find(|container| name_of(&container.spec) == name)
            .expect("there is such a container")
    }

    /// Waits until a container ends by itself.
    pub(super) fn wait_for_end(&mut self, name: &str, begin: Instant) -> Ended {
        let container = self.find(name);
        container.watched = None;
        let (mut status, log) = (None, container.log.clone());
        wait_until(&format!("{name} ends, see {}", log.display()), 2 * PATIENCE, || {
            status = container.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        Ended { name: name.to_owned(), status: status.expect("it has ended"), after: begin.elapsed() }
    }

    /// The end of the pod: its containers are told, all at once; when they have ended, the native sidecars, the last first. Who
    /// is there when the grace period is over is killed.
    pub(super) fn terminate(&mut self) -> Vec<Ended> {
        // From here on the kubelet restarts nothing.
        self.containers.iter_mut().for_each(|container| container.watched = None);
        let grace = Duration::from_secs(self.spec["terminationGracePeriodSeconds"].as_u64().unwrap_or(30));
        let begin = Instant::now();
        let names = |list: &[Value]| list.iter().map(|container| name_of(container).to_owned()).collect::<Vec<_>>();
        let inits = list(&self.spec["initContainers"]).iter().filter(|init| init["restartPolicy"] == "Always").cloned();
        let (mains, sidecars) = (names(list(&self.spec["containers"])), names(&inits.rev().collect::<Vec<_>>()));
        let mut ended = self.end_together(&mains, begin, grace);
        for sidecar in sidecars {
            ended.extend(self.end_together(&[sidecar], begin, grace));
        }
        ended
    }

    /// Tells these to end, and returns how they did, in the order in which they did.
    fn end_together(&mut self, names: &[String], begin: Instant, grace: Duration) -> Vec<Ended> {
        for name in names {
            let child = &mut self.find(name).child;
            // One that is done already, as that of a Job, is only noted: its number may be another's by now.
            if child.try_wait().expect("a child can be waited for").is_none() {
                kill_process(Pid::from_child(child), Signal::TERM).expect("it is ours");
            }
        }
        let mut ended: Vec<Ended> = Vec::new();
        let mut killed = false;
        wait_until("the containers end", grace + PATIENCE, || {
            for name in names {
                if ended.iter().all(|known| known.name != *name)
                    && let Some(status) = self.find(name).child.try_wait().expect("a child can be waited for")
                {
                    ended.push(Ended { name: name.clone(), status, after: begin.elapsed() });
                }
            }
            if begin.elapsed() > grace && !killed {
                killed = true;
                names.iter().for_each(|name| drop(self.find(name).child.kill()));
            }
            ended.len() == names.len()
        });
        ended
    }
}

impl Ended {
    /// Fails the test unless it ended well.
    pub(super) fn assert_well(&self, log: &str) {
        assert_eq!((self.status.code(), self.status.signal()), (Some(0), None), "{self:?}:\n{log}");
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for container in &mut self.containers {
            let _ = container.child.kill();
            let _ = container.child.wait();
            if std::thread::panicking() {
                let name = name_of(&container.spec);
                eprintln!("{name} has written:\n{}", fs::read_to_string(&container.log).unwrap_or_default());
            }
        }
    }
}

/// A command by the programs of this machine.
fn on_this_machine(mut words: Vec<String>) -> Vec<String> {
    let binary = || std::env::var("OUTRIGGER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_outrigger").to_owned());
    words[0] = match words[0].as_str() {
        "outrigger" => fs::canonicalize(binary()).expect("the program is there").display().to_string(),
        "python" => dependency("PYTHON").display().to_string(),
        "redis-server" => Kind::Redis70.binary().display().to_string(),
        other => panic!("what is {other}?"),
    };
    words
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("this is no text: {value}"))
}

/// Probes a container until what is returned is dropped: first its start, then the other two, each in its period.
fn watch(container: &Value, network: &Arc<Network>, verdicts: &Arc<Mutex<Verdicts>>) -> Sender<()> {
    let (watched, over) = channel();
    let [startup, liveness, readiness] =
        ["startupProbe", "livenessProbe", "readinessProbe"].map(|name| Probe::of(container, name));
    let (network, verdicts) = (Arc::clone(network), Arc::clone(verdicts));
    std::thread::spawn(move || {
        if startup.is_none_or(|probe| has_started(&probe, &network, &over, &verdicts)) {
            {
                let mut verdicts = verdicts.lock().expect("no holder panics");
                verdicts.started = true;
                verdicts.ready = readiness.is_none();
            }
            keep_asking(liveness, readiness, &network, &over, &verdicts);
        }
    });
    watched
}

/// Whether time goes on for so long before the probes are over.
fn passes(time: Duration, over: &Receiver<()>) -> bool {
    matches!(over.recv_timeout(time), Err(RecvTimeoutError::Timeout))
}

fn has_started(probe: &Probe, network: &Network, over: &Receiver<()>, verdicts: &Mutex<Verdicts>) -> bool {
    let mut failed = 0;
    let mut pause = probe.delay;
    while failed < probe.failures && passes(pause, over) {
        let result = probe.ask(network);
        verdicts.lock().expect("no holder panics").asked += 1;
        match result {
            Ok(()) => return true,
            Err(_) => failed += 1,
        }
        pause = probe.period;
    }
    let mut verdicts = verdicts.lock().expect("no holder panics");
    if failed == probe.failures {
        verdicts.failures.push("it did not start in time".to_owned());
    }
    false
}

fn keep_asking(
    liveness: Option<Probe>,
    readiness: Option<Probe>,
    network: &Network,
    over: &Receiver<()>,
    verdicts: &Mutex<Verdicts>,
) {
    let begin = Instant::now();
    let mut due: Vec<_> = [(liveness, false), (readiness, true)]
        .into_iter()
        .filter_map(|(probe, tells)| Some((probe?, tells, begin)))
        .collect();
    loop {
        let next = due.iter().map(|(.., at)| *at).min().unwrap_or_else(|| begin + Duration::from_hours(1));
        if !passes(next.saturating_duration_since(Instant::now()), over) {
            return;
        }
        for (probe, tells, at) in due.iter_mut().filter(|(.., at)| *at <= Instant::now()) {
            let result = probe.ask(network);
            *at += probe.period;
            let mut verdicts = verdicts.lock().expect("no holder panics");
            verdicts.asked += 1;
            if *tells {
                verdicts.ready = result.is_ok();
            }
            verdicts.failures.extend(result.err());
        }
    }
}
