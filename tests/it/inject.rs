//! `outrigger inject` and `uninject`: manifests in, manifests out.
//!
//! `inject/corpus` holds manifests as people write them, and `inject/golden` what becomes of each, with what is said;
//! `OUTRIGGER_GOLDEN=write` writes these anew, to be looked at in the diff. `inject/refused` holds manifests that are refused,
//! each with what is said on its first line.

mod layout;
mod served;

use crate::support::{dependency, is_direct};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Manifests that are the same documents afterwards, not the same bytes: an anchor within what moves is lost.
const SAME_DOCUMENTS: [&str; 1] = ["deployment-anchors-merged.yaml"];

/// What the program wrote.
#[derive(Debug, PartialEq)]
pub struct Written {
    pub code: Option<i32>,
    pub manifest: String,
    pub said: String,
}

impl Written {
    /// The manifest, if all went well.
    pub fn fine(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.said);
        self.manifest
    }
}

/// Runs the program with arguments and a standard input.
pub fn run(arguments: &[&str], input: &str) -> Written {
    let binary = std::env::var("OUTRIGGER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_outrigger").to_owned());
    let mut command = Command::new(binary);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program can be run");
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_owned();
    // It may end before it has read all.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("the writer does not panic");
    let text = |bytes| String::from_utf8(bytes).expect("it writes UTF-8");
    Written { code: output.status.code(), manifest: text(output.stdout), said: text(output.stderr) }
}

pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/inject").join(name)
}

/// The files of a folder with their names, in order.
pub fn files(name: &str) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder(name)).expect("the folder is there").map(|entry| entry.expect("it can be read"));
    let read = |path: PathBuf| fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), read(entry.path()))).collect()
}

