//! The dashboard: Grafana's form, panels that say what they show, and queries that Prometheus understands.

use super::{names_in, promtool, read};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;

const DASHBOARD: &str = "grafana/outrigger.json";
const ROWS: [&str; 5] = ["Overview", "Requests, errors, duration", "Pool and leases", "Upstream errors", "Process"];

/// By what all is narrowed down; in the order in which one follows from those before.
const VARIABLES: [&str; 4] = ["namespace", "job", "pod", "instance"];

/// What Grafana is asked to fill in when the dashboard is imported.
const SOURCE: &str = "${DS_PROMETHEUS}";

#[test]
fn grafana_can_import_it() {
    let dashboard = dashboard();
    let input = &dashboard["__inputs"][0];
    assert_eq!(format!("${{{}}}", text(&input["name"])), SOURCE);
    assert_eq!((text(&input["type"]), text(&input["pluginId"])), ("datasource", "prometheus"));
    // Those of Grafana 10; later ones read them.
    assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| (37..=39).contains(&version)));
    assert!(dashboard["id"].is_null(), "an id of another Grafana");
    let required: BTreeSet<_> = list(&dashboard["__requires"]).iter().map(|part| text(&part["id"])).collect();
    let used: BTreeSet<_> = panels(&dashboard).iter().map(|panel| text(&panel["type"])).collect();
    let missing: Vec<_> = used.iter().filter(|kind| **kind != "row" && !required.contains(*kind)).collect();
    assert!(missing.is_empty(), "__requires lacks {missing:?}");
    let variables = list(&dashboard["templating"]["list"]);
    assert_eq!(variables.iter().map(|variable| text(&variable["name"])).collect::<Vec<_>>(), VARIABLES);
    for variable in variables {
        // Where a label is not there at all, "all" must not ask for one that is not empty.
        assert_eq!((text(&variable["allValue"]), text(&variable["datasource"]["uid"])), (".*", SOURCE));
    }
}

#[test]
fn each_panel_says_what_it_shows() {
    let dashboard = dashboard();
    let panels = panels(&dashboard);
    let rows: Vec<_> = panels.iter().filter(|panel| is_row(panel)).map(|panel| text(&panel["title"])).collect();
    assert_eq!(rows, ROWS);
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        let title = text(&panel["title"]);
        assert!(ids.insert(panel["id"].as_u64()), "{title} has the id of another panel");
        for cell in cells_of(panel) {
            assert!(cell.0 < 24, "{title} stands over the edge");
            assert!(cells.insert(cell), "{title} covers another panel");
        }
        if is_row(panel) {
            continue;
        }
        assert!(text(&panel["description"]).ends_with('.'), "{title} has no description");
        assert!(!text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(), "{title} has no unit");
        assert_eq!(text(&panel["datasource"]["uid"]), SOURCE, "{title}");
        assert!(!targets(panel).is_empty(), "{title} shows nothing");
        for target in targets(panel) {
            assert_eq!(text(&target["datasource"]["uid"]), SOURCE, "{title}");
            assert!(!text(&target["legendFormat"]).is_empty(), "{title} has no legend");
        }
    }
}

#[test]
fn each_query_is_one_and_heeds_what_was_chosen() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, query) in queries().iter().enumerate() {
        // JSON is YAML.
        let query = Value::from(query.as_str());
        rules.push_str(&format!("      - record: dashboard:query{number}\n        expr: {query}\n"));
    }
    let file = folder.path().join("queries.yaml");
    fs::write(&file, rules).expect("the queries can be written");
    let written = promtool(|promtool| {
        promtool.args(["check", "rules"]).arg(&file);
    });
    assert!(written.contains(&format!("{} rules found", queries().len())), "{written}");

    let chosen = VARIABLES.map(|variable| format!(r#"{variable}=~"${variable}""#)).join(", ");
    for query in raw_queries() {
        let named = PREFIXED.iter().map(|prefix| query.matches(prefix).count()).sum::<usize>();
        assert_eq!(query.matches(&format!("{{{chosen}")).count(), named, "a metric without {chosen}: {query}");
    }
}

/// How the names of metrics begin in queries.
const PREFIXED: [&str; 2] = super::PREFIXES;

/// The metrics that the dashboard names.
pub(super) fn names() -> BTreeSet<String> {
    names_in(&read(DASHBOARD))
}

/// All queries, with everything chosen, over five minutes.
pub(super) fn queries() -> Vec<String> {
    let filled = |query: String| {
        let query = query.replace("$__rate_interval", "5m");
        VARIABLES.iter().fold(query, |query, variable| query.replace(&format!("${variable}"), ".*"))
    };
    raw_queries().into_iter().map(filled).collect()
}

/// As they stand in the file, those of annotations last.
fn raw_queries() -> Vec<String> {
    let dashboard = dashboard();
    let annotations = list(&dashboard["annotations"]["list"]).iter().filter(|query| query["expr"].is_string());
    let queries = panels(&dashboard).iter().flat_map(targets).chain(annotations);
    queries.map(|query| text(&query["expr"]).to_owned()).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).unwrap_or_else(|error| panic!("{DASHBOARD} is no JSON: {error}"))
}

fn panels(dashboard: &Value) -> &[Value] {
    list(&dashboard["panels"])
}

fn is_row(panel: &Value) -> bool {
    panel["type"] == "row"
}

fn targets(panel: &Value) -> &[Value] {
    panel["targets"].as_array().map_or(&[], Vec::as_slice)
}

/// The cells of the grid that a panel covers.
fn cells_of(panel: &Value) -> Vec<(u64, u64)> {
    let at = |name: &str| panel["gridPos"][name].as_u64().unwrap_or_else(|| panic!("no place: {}", panel["title"]));
    let columns = at("x")..at("x") + at("w");
    columns.flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
