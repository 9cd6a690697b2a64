//! The runbook, `deploy/README.md`: what it names exists, what can be run here of its commands does what it says, and its figures
//! can be measured again. What asks a cluster is not run.

use crate::program::run_to_end;
use crate::support::{
    Client, Figures, Kind, PATIENCE, Proxy, Server, allow_files, alone, dependency, is_direct, resident_bytes, words,
};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// What the commands begin with that only a cluster or a container engine can answer.
const NOT_HERE: [&str; 2] = ["kubectl ", "docker "];

/// The commands that do something here, in their order, and what they print then.
const SAID: [(&str, &str); 12] = [
    ("outrigger inject --image registry.example/outrigger:0.1.0", "Deployment/web: injected: REDIS_URL of app"),
    ("outrigger check", "ok    configuration"),
    ("outrigger healthcheck", r#"{ "status": "pass" }"#),
    ("curl -fsS localhost:9379/health", r#""status": "pass""#),
    ("info outrigger", "outrigger_breaker:closed"),
    ("outrigger_(downstream_connections|upstream_up", "outrigger_upstream_up 1"),
    ("outrigger inject --image registry.example/outrigger:0.2.0", "Deployment/web: injected: REDIS_URL of app"),
    ("breaker/isolate?for=2m", ""),
    ("curl -sS localhost:9379/health", r#""status": "fail""#),
    ("get some-key", "\n"),
    ("set some-key value", "UNAVAILABLE circuit open, command not sent"),
    ("breaker/release", ""),
];

fn within(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(within(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn runbook() -> String {
    read("deploy/README.md")
}

fn binary() -> String {
    let binary = std::env::var("OUTRIGGER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_outrigger").to_owned());
    fs::canonicalize(&binary).unwrap_or_else(|error| panic!("{binary}: {error}")).display().to_string()
}

/// The lines of its `sh` blocks, those within lists too.
fn commands(text: &str) -> Vec<&str> {
    let mut blocks = text.split("```");
    let mut lines = Vec::new();
    // Every second piece is inside a block.
    while let (Some(_), Some(block)) = (blocks.next(), blocks.next()) {
        lines.extend(block.strip_prefix("sh\n").into_iter().flat_map(str::lines).map(str::trim));
    }
    lines.retain(|line| !line.is_empty());
    lines
}

/// Words that begin with a prefix, and what is of a name behind it.
fn named(text: &str, prefix: &str) -> BTreeSet<String> {
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.');
    let starts = text.match_indices(prefix).filter(|(at, _)| !text[..*at].ends_with(is_of_name));
    let names = starts.map(|(at, _)| text[at + prefix.len()..].chars().take_while(|letter| is_of_name(*letter)));
    names
        .map(|name| name.collect::<String>().trim_end_matches('.').to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

/// What the program prints; nothing is asked how it ended.
fn said(arguments: &[&str]) -> String {
    run_to_end(Command::new(binary()).args(arguments), PATIENCE).1
}

#[test]
fn every_metric_that_it_names_is_exported() {
    let table = read("deploy/METRICS.md");
    let info = ["outrigger_breaker", "outrigger_degraded"];
    let runbook = runbook();
    let ours = named(&runbook, "outrigger_").into_iter().map(|name| format!("outrigger_{name}"));
    let systems = named(&runbook, "process_").into_iter().map(|name| format!("process_{name}"));
    let names: Vec<_> = ours.chain(systems).filter(|name| !info.contains(&name.as_str())).collect();
    assert!(names.len() > 15, "{names:?}");
    let missing: Vec<_> = names.iter().filter(|name| !table.contains(&format!("| `{name}` |"))).collect();
    assert!(missing.is_empty(), "deploy/METRICS.md does not have {missing:?}");
    for label in runbook.split('`').filter(|code| code.starts_with("outrigger_") && code.contains("=\"")) {
        let value = label.split('"').nth(1).unwrap_or_default();
        assert!(table.contains(&format!("`{value}`")), "{label} is not in deploy/METRICS.md");
    }
}

#[test]
fn every_flag_and_annotation_that_it_names_exists() {
    if is_direct() {
        return;
    }
    let runbook = runbook();
    let help = ["--help", "inject --help", "healthcheck --help"].map(|line| said(&line.split(' ').collect::<Vec<_>>()));
    // What is in blocks, and what names another program, is another program's.
    let prose: Vec<_> = runbook.split("```").step_by(2).collect();
    let spans: Vec<_> = prose.iter().flat_map(|text| text.split('`').skip(1).step_by(2)).collect();
    let others = ["helm ", "kubectl ", "cargo ", "OUTRIGGER_BIN="];
    let ours = spans.iter().filter(|span| !others.iter().any(|other| span.starts_with(other)));
    let flags: BTreeSet<_> = ours.flat_map(|span| named(span, "--")).collect();
    assert!(flags.len() > 5, "{flags:?}");
    for flag in flags {
        assert!(help.iter().any(|help| help.contains(&format!("--{flag}"))), "there is no --{flag}");
    }
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, annotations: {outrigger.dev/NAME: x}}\nspec: {containers: \
               [{name: app, image: a, env: [{name: REDIS_URL, value: 'redis://h'}]}]}\n";
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let inject = |annotation: &str| {
        let path = folder.path().join("pod.yaml");
        fs::write(&path, pod.replace("NAME: x", annotation)).expect("it can be written");
        said(&["inject", "-f", &path.display().to_string()])
    };
    let annotations = named(&runbook, "outrigger.dev/");
    assert!(annotations.len() > 10, "{annotations:?}");
    for name in annotations {
        let said = inject(&format!("{name}: x"));
        assert!(!said.contains("is no annotation") && !said.contains("cannot be set"), "{said}");
    }
    // Where a value is given too, it is taken.
    let given = spans.iter().filter_map(|span| span.strip_prefix("outrigger.dev/")).filter(|span| span.contains(": "));
    let given: BTreeSet<_> = given.filter(|setting| !setting.starts_with("inject: \"false")).collect();
    assert!(given.len() > 4, "{given:?}");
    for setting in given {
        let said = inject(setting);
        // That needs a larger pool too, as the runbook says there.
        let needs_more = setting == "mode: session" && said.contains("--pool-size");
        assert!(said.contains("Pod/p: injected") || needs_more, "{setting}: {said}");
    }
}

#[test]
fn what_it_says_of_the_log_and_of_errors_is_in_the_readme() {
    let (runbook, readme) = (runbook(), read("README.md"));
    let mut lines = 0;
    for (at, phrase) in runbook.match_indices("log says `") {
        let message = runbook[at + phrase.len()..].split('`').next().unwrap_or_default();
        let row = |line: &str| line.starts_with("| ") && line.contains(&format!("`{message}`"));
        assert!(readme.lines().any(row), "the README's table of the log has no `{message}`");
        lines += 1;
    }
    assert!(lines > 8, "only {lines} lines of the log are named");
    let starts = ["UNAVAILABLE ", "INDETERMINATE "];
    let spans = runbook.split("```").step_by(2).flat_map(|text| text.split('`').skip(1).step_by(2));
    for error in spans.filter(|span| starts.iter().any(|start| span.starts_with(start))) {
        assert!(readme.contains(error), "the README does not know the error `{error}`");
    }
}

#[test]
fn its_links_lead_somewhere() {
    let runbook = runbook();
    let targets = runbook.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let mut checked = 0;
    for target in targets {
        let (path, section) = target.split_once('#').unwrap_or((target, ""));
        let path = if path.is_empty() { within("deploy/README.md") } else { within("deploy").join(path) };
        assert!(path.exists(), "{target} is not there");
        if !section.is_empty() {
            let text = fs::read_to_string(&path).expect("a section is one of a text");
            let anchor = |line: &str| {
                let title = line.trim_start_matches('#').trim().to_lowercase();
                let kept = title.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-'));
                kept.collect::<String>().replace(' ', "-")
            };
            assert!(text.lines().any(|line| line.starts_with('#') && anchor(line) == section), "no section {target}");
        }
        checked += 1;
    }
    assert!(checked > 15, "only {checked} links were found");
}

/// Runs what can be run of a command, on this machine instead of in a pod.
fn run(line: &str, proxy: &Proxy, server: &Server, folder: &TempDir) -> String {
    let (_, port) = proxy.address().rsplit_once(':').expect("it listens at a port");
    let line = line.split_once(" -- ").map_or(line, |(_, inside)| inside);
    let line = line.replace("localhost:9379", &proxy.http()).replace("-p 6390", &format!("-p {port}"));
    let line =
        line.replace("kubectl get deployment web -o yaml", "cat injected.yaml").replace("kubectl replace -f -", "cat");
    let tools = [PathBuf::from(binary()), dependency("REDIS_CLI")];
    let tools = tools.iter().filter_map(|tool| tool.parent()).map(|folder| folder.display().to_string());
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", &line]).current_dir(folder.path());
    command.env("PATH", format!("{}:{path}", tools.collect::<Vec<_>>().join(":")));
    command.env("OUTRIGGER_UPSTREAM", format!("redis://{}", server.address())).env("OUTRIGGER_HTTP", proxy.http());
    let (status, written) = run_to_end(&mut command, PATIENCE);
    assert!(status.success(), "{line}: {status}\n{written}");
    println!("$ {line}\n{written}");
    written
}

#[test]
fn its_commands_do_what_it_says() {
    if is_direct() {
        return;
    }
    let runbook = runbook();
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let token = folder.path().join("admin-token");
    fs::write(&token, "correct-horse-7c1e\n").expect("it can be written");
    let deployment = read("tests/it/inject/corpus/deployment-literal.yaml");
    fs::write(folder.path().join("deployment.yaml"), &deployment).expect("it can be written");
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.arg("--admin-token-file").arg(&token);
    });
    assert!(proxy.connect().ask("PING").starts_with(b"+PONG"));
    let mut expected = SAID.iter();
    for line in commands(&runbook) {
        let is_piped = line.contains("| outrigger ");
        let is_ours = line.contains(" -- outrigger ");
        if NOT_HERE.iter().any(|start| line.starts_with(start)) && !is_ours && !is_piped {
            continue;
        }
        let written = run(line, &proxy, &server, &folder);
        if is_piped {
            assert!(written.contains(&deployment), "what was injected is not taken out:\n{written}");
            continue;
        }
        let (start, text) = expected.next().unwrap_or_else(|| panic!("nothing is said of {line}"));
        assert!(
            line.contains(start) && if *text == "\n" { written.trim().is_empty() } else { written.contains(text) },
            "{line} is not `{start}`, or does not say `{text}`:\n{written}"
        );
        assert!(!line.ends_with("outrigger check") || written.lines().all(|line| line.starts_with("ok ")), "{written}");
    }
    assert!(expected.next().is_none(), "a command is missing: {expected:?}");
    assert_eq!(proxy.logged("drill: isolated from Redis, clients are answered as in an outage"), 1);
}

#[test]
fn alone_its_figures_of_memory() {
    const LEASES: usize = 400;
    let _alone = alone();
    allow_files(11_000);
    let server = Server::start(Kind::Redis70);
    let proxy = Proxy::start(&server, |flags| {
        flags.args(["--max-clients", "10100", "--pool-size", "500"]);
    });
    let Some(pid) = proxy.pid() else { return };
    assert_eq!(proxy.connect().ask("SET k v"), b"+OK\r\n");
    let mut figures = Figures::of("of the runbook");
    figures.add("at_rest_kib", resident_bytes(pid) / 1024);
    let mut clients: Vec<Client> = Vec::new();
    for most in [1_000, 10_000] {
        while clients.len() < most {
            let mut client = proxy.connect();
            client.send(&[words("PING"), words("GET k")].concat());
            assert_eq!((client.reply(), client.reply()), (b"+PONG\r\n".to_vec(), b"$1\r\nv\r\n".to_vec()));
            clients.push(client);
        }
        figures.add(&format!("with_{most}_clients_kib"), resident_bytes(pid) / 1024);
    }
    let before = resident_bytes(pid);
    assert!(before <= 30 << 20, "{before} bytes with 10,000 clients");
    for client in clients.iter_mut().take(LEASES) {
        assert_eq!(client.ask("WATCH k"), b"+OK\r\n");
    }
    let each = resident_bytes(pid).saturating_sub(before) / LEASES as u64;
    figures.add("bytes_per_lease", each);
    assert!(each <= 16 << 10, "{each} bytes for each lease");
}