#[test]
fn manifests_become_what_was_looked_at() {
    if is_direct() {
        return;
    }
    let write = std::env::var("OUTRIGGER_GOLDEN").is_ok_and(|value| value == "write");
    let corpus = files("corpus");
    assert!(corpus.len() >= 40, "the corpus is not whole");
    let golden = if write { BTreeMap::new() } else { files("golden") };
    let mut wrong = Vec::new();
    for (name, manifest) in &corpus {
        let written = run(&["inject"], manifest);
        if written.code != Some(0) {
            wrong.push(format!("{name}: {}", written.said));
        } else if write {
            let folder = folder("golden");
            fs::write(folder.join(name), &written.manifest).expect("it can be written");
            fs::write(folder.join(format!("{name}.said")), &written.said).expect("it can be written");
        } else if golden.get(name) != Some(&written.manifest)
            || golden.get(&format!("{name}.said")) != Some(&written.said)
        {
            wrong.push(format!("{name} is not as in inject/golden:\n{}\n{}", written.said, written.manifest));
        }
    }
    let surplus = golden.keys().filter(|name| !corpus.contains_key(name.trim_end_matches(".said")));
    wrong.extend(surplus.map(|name| format!("inject/golden/{name} belongs to nothing")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn injecting_twice_changes_nothing() {
    if is_direct() {
        return;
    }
    for (name, manifest) in files("corpus") {
        let once = run(&["inject"], &manifest);
        assert_eq!(run(&["inject"], &once.manifest), once, "{name}");
    }
}

#[test]
fn what_was_injected_can_be_taken_out() {
    if is_direct() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let mut pairs = Vec::new();
    for (name, manifest) in files("corpus") {
        let back = run(&["uninject"], &run(&["inject"], &manifest).fine()).fine();
        if SAME_DOCUMENTS.contains(&name.as_str()) {
            let path = directory.path().join(&name);
            fs::write(&path, &back).expect("it can be written");
            pairs.push(format!("{}={}", path.display(), folder("corpus").join(&name).display()));
            assert_eq!(run(&["uninject"], &run(&["inject"], &back).fine()).fine(), back, "{name}, from then on");
        } else {
            assert!(back == manifest, "{name} came back as\n{back}");
        }
    }
    assert_eq!(judge(&pairs), "");
}

#[test]
fn a_cluster_would_take_them() {
    let golden = files("golden").into_keys().filter(|name| !name.ends_with(".said") && name != "not-kubernetes.yaml");
    let paths: Vec<_> = golden.map(|name| folder("golden").join(name).display().to_string()).collect();
    assert!(paths.len() >= 40, "there is nothing to judge");
    assert_eq!(judge(&paths), "");
}

/// What `manifests.py` has against them.
pub fn judge(arguments: &[String]) -> String {
    let mut command = Command::new(dependency("PYTHON"));
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(folder("manifests.py")).args(arguments);
    let output = command.output().expect("Python can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).expect("it writes UTF-8");
    let (wrong, judged) = said.trim_end().rsplit_once('\n').unwrap_or_else(|| ("", said.trim_end()));
    println!("{judged}");
    assert!(judged.starts_with("judged "), "{said}");
    wrong.to_owned()
}

#[test]
fn what_cannot_be_done_rightly_is_refused_with_the_reason() {
    if is_direct() {
        return;
    }
    for (name, manifest) in files("refused") {
        let expected = manifest.lines().next().and_then(|line| line.strip_prefix("# expect: "));
        let expected = expected.unwrap_or_else(|| panic!("{name} does not say what is expected"));
        let path = folder("refused").join(&name);
        let written = run(&["inject", "-f", &path.display().to_string()], "");
        assert!(written.said.contains(expected), "{name}: `{expected}` is not in\n{}", written.said);
        assert!(written.said.ends_with("nothing is written\n"), "{name}: {}", written.said);
        assert_eq!((written.code, written.manifest.as_str()), (Some(1), ""), "{name}");
    }
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: app\n    image: app:1\n    \
                   env:\n    - {name: REDIS_URL, value: \"redis://app:hidden@redis:6379/0\"}\n";

#[test]
fn one_refusal_keeps_everything_back() {
    if is_direct() {
        return;
    }
    let input = format!("{POD}---\n{}", POD.replace("redis://", "rediss://").replace("name: p}", "name: q}"));
    let written = run(&["inject"], &input);
    assert_eq!((written.code, written.manifest.as_str()), (Some(1), ""));
    assert!(written.said.contains("Pod/p: injected") && written.said.contains("Pod/q: refused"), "{}", written.said);
    assert_eq!(run(&["inject", "-f", "/nonexistent.yaml"], "").code, Some(1));
    assert_eq!(run(&["inject", "--native", "--classic"], POD).code, Some(64));
}

#[test]
fn no_password_is_said() {
    if is_direct() {
        return;
    }
    let written = run(&["inject"], POD);
    assert!(written.said.contains("warning: the password in REDIS_URL is written out"), "{}", written.said);
    let beside = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "app",
        "image": "app", "env": [{"name": "REDIS_PASSWORD", "value": "x"}, {"name": "REDIS_URL",
        "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}]}}"#;
    let told = run(&["inject"], beside);
    let warning = "warning: REDIS_PASSWORD stands beside REDIS_URL, and goes to the sidecar, which takes any";
    assert!(told.code == Some(0) && told.said.contains(warning), "{}", told.said);
    assert!(!written.said.contains("hidden"), "{}", written.said);
    assert_eq!(written.manifest.matches("hidden").count(), 1, "{}", written.manifest);
    for url in
        ["redis://app:12/hidden@redis/0", "redis://app:hidden", "$(BASE)/0?password=hidden", "rediss://:hidden@h"]
    {
        let written = run(&["inject"], &POD.replace("redis://app:hidden@redis:6379/0", url));
        assert_eq!((written.code, written.said.contains("hidden")), (Some(1), false), "{}", written.said);
    }
}

#[test]
fn other_options_take_the_place_of_the_first() {
    if is_direct() {
        return;
    }
    let native = run(&["inject"], POD).fine();
    let classic = run(&["inject", "--classic", "--image", "other:2"], POD).fine();
    assert_ne!(native, classic);
    assert!(classic.contains("image: other:2") && !classic.contains("restartPolicy"), "{classic}");
    assert_eq!(run(&["inject", "--classic", "--image", "other:2"], &native).fine(), classic);
    assert_eq!(run(&["inject"], &classic).fine(), native);
    assert_eq!(run(&["uninject"], &classic).fine(), POD);
    let declined = native.replace("\"annotations\": {", "\"annotations\": {outrigger.dev/inject: \"false\", ");
    let written = run(&["inject"], &declined);
    let expected = "Pod/p: the sidecar is taken out: outrigger.dev/inject is \"false\"";
    assert!(written.said.contains(expected), "{}", written.said);
    assert!(!written.fine().contains("name: outrigger"), "who declines has no sidecar any more");
}

#[test]
fn variables_and_sources_can_be_named() {
    if is_direct() {
        return;
    }
    let other = POD.replace("REDIS_URL", "CACHE_URL");
    assert!(run(&["inject"], &other).said.contains("left alone: no container has REDIS_URL"));
    for arguments in [&["inject", "--env", "CACHE_URL"][..], &["inject", "--env", "REDIS_URL,CACHE_URL"]] {
        let written = run(arguments, &other);
        let expected = "Pod/p: injected: CACHE_URL of app -> 127.0.0.1:6379 -> redis:6379";
        assert!(written.said.contains(expected), "{}", written.said);
    }
    let brought = POD.replace(
        "env:\n    - {name: REDIS_URL, value: \"redis://app:hidden@redis:6379/0\"}",
        "envFrom: [{configMapRef: {name: a}}, {secretRef: {name: b}}]",
    );
    let written = run(&["inject"], &brought);
    let expected = "left alone: no container has REDIS_URL; secret/b may bring it by envFrom";
    assert!(written.said.contains(expected), "{}", written.said);
    assert_eq!(written.fine(), brought, "to guess wrongly would keep it from starting");
    let insists = brought.replace("{name: p}", "{name: p, annotations: {outrigger.dev/inject: \"true\"}}");
    assert_eq!(run(&["inject"], &insists).code, Some(1), "of two it cannot be told");
    let written = run(&["inject", "--from", "secret/b"], &brought);
    assert!(written.said.contains("REDIS_URL of app -> 127.0.0.1:6379 -> secret/b, key REDIS_URL"), "{}", written.said);
    assert_eq!(run(&["uninject"], &written.fine()).fine(), brought);
}

#[test]
fn the_readmes_example_is_true() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("it is there");
    let section = readme.split("## Into a pod").nth(1).expect("there is the section");
    let golden = files("golden");
    let said = &golden["deployment-literal.yaml.said"];
    assert!(section.contains(&format!("```text\n{said}```")), "{said}");
    let diff = section.split("```diff\n").nth(1).and_then(|rest| rest.split("```").next()).expect("there is a diff");
    let (before, after) = (&files("corpus")["deployment-literal.yaml"], &golden["deployment-literal.yaml"]);
    for line in diff.lines().filter(|line| *line != " …") {
        let (sign, line) = line.split_at(1);
        let has = |manifest: &str| manifest.lines().any(|other| other == line);
        // What is added may be like a line that was there.
        assert_eq!((has(before) || sign == "+", has(after)), (true, sign != "-"), "{line}");
    }
}

#[test]
fn files_are_put_together() {
    if is_direct() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let one = directory.path().join("one.yaml").display().to_string();
    let two = directory.path().join("two.yaml").display().to_string();
    fs::write(&one, POD.trim_end()).expect("it can be written");
    fs::write(&two, "kind: Service\n").expect("it can be written");
    let all = run(&["inject", "-f", &one, "-f", &two, "-f", "-"], "---\nkind: Namespace\n").fine();
    assert!(all.ends_with("\n---\nkind: Service\n---\nkind: Namespace\n"), "{all}");
    assert_eq!(run(&["uninject"], &all).fine(), format!("{POD}---\nkind: Service\n---\nkind: Namespace\n"));
}

#[test]
fn what_was_changed_since_is_left_or_refused() {
    if is_direct() {
        return;
    }
    let injected = run(&["inject"], POD).fine();
    let moved = injected.replace("redis://127.0.0.1:6379/0", "redis://elsewhere/0");
    assert_eq!(
        run(&["uninject"], &moved).fine(),
        POD.replace("redis://app:hidden@redis:6379/0", "redis://elsewhere/0")
    );
    let brought = POD.replace(
        "env:\n    - {name: REDIS_URL, value: \"redis://app:hidden@redis:6379/0\"}",
        "envFrom: [{secretRef: {name: a}}]",
    );
    let injected_too = run(&["inject", "--from", "secret/a"], &brought).fine();
    let changed = injected_too.replace("redis://127.0.0.1:6379", "redis://elsewhere");
    assert!(
        run(&["uninject"], &changed).fine().contains("redis://elsewhere"),
        "what somebody has changed since is theirs"
    );
    let renamed = injected.replace("name: app\n", "name: application\n");
    let written = run(&["uninject"], &renamed);
    assert!(
        written.said.contains("container app is not there any more: take the sidecar out by hand"),
        "{}",
        written.said
    );
    assert_eq!(written.code, Some(1));
    assert!(run(&["uninject"], POD).said.contains("left alone: it has no sidecar"));
}
