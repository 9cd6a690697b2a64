//! Two servers of one kind, the proxy before one of them, and the comparison of what clients of both hear.

use super::author::may_block;
use super::differences::{Context, Told, counts_receivers, level, same};
use super::script::{MOST_CLIENTS, Manner, Script, Step};
use super::side::{Heard, Seen, Side};
use crate::support::{Kind, PATIENCE, Proxy, Server, is_direct};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Ids begin behind this, and no number in a script's replies is so large.
const IDS_FROM: usize = 1_000;

/// How much of one reply a finding shows, in characters.
const MOST_SHOWN: usize = 600;

/// Both sides, ready for one script after the other.
pub struct Stage {
    direct: Side,
    proxied: Side,
    plant: Option<Plant>,
    /// What each client has done in this script.
    deeds: Vec<Deeds>,
    /// How often clients heard what directly.
    tally: BTreeMap<String, usize>,
    /// The server behind the proxy.
    server: Server,
    _proxy: Option<Proxy>,
    _other: Server,
    _sockets: TempDir,
}

/// What a client has done.
struct Deeds {
    last: Step,
    /// It has asked how many hear a message.
    counts_receivers: bool,
    /// It has sent more behind what it is, or was, blocked in.
    is_behind: bool,
}

impl Deeds {
    /// Of all clients at the beginning of a script.
    fn none() -> Vec<Self> {
        let none = |client| Self { last: Step::end_of(client), counts_receivers: false, is_behind: false };
        (1..=MOST_CLIENTS).map(none).collect()
    }

    fn note(&mut self, step: &Step) {
        self.counts_receivers |= step.commands.iter().any(|command| counts_receivers(command));
        self.last = step.clone();
    }
}

/// What stands before the second server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// The proxy, with so many workers.
    Proxy(usize),
    /// Nothing: it shows that scripts have one outcome.
    Nothing,
}

/// The first difference that a script shows.
#[derive(Debug)]
pub struct Finding {
    /// In words.
    text: String,
}

/// A fault of the proxy, done to what is heard through it or to the server behind it: each must be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// The last reply of a step gets lost.
    Lose,
    /// It comes twice.
    Double,
    /// Two clients get each other's.
    Swap,
    /// Two replies of one client change places.
    Reorder,
    /// Something is written that nobody sent.
    Write,
}

impl Stage {
    /// Fresh servers of this kind.
    pub fn start(kind: Kind, before: Before) -> Self {
        Self::between([kind, kind], before)
    }

    /// The same with servers of two kinds, the one that clients connect to directly first.
    pub fn between(kinds: [Kind; 2], before: Before) -> Self {
        let sockets = tempfile::tempdir().expect("a temporary directory can be made");
        let socket = sockets.path().join("redis").display().to_string();
        let other = start_server(kinds[0], &["--unixsocket", &socket]);
        let server = start_server(kinds[1], &[]);
        let proxy = before.start(&server);
        let address = proxy.as_ref().map_or_else(|| server.address(), |proxy| proxy.address().to_owned());
        // What is written to a unix socket is there at once: this is what `settle` stands on.
        let socket = format!("unix:{socket}");
        let direct = Side::new(socket.clone(), &socket, kinds[0], MOST_CLIENTS, PATIENCE);
        let proxied = Side::new(address, &server.address(), kinds[1], MOST_CLIENTS, PATIENCE);
        direct.raise_ids(IDS_FROM);
        if proxy.is_none() || is_direct() {
            proxied.raise_ids(IDS_FROM);
        }
        Self {
            direct,
            proxied,
            plant: None,
            deeds: Deeds::none(),
            tally: BTreeMap::new(),
            server,
            _proxy: proxy,
            _other: other,
            _sockets: sockets,
        }
    }

    /// How long what is due may take to come through the proxy.
    pub const fn set_patience(&mut self, patience: Duration) {
        self.proxied.set_patience(patience);
    }

    /// From now on this goes wrong.
    pub const fn plant(&mut self, plant: Plant) {
        self.plant = Some(plant);
    }

    /// How often clients heard what directly, by sort.
    pub const fn tally(&self) -> &BTreeMap<String, usize> {
        &self.tally
    }

    /// The server behind the proxy.
    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// Plays a script on both sides, up to the first difference. After one the stage is not fit for another script.
    pub fn play(&mut self, script: &Script) -> Result<(), Finding> {
        self.deeds = Deeds::none();
        for step in &script.steps {
            self.take(step)?;
        }
        self.end()?;
        for (side, name) in [(&mut self.direct, "direct"), (&mut self.proxied, "proxied")] {
            side.clear().map_err(|text| Finding { text: format!("at the end, {name}: {text}") })?;
        }
        Ok(())
    }

    /// One step: first directly, which shows what is due.
    fn take(&mut self, step: &Step) -> Result<(), Finding> {
        if step.manner == Manner::Waits && self.direct.is_blocked(step.client) {
            // It would begin to wait at some later time, and nobody knows what happens first then.
            return Ok(());
        }
        let is_behind =
            !step.commands.is_empty() && (self.direct.is_blocked(step.client) || has_more_behind_a_block(step));
        let mut others = (1..=MOST_CLIENTS).filter(|other| *other != step.client);
        let goes_on = is_behind || step.commands.len() > 1;
        if goes_on && others.any(|other| self.deeds[other - 1].is_behind && self.direct.is_blocked(other)) {
            // If this serves the other, nobody knows in which order both go on: what is behind a block waits in the proxy.
            return Ok(());
        }
        self.deeds[step.client - 1].is_behind = is_behind;
        self.deeds[step.client - 1].note(step);
        self.direct.perform(step);
        let mut due_seen = self.direct.settle();
        let mut goes_on = step.manner == Manner::Waits;
        let start = Instant::now();
        while goes_on {
            assert!(start.elapsed() < PATIENCE, "this goes on for too long: {step}");
            goes_on = self.direct.is_blocked(step.client);
            // Seen after that, or the end of the wait might have come in between.
            due_seen = self.direct.settle();
        }
        self.proxied.perform(step);
        self.check(step, &due_seen)
    }

