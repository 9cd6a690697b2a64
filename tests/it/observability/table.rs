//! `deploy/METRICS.md` against what is exported: names, types, labels, their values, and how many series there can be.

use super::{Exported, Watched, alerts, dashboard, read};
use crate::support::{PATIENCE, is_direct, wait_until};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

const TABLE: &str = "METRICS.md";

/// Series of a histogram for each value of its label: 17 bounds and one above, sum, count.
const OF_HISTOGRAM: usize = 20;

#[test]
fn every_metric_is_in_the_table_and_the_other_way_round() {
    if is_direct() {
        return;
    }
    let (watched, rows) = (Watched::start(), rows());
    // What is counted after an answer was sent is there a moment later.
    let unseen = |exported: &Exported| rows.keys().find(|name| !exported.families.contains_key(*name)).cloned();
    let mut missing = None;
    let start = Instant::now();
    wait_until("every metric of the table is exported", PATIENCE * 2, || {
        missing = unseen(&watched.exported());
        missing.is_none() || start.elapsed() > PATIENCE
    });
    assert_eq!(missing, None, "in {TABLE}, and not exported");
    let exported = watched.exported();
    for (name, kind) in &exported.families {
        let row = rows.get(name).unwrap_or_else(|| panic!("{name} is exported, and not in {TABLE}"));
        assert_eq!(&row.kind, kind, "the type of {name}");
        let series: Vec<_> = exported.series.iter().filter(|series| series.family == *name).collect();
        assert!((1..=row.most).contains(&series.len()), "{name} has {} series, not up to {}", series.len(), row.most);
        for series in series {
            row.check(name, &series.labels);
        }
    }
}

#[test]
fn every_metric_of_the_alerts_and_the_dashboard_is_exported() {
    if is_direct() {
        return;
    }
    let exported: BTreeSet<String> = Watched::start().exported().families.into_keys().collect();
    for (place, names) in [("the alerts", alerts::names()), ("the dashboard", dashboard::names())] {
        assert!(names.len() > 10, "{place} name {names:?}");
        let unknown: Vec<_> = names.difference(&exported).collect();
        assert!(unknown.is_empty(), "{place} name what is not exported: {unknown:?}");
    }
}

#[test]
fn the_table_counts_its_series_right() {
    let rows = rows();
    for (name, row) in &rows {
        if row.labels.values().all(Option::is_some) {
            let each = if row.kind == "histogram" { OF_HISTOGRAM } else { 1 };
            let values: usize = row.labels.values().flatten().map(BTreeSet::len).product();
            assert_eq!(row.most, values * each, "the series of {name}");
        }
    }
    let most: usize = rows.values().map(|row| row.most).sum();
    let said = format!("All rows together are at most {most},");
    assert!(read(TABLE).contains(&said), "{TABLE} does not say: {said}");
}

/// One metric, as the table has it.
struct Row {
    kind: String,
    /// Its labels, and their values where they are listed.
    labels: BTreeMap<String, Option<BTreeSet<String>>>,
    /// Most series of one proxy.
    most: usize,
}

impl Row {
    fn check(&self, name: &str, labels: &BTreeMap<String, String>) {
        assert!(labels.keys().eq(self.labels.keys()), "{name} has other labels than {TABLE} says: {labels:?}");
        for (label, value) in labels {
            let listed = self.labels[label].as_ref();
            assert!(listed.is_none_or(|values| values.contains(value)), "{name}: {label} is never {value}");
        }
    }
}

/// All rows of the table, by name.
fn rows() -> BTreeMap<String, Row> {
    let text = read(TABLE);
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, labels, most, meaning] = cells.as_slice() else { panic!("not five cells: {line}") };
        assert!(meaning.ends_with('.'), "no sentence: {line}");
        let labels = labels.split("; ").filter(|label| *label != "none").map(label).collect();
        let most = most.parse().unwrap_or_else(|_| panic!("no number of series: {line}"));
        let row = Row { kind: (*kind).to_owned(), labels, most };
        assert!(rows.insert(name.trim_matches('`').to_owned(), row).is_none(), "twice: {line}");
    }
    assert!(rows.len() > 40, "{TABLE} was not understood");
    rows
}

/// A label and its values, as in "`name`: `value`, `value`"; where there are words, the values are not listed.
fn label(text: &str) -> (String, Option<BTreeSet<String>>) {
    let (name, values) = text.split_once(": ").unwrap_or_else(|| panic!("no label: {text}"));
    let listed = |value: &str| Some(value.strip_prefix('`')?.strip_suffix('`')?.to_owned());
    (name.trim_matches('`').to_owned(), values.split(", ").map(listed).collect())
}
