//! However a manifest is laid out: what is not ours stays as it is, and comes back as it was.

use super::run;
use crate::support::is_direct;

const ROUNDS: usize = 150;

/// Writes one manifest in as many ways as there are seeds.
struct Writer {
    random: fastrand::Rng,
    step: usize,
    dash: usize,
    out: String,
}

/// A part of a manifest.
enum Part {
    Text(&'static str),
    List(Vec<Self>),
    Map(Vec<(&'static str, Self)>),
}

use Part::{List, Map, Text};

impl Writer {
    /// Comments and blank lines, or none.
    fn clutter(&mut self, column: usize) {
        for _ in 0..self.random.usize(..6).saturating_sub(3) {
            let column = if self.random.bool() { column } else { self.random.usize(..20) };
            let line = if self.random.bool() { String::new() } else { format!("{}# {{a: [}} é", " ".repeat(column)) };
            self.out += &(line + "\n");
        }
    }

    fn comment(&mut self) -> &'static str {
        if self.random.u8(..5) == 0 { "  # - b: 'c" } else { "" }
    }

    fn scalar(&mut self, text: &str) -> String {
        match self.random.u8(..3) {
            0 => format!("\"{text}\""),
            1 => format!("'{text}'"),
            _ if text.contains(['{', '#', '*']) => format!("'{text}'"),
            _ => text.to_owned(),
        }
    }

    fn flow(part: &Part) -> String {
        match part {
            Text(text) => format!("\"{text}\""),
            List(items) => format!("[{}]", items.iter().map(Self::flow).collect::<Vec<_>>().join(", ")),
            Map(members) => {
                let members = members.iter().map(|(name, part)| format!("{name}: {}", Self::flow(part)));
                format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// What follows a key, at its column.
    fn value(&mut self, part: &Part, column: usize, depth: usize) {
        let in_brackets = depth > 3 && self.random.u8(..8) == 0;
        match part {
            Map(members) if !in_brackets => {
                let comment = self.comment();
                self.out += &format!("{comment}\n");
                self.members(members, column + self.step, false, depth);
            }
            List(items) if !in_brackets => {
                let comment = self.comment();
                self.out += &format!("{comment}\n");
                let column = column + self.dash;
                for item in items {
                    self.clutter(column);
                    let gap = self.random.usize(1..4);
                    self.out += &format!("{}-{}", " ".repeat(column), " ".repeat(gap));
                    match item {
                        Map(members) if self.random.u8(..6) > 0 => {
                            self.members(members, column + 1 + gap, true, depth + 1);
                        }
                        Text(_) | List(_) | Map(_) => {
                            let comment = self.comment();
                            self.out += &format!("{}{comment}\n", Self::flow(item));
                        }
                    }
                }
            }
            Text(text) => {
                let (scalar, comment) = (self.scalar(text), self.comment());
                self.out += &format!(" {scalar}{comment}\n");
            }
            List(_) | Map(_) => self.out += &format!(" {}\n", Self::flow(part)),
        }
    }

    fn members(&mut self, members: &[(&'static str, Part)], column: usize, mut begun: bool, depth: usize) {
        for (name, part) in members {
            if !begun {
                self.clutter(column);
                self.out += &" ".repeat(column);
            }
            begun = false;
            let name = if self.random.u8(..6) == 0 { format!("\"{name}\"") } else { (*name).to_owned() };
            self.out += &format!("{name}:");
            self.value(part, column, depth + 1);
        }
    }
}

fn manifest() -> Vec<(&'static str, Part)> {
    let entry = |name, value| Map(vec![("name", Text(name)), ("value", Text(value))]);
    let reference = Map(vec![("name", Text("redis")), ("key", Text("url"))]);
    let secret = Map(vec![("name", Text("CACHE_URL")), ("valueFrom", Map(vec![("secretKeyRef", reference)]))]);
    let app = Map(vec![
        ("name", Text("app")),
        ("env", List(vec![entry("A", "x: y #"), entry("REDIS_URL", "redis://redis:6379/1"), secret, entry("B", "{}")])),
        ("image", Text("app:1")),
    ]);
    let labels = || Map(vec![("app", Text("web"))]);
    let other =
        Map(vec![("image", Text("other")), ("args", List(vec![Text("-c"), Text("* {")])), ("name", Text("other"))]);
    let pod = Map(vec![("volumes", List(vec![])), ("containers", List(vec![app, other])), ("hostname", Text("h"))]);
    let template = Map(vec![("metadata", Map(vec![("labels", labels())])), ("spec", pod)]);
    let spec = vec![("selector", Map(vec![("matchLabels", labels())])), ("template", template)];
    let metadata = vec![("name", Text("web"))];
    vec![
        ("apiVersion", Text("apps/v1")),
        ("kind", Text("Deployment")),
        ("metadata", Map(metadata)),
        ("spec", Map(spec)),
    ]
}

#[test]
fn any_layout_is_kept() {
    if is_direct() {
        return;
    }
    let seed =
        std::env::var("OUTRIGGER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("OUTRIGGER_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..ROUNDS {
        let (step, dash) = (random.usize(1..6), random.usize(..5));
        let mut writer = Writer { random: random.fork(), step, dash, out: String::new() };
        writer.members(&manifest(), 0, false, 0);
        writer.clutter(0);
        let text = if random.bool() { writer.out } else { writer.out.replace('\n', "\r\n") };
        let about = format!("round {round} of OUTRIGGER_SEED={seed}:\n{text}");
        let injected = run(&["inject", "--env", "REDIS_URL,CACHE_URL"], &text);
        assert_eq!(injected.code, Some(0), "{}{about}", injected.said);
        assert!(injected.said.contains("redis:6379; CACHE_URL"), "both are moved: {}{about}", injected.said);
        // All lines that say nothing of Redis are there, in their order.
        let mut lines = injected.manifest.lines();
        for line in text
            .lines()
            .filter(|line| !["redis", "valueFrom", "key", "secretKeyRef"].iter().any(|word| line.contains(word)))
        {
            let is_comment = line.trim_start().starts_with('#') || line.trim().is_empty();
            assert!(
                is_comment || lines.any(|other| other == line),
                "`{line}` is not kept in\n{}\n{about}",
                injected.manifest
            );
        }
        assert_eq!(run(&["inject", "--env", "REDIS_URL,CACHE_URL"], &injected.manifest), injected, "twice, {about}");
        let back = run(&["uninject"], &injected.manifest);
        assert!(back.manifest == text, "{}came back as\n{}\n{about}", back.said, back.manifest);
    }
}
