//! The alert rules: Prometheus takes them, each is shown to fire and to clear, and each says what to do.

use super::{deployed, names_in, promtool, read};
use std::collections::{BTreeMap, BTreeSet};

const RULES: &str = "prometheus/outrigger.rules.yaml";
const TESTS: &str = "prometheus/outrigger.rules.test.yaml";

/// What each alert says.
const ANNOTATIONS: [&str; 3] = ["summary", "description", "runbook"];

/// What each runbook answers, in this order.
const QUESTIONS: [&str; 3] = ["What it means:", "What to look at:", "What to do:"];

#[test]
fn prometheus_takes_the_rules() {
    let written = promtool(|promtool| {
        promtool.args(["check", "rules", "--lint-fatal"]).arg(deployed(RULES));
    });
    assert!(written.contains(&format!("{} rules found", alerts().len())), "{written}");
}

#[test]
fn each_alert_fires_and_clears() {
    promtool(|promtool| {
        promtool.args(["test", "rules"]).arg(deployed(TESTS));
    });
    let tests = read(TESTS);
    let fired: BTreeSet<_> = tests.lines().filter_map(|line| quoted_after(line, "alertname=")).collect();
    let names: BTreeSet<_> = alerts().into_iter().map(|alert| alert.name).collect();
    assert_eq!(names.len(), 10, "{names:?}");
    assert_eq!(fired, names, "alerts that a test in {TESTS} sees fire, and those that there are");
    // Where something fires, the same test looks again later, when nothing does.
    for test in tests.split("\n  - name: ").skip(1) {
        let last = test.lines().rfind(|line| !line.is_empty() && !line.starts_with("  #"));
        assert_eq!(last, Some("        exp_samples: []"), "this does not end with nothing firing: {test}");
    }
}

#[test]
fn each_alert_says_what_it_means_and_what_to_do() {
    for alert in alerts() {
        let name = &alert.name;
        assert!(["warning", "critical"].contains(&alert.severity.as_str()), "{name} has no severity");
        assert_eq!(alert.annotations.keys().map(String::as_str).collect::<BTreeSet<_>>(), ANNOTATIONS.into(), "{name}");
        let runbook = &alert.annotations["runbook"];
        let asked: Vec<_> = runbook.lines().filter(|line| line.starts_with("What ")).collect();
        assert_eq!(asked.len(), QUESTIONS.len(), "the runbook of {name}: {runbook}");
        for (line, question) in asked.iter().zip(QUESTIONS) {
            assert!(line.starts_with(question) && line.len() > question.len() + 40, "{name}: {question} {line}");
        }
        assert!(!runbook.contains("http://") && !runbook.contains("https://"), "{name} sends its reader elsewhere");
    }
}

/// The metrics that the rules name, in expressions and runbooks, and those that their tests make up.
pub(super) fn names() -> BTreeSet<String> {
    names_in(&[read(RULES), read(TESTS)].concat())
}

/// An alert, as far as it is looked at here.
struct Alert {
    name: String,
    severity: String,
    annotations: BTreeMap<String, String>,
}

/// All alerts, read off the layout that the file has: promtool checks that it is YAML.
fn alerts() -> Vec<Alert> {
    let rules = read(RULES);
    rules.split("\n      - alert: ").skip(1).map(alert).collect()
}

fn alert(text: &str) -> Alert {
    let field = |name: &str| {
        let start = format!("          {name}: ");
        text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_default().to_owned()
    };
    let mut annotations: BTreeMap<String, String> = BTreeMap::new();
    let mut lines = text.lines().skip_while(|line| *line != "        annotations:").skip(1).peekable();
    while let Some((name, first)) = lines.next().and_then(|line| line.strip_prefix("          ")?.split_once(':')) {
        let mut value = first.trim().trim_matches('"').trim_matches('|').to_owned();
        while let Some(line) = lines.next_if(|line| line.starts_with("            ")) {
            value = format!("{value}\n{}", line.trim());
        }
        annotations.insert(name.to_owned(), value.trim().to_owned());
    }
    Alert { name: text.lines().next().unwrap_or_default().to_owned(), severity: field("severity"), annotations }
}

fn quoted_after(line: &str, start: &str) -> Option<String> {
    Some(line.split_once(start)?.1.split('"').nth(1)?.to_owned())
}