    /// All clients finish, and hear all that is left to hear.
    fn end(&mut self) -> Result<(), Finding> {
        let ends: Vec<_> = (1..=MOST_CLIENTS).map(Step::end_of).collect();
        ends.iter().for_each(|step| self.direct.perform(step));
        let due_seen = self.direct.settle();
        ends.iter().for_each(|step| self.proxied.perform(step));
        self.check(&ends[0], &due_seen)
    }

    /// Compares what came to the clients, and how the server behind is seen.
    fn check(&mut self, step: &Step, due_seen: &Seen) -> Result<(), Finding> {
        let due = self.direct.take_heard();
        self.count(step, &due);
        if self.plant == Some(Plant::Write) {
            self.server.connect().ask("SET planted 1");
        }
        let counts: Vec<_> = due.iter().map(Vec::len).collect();
        let seen = self.proxied.follow(&counts, due_seen);
        let mut heard = self.proxied.take_heard();
        if let Some(plant) = self.plant {
            plant.spoil(&mut heard);
        }
        self.compare(step, &due, &heard)?;
        if seen == *due_seen {
            return Ok(());
        }
        let text = format!(
            "after {step}\n  the server behind is seen as {seen:?}\n  instead of                   {due_seen:?}"
        );
        Err(Finding { text })
    }

    fn count(&mut self, step: &Step, heard: &[Vec<Heard>]) {
        for (client, heard) in heard.iter().enumerate() {
            for heard in heard {
                let sort = heard.sort();
                // Somebody who was blocked, or gone for somebody else.
                let is_asked = client + 1 == step.client || sort.ends_with("message") || step.commands.is_empty();
                let unasked = if is_asked { "" } else { "unasked " };
                *self.tally.entry(format!("{unasked}{sort}")).or_default() += 1;
            }
        }
    }

    /// What is known of a client, by number from 0, on one side.
    fn context<'a>(&'a self, side: &'a Side, client: usize) -> Context<'a> {
        let deeds = &self.deeds[client];
        Context { ids: side.ids(), step: &deeds.last, counts_receivers: deeds.counts_receivers }
    }

    fn compare(&self, step: &Step, due: &[Vec<Heard>], heard: &[Vec<Heard>]) -> Result<(), Finding> {
        let mut text = String::new();
        for (number, (due, heard)) in due.iter().zip(heard).enumerate() {
            let (direct, proxied) = (self.context(&self.direct, number), self.context(&self.proxied, number));
            if !same((due, &direct), (heard, &proxied)) {
                text.push_str(&format!(
                    "after {step}\n  client {} hears {}\n  instead of     {}\n",
                    number + 1,
                    shown(heard),
                    shown(due)
                ));
                let (due, heard) = (level(due, &direct), level(heard, &proxied));
                let at = due.iter().zip(&heard).take_while(|(due, heard)| due == heard).count();
                let told = |told: Option<&Told>| shortened(format!("{told:?}"));
                text.push_str(&format!(
                    "  that is        {}\n  instead of     {}\n",
                    told(heard.get(at)),
                    told(due.get(at))
                ));
            }
        }
        if text.is_empty() { Ok(()) } else { Err(Finding { text }) }
    }
}

fn has_more_behind_a_block(step: &Step) -> bool {
    let before_last = step.commands.split_last().map(|(_, before)| before).unwrap_or_default();
    before_last.iter().any(|command| may_block(command))
}

fn start_server(kind: Kind, options: &[&str]) -> Server {
    // DEBUG tells a digest of all that is stored.
    let debug: &[&str] = if kind == Kind::Redis62 { &[] } else { &["--enable-debug-command", "yes"] };
    Server::start_with(kind, &[options, debug].concat())
}

impl Before {
    fn start(self, server: &Server) -> Option<Proxy> {
        match self {
            Self::Nothing => None,
            Self::Proxy(workers) => Some(Proxy::patient(server, |flags| {
                flags.args(["--workers", &workers.to_string()]);
            })),
        }
    }
}

impl Plant {
    fn spoil(self, heard: &mut [Vec<Heard>]) {
        let speaking: Vec<_> = (0..heard.len()).filter(|client| !heard[*client].is_empty()).collect();
        match (self, speaking.as_slice()) {
            (Self::Lose, [first, ..]) => drop(heard[*first].pop()),
            (Self::Double, [first, ..]) => {
                let last = heard[*first].last().cloned();
                heard[*first].extend(last);
            }
            (Self::Swap, [first, second, ..]) => heard.swap(*first, *second),
            (Self::Reorder, [first, ..]) => heard[*first].reverse(),
            _ => {}
        }
    }
}

fn shown(heard: &[Heard]) -> String {
    let texts = heard.iter().map(|heard| shortened(heard.to_string()));
    if heard.is_empty() { "nothing".to_owned() } else { texts.collect::<Vec<_>>().join("  ") }
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(MOST_SHOWN) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}
