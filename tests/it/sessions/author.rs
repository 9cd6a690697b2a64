//! Writes a script by chance: the same script for the same seed, server and groups.
//!
//! It guesses what state each client is in by what it sent, and prefers steps that are interesting there. A wrong guess
//! does no harm: what must be answered is known from the server alone.

use super::repertoire::{DATA, LEAVING, Line, Repertoire, State, When};
use super::script::{MOST_CLIENTS, Manner, Script, Step, begins_with, placeholder};
use crate::support::Kind;
use fastrand::Rng;
use std::collections::BTreeSet;

/// Groups whose steps are sent command by command.
const APART: [&str; 1] = ["broadcast"];
/// Groups that are not used together, and which of the two gives way.
/// (Of a block in which CLIENT REPLY stands, Redis writes a part of the reply.)
/// (WAIT is about the connection that its client wrote to last, which another may have meanwhile if it was not a lane's.)
/// (In a block that subscribes, Redis answers a client in RESP3 within its reply to EXEC: what is moved into a block must
/// not be a subscription, nor one to what trackers are told.)
const NOT_TOGETHER: [(&str, &str); 9] = [
    ("broadcast", "reply"),
    ("redirect", LEAVING),
    (MOVED, "reply"),
    (MOVED, "pubsub"),
    (MOVED, "redirect"),
    ("blocking", "wait"),
    (MOVED, "wait"),
    ("unknown", "wait"),
    ("watch", "wait"),
];
/// A group that is used with [`DATA`] alone: most of what MONITOR shows of other commands is about connections.
const ALONE: &str = "monitor";
/// What closes a connection once its reply is written, as Redis has it: after a reply that is not to be seen it never does.
const NOT_IN_SILENCE: [&str; 2] = ["QUIT", "CLIENT KILL"];
/// What a client does not say again that has been tracked before it said RESET: Redis may tell it then of what it read
/// before, and the proxy, which gives it another connection, does not.
const NOT_AFTER_RESET: &str = "CLIENT TRACKING ON";
/// What a client does not ask that hears on a connection of its own what others have to forget: that speaks for itself (see
/// the differences).
const ASKS_WHO_IT_IS: [&str; 5] = ["CLIENT GETREDIR", "CLIENT ID", "CLIENT INFO", "CLIENT LIST", "CLIENT TRACKINGINFO"];
/// What such a client does not say either: it would leave that connection, and with it whoever tells it what to forget (see the
/// differences).
const LEAVES_TRACKERS: &str = "RESET";
/// What such a client does not say in a transaction: Redis writes what it is told to forget into the middle of EXEC's reply.
const NOT_IN_OWN_BLOCK: [&str; 2] = ["FLUSHALL", "FLUSHDB"];
/// What must not follow what a client publishes in the same write if it may hear that itself: in RESP3 its own message may
/// come later through the proxy (see the differences), which is too late then.
const NOT_BEHIND_OWN_MESSAGE: [&str; 9] =
    ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE", "QUIT", "RESET", "HELLO"];
/// The group of what is about the connection itself within MULTI.
const MOVED: &str = "moved";
/// How many groups a script uses at most, besides [`DATA`].
const MOST_GROUPS: usize = 3;
/// How many clients a script has: with more of them fewer steps meet.
const CLIENTS: [usize; 8] = [1, 2, 2, 2, 3, 3, 4, MOST_CLIENTS];
/// How many steps a script has at least and at most, besides greetings.
const STEPS: (usize, usize) = (4, 24);
/// How many lines a placeholder for a whole step may lead through.
const DEEPEST: usize = 2;

/// A script that uses some of the groups `covered`.
pub fn script(seed: u64, kind: Kind, repertoire: &Repertoire, covered: &BTreeSet<&'static str>) -> Script {
    let mut rng = Rng::with_seed(seed);
    let groups = choose_groups(&mut rng, repertoire, covered);
    let people = (0..rng.choice(CLIENTS).unwrap_or(MOST_CLIENTS)).map(|_| Person::default()).collect();
    let length = rng.usize(STEPS.0..=STEPS.1);
    let mut author = Author { rng, kind, repertoire, groups, people, counter: 0 };
    let mut steps = author.greetings();
    let length = length + steps.len();
    while steps.len() < length {
        author.go_on(&mut steps);
    }
    Script { steps }
}

/// Groups with many lines are chosen more often.
fn choose_groups(rng: &mut Rng, repertoire: &Repertoire, covered: &BTreeSet<&'static str>) -> BTreeSet<&'static str> {
    let by_line: Vec<_> = repertoire.group_of_each_line().filter(|group| covered.contains(group)).collect();
    let count = rng.usize(1..=MOST_GROUPS);
    let mut groups: BTreeSet<_> = (0..count).filter_map(|_| rng.choice(by_line.iter().copied())).collect();
    if covered.contains(LEAVING) && rng.bool() {
        groups.insert(LEAVING);
    }
    if groups.contains(ALONE) {
        groups.retain(|group| *group == ALONE);
    }
    for (stays, gives_way) in NOT_TOGETHER {
        if groups.contains(stays) {
            groups.remove(gives_way);
        }
    }
    groups.insert(DATA);
    groups
}

struct Author<'a> {
    rng: Rng,
    kind: Kind,
    repertoire: &'a Repertoire,
    groups: BTreeSet<&'static str>,
    /// By number, from 0.
    people: Vec<Person>,
    counter: u32,
}

/// What is guessed of a client.
#[derive(Default)]
struct Person {
    states: BTreeSet<State>,
    /// It has used CLIENT REPLY, so that its replies may not tell when a step of it is done.
    may_be_silent: bool,
    /// It has subscribed.
    may_hear: bool,
    /// It has subscribed to what trackers are told, and so never says RESET again.
    hears_of_trackers: bool,
    /// It has been tracked, and that before it said RESET.
    has_tracked: bool,
    has_reset: bool,
}

impl<'a> Author<'a> {
    /// Every other client speaks RESP3 from the beginning.
    fn greetings(&mut self) -> Vec<Step> {
        let polite: Vec<_> = (1..=self.people.len()).filter(|_| self.rng.bool()).collect();
        let greeting = |client| Step { client, manner: Manner::Says, commands: vec!["HELLO 3".to_owned()] };
        polite.into_iter().map(greeting).collect()
    }

    /// Adds a step, or several of one client.
    fn go_on(&mut self, steps: &mut Vec<Step>) {
        let client = self.next_client();
        if self.groups.contains(LEAVING) && self.rng.usize(..12) == 0 {
            steps.push(self.departure(client));
            return;
        }
        let (manner, mut commands) = self.commands(client);
        if manner == Manner::Says && self.rng.usize(..6) == 0 {
            let (other, more) = self.commands(client);
            commands.extend(more.into_iter().filter(|_| other == Manner::Says));
        }
        self.avoid(client, &mut commands);
        if self.groups.iter().any(|group| APART.contains(group)) {
            steps.extend(commands.into_iter().map(|command| Step {
                client: client + 1,
                manner,
                commands: vec![command],
            }));
            return;
        }
        if self.people[client].may_be_silent {
            // Whether it is there tells that all before it is done.
            commands.push(format!("SET marker{} {}", client + 1, self.number()));
        }
        if !commands.is_empty() {
            steps.push(Step { client: client + 1, manner, commands });
        }
    }

    /// One that is blocked can do little.
    fn next_client(&mut self) -> usize {
        let client = self.rng.usize(..self.people.len());
        let another = self.people[client].states.contains(&State::Blocked) && self.rng.usize(..4) > 0;
        if another { self.rng.usize(..self.people.len()) } else { client }
    }

    fn departure(&mut self, client: usize) -> Step {
        let manner = [Manner::Leaves, Manner::Resets, Manner::Finishes][self.rng.usize(..3)];
        let says = manner == Manner::Finishes && self.rng.bool();
        let mut commands = if says { self.commands(client).1 } else { Vec::new() };
        self.avoid(client, &mut commands);
        if self.people[client].may_hear && commands.iter().any(|command| publishes(command)) {
            commands.clear();
        }
        if commands.iter().any(|command| may_block(command) || command.contains("WAIT")) {
            // Who leaves while it waits for a connection to block on is gone at once: what it asked is not asked.
            commands.clear();
        }
        self.people[client] = Person::default();
        Step { client: client + 1, manner, commands }
    }

    /// What a client sends in one step.
    fn commands(&mut self, client: usize) -> (Manner, Vec<String>) {
        let line = self.line(client);
        let mut commands = Vec::new();
        self.expand(line, client, 0, &mut commands);
        commands.iter().for_each(|command| self.note(client, command, line.manner));
        (line.manner, commands)
    }

    /// Leaves out what has no certain outcome, or not through any proxy.
    fn avoid(&self, client: usize, commands: &mut Vec<String>) {
        let person = &self.people[client];
        if person.may_be_silent {
            commands.retain(|command| !NOT_IN_SILENCE.iter().any(|name| begins_with(command, name)));
        }
        if person.hears_of_trackers {
            let queues = person.states.contains(&State::Queueing) || commands.iter().any(|command| command == "MULTI");
            let mut left_out = ASKS_WHO_IT_IS.to_vec();
            left_out.push(LEAVES_TRACKERS);
            left_out.extend(NOT_IN_OWN_BLOCK.iter().filter(|_| queues));
            commands.retain(|command| !left_out.iter().any(|name| begins_with(command, name)));
        }
        if person.has_reset {
            commands.retain(|command| !begins_with(command, NOT_AFTER_RESET));
        }
        if !person.may_hear {
            return;
        }
        let is_blocked = person.states.contains(&State::Blocked);
        let mut has_published = false;
        commands.retain(|command| {
            let is_behind = NOT_BEHIND_OWN_MESSAGE.iter().any(|name| begins_with(command, name));
            let stays = !(publishes(command) && is_blocked || is_behind && has_published);
            has_published |= publishes(command) && stays;
            stays
        });
    }

    fn line(&mut self, client: usize) -> &'a Line {
        let groups: Vec<_> = self.groups.iter().copied().collect();
        let mut lines = Vec::new();
        for when in self.circumstances(client) {
            lines.extend(groups.iter().flat_map(|group| self.lines(group, Some(when))));
        }
        let states = &self.people[client].states;
        if states.contains(&State::Queueing) && !self.groups.contains(MOVED) {
            lines = self.lines("multi", Some(When::While(State::Queueing)));
            lines.extend(self.lines(DATA, None));
            return self.one_of(lines);
        }
        // Lines of MONITOR come in the middle of what its client is told otherwise, if that is long.
        let is_bound = states.contains(&State::Monitoring);
        if !lines.is_empty() && (is_bound || self.rng.usize(..3) > 0) {
            return self.one_of(lines);
        }
        self.any_line(4)
    }

    /// In which states a client and the others are.
    fn circumstances(&self, client: usize) -> Vec<When> {
        let own = self.people[client].states.iter().map(|state| When::While(*state));
        let others = self.people.iter().enumerate().filter(|(other, _)| *other != client);
        let others: BTreeSet<_> = others.flat_map(|(_, person)| &person.states).collect();
        let others = others.into_iter().map(|state| When::Beside(*state));
        own.chain(others).collect()
    }

    /// A line of any group; one in `data` is of [`DATA`] at least.
    fn any_line(&mut self, data: usize) -> &'a Line {
        let groups: Vec<_> = self.groups.iter().copied().filter(|group| *group != DATA && *group != LEAVING).collect();
        let group = if self.rng.usize(..data) == 0 { DATA } else { self.rng.choice(groups).unwrap_or(DATA) };
        let lines = self.lines(group, None);
        self.one_of(lines)
    }

    fn lines(&self, group: &str, when: Option<When>) -> Vec<&'a Line> {
        self.repertoire.lines(group, when, self.kind, &self.groups)
    }

    fn one_of(&mut self, lines: Vec<&'a Line>) -> &'a Line {
        self.rng.choice(lines).expect("every group has lines for every server")
    }

    /// Adds the commands of a line, with everything in the place of placeholders.
    fn expand(&mut self, line: &Line, client: usize, depth: usize, commands: &mut Vec<String>) {
        for template in &line.commands {
            let lines = match template.as_str() {
                "{wrong}" if self.groups.contains("wrong") => self.lines("wrong", None),
                "{any}" if depth < DEEPEST => vec![self.any_line(3)],
                "{data}" | "{wrong}" | "{any}" => self.lines(DATA, None),
                _ => {
                    let command = self.fill(template, client);
                    commands.push(command);
                    continue;
                }
            };
            let line = self.one_of(lines);
            if line.manner == Manner::Says {
                self.expand(line, client, depth + 1, commands);
            }
        }
    }

    fn fill(&mut self, template: &str, client: usize) -> String {
        let mut text = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            text.push_str(before);
            let value = after.split_once('}').and_then(|(name, after)| Some((self.value(name, client)?, after)));
            rest = match value {
                Some((value, after)) => {
                    text.push_str(&value);
                    after
                }
                // A brace of Lua.
                None => {
                    text.push('{');
                    after
                }
            };
        }
        text.push_str(rest);
        text
    }

    fn value(&mut self, name: &str, client: usize) -> Option<String> {
        Some(match name {
            "s" | "c" | "l" | "h" | "t" | "z" | "x" => format!("{name}{}", self.rng.usize(1..=2)),
            "k" => format!("{}{}", self.rng.choice(["s", "c", "l", "h", "t", "z", "x"])?, self.rng.usize(1..=2)),
            "v" => format!("v{}", self.rng.usize(..6)),
            "n" => self.number().to_string(),
            "db" => self.rng.usize(..3).to_string(),
            "name" => self.rng.choice(["ann", "bob", "eve"])?.to_owned(),
            "ch" => self.rng.choice(["a", "ab", "b"])?.to_owned(),
            "pat" => self.rng.choice(["*", "a*", "?b", "a"])?.to_owned(),
            "id" => placeholder(self.rng.usize(1..=self.people.len())),
            "waiting" => placeholder(self.blocked_client()),
            "hearer" => {
                let hearers = self.people.iter().enumerate().filter(|(_, person)| person.hears_of_trackers);
                let hearers: Vec<_> = hearers.map(|(number, _)| number).collect();
                placeholder(self.rng.choice(hearers).unwrap_or(client) + 1)
            }
            "me" => placeholder(client + 1),
            _ => return None,
        })
    }

    /// One that is blocked, if any is; from 1.
    fn blocked_client(&mut self) -> usize {
        let people = self.people.iter().enumerate();
        let blocked: Vec<_> = people.filter(|(_, person)| person.states.contains(&State::Blocked)).collect();
        let chosen = self.rng.choice(blocked).map(|(client, _)| client);
        chosen.unwrap_or_else(|| self.rng.usize(..self.people.len())) + 1
    }

    fn number(&mut self) -> u32 {
        self.counter += 1;
        self.counter
    }

    /// What a command may have done to the client's state.
    fn note(&mut self, client: usize, command: &str, manner: Manner) {
        let says = |start: &str| begins_with(command, start);
        let is = |whole: &str| command.eq_ignore_ascii_case(whole);
        let person = &mut self.people[client];
        let queueing = person.states.contains(&State::Queueing);
        if is("MULTI") {
            person.states.insert(State::Queueing);
        } else if is("EXEC") || is("DISCARD") {
            person.states.remove(&State::Queueing);
            person.states.remove(&State::Watching);
        } else if says("WATCH") {
            person.states.insert(State::Watching);
        } else if is("UNWATCH") {
            person.states.remove(&State::Watching);
        } else if says("SUBSCRIBE") || says("PSUBSCRIBE") || says("SSUBSCRIBE") {
            person.states.insert(State::Subscribed);
            person.may_hear = true;
            person.hears_of_trackers |= !queueing && says("SUBSCRIBE __redis__:invalidate");
        } else if ["UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"].into_iter().any(is) {
            person.states.remove(&State::Subscribed);
        } else if says("CLIENT TRACKING ON") {
            person.states.insert(State::Tracking);
            person.has_tracked = true;
        } else if says("MONITOR") {
            person.states.insert(State::Monitoring);
        } else if is("RESET") {
            person.states.clear();
            person.has_reset |= person.has_tracked;
        } else if says("CLIENT REPLY") {
            person.may_be_silent = true;
            if says("CLIENT REPLY OFF") {
                person.states.insert(State::Muted);
            } else if says("CLIENT REPLY ON") {
                person.states.remove(&State::Muted);
            }
        } else if may_block(command) && !queueing && manner == Manner::Says {
            person.states.insert(State::Blocked);
        } else if may_serve(command) && self.rng.bool() {
            self.people.iter_mut().for_each(|person| person.states.retain(|state| *state != State::Blocked));
        }
    }
}

/// Whether a command may block.
pub fn may_block(command: &str) -> bool {
    let reads = ["XREAD", "XREADGROUP"].iter().any(|name| begins_with(command, name));
    reads && command.contains(" BLOCK ")
        || ["BLPOP", "BRPOP", "BLMOVE", "BRPOPLPUSH", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "BZMPOP"]
            .iter()
            .any(|name| begins_with(command, name))
}

/// Whether a command may lead to a message.
fn publishes(command: &str) -> bool {
    command.to_lowercase().contains("publish") || begins_with(command, "EXEC")
}

fn may_serve(command: &str) -> bool {
    ["RPUSH", "LPUSH", "ZADD", "XADD", "CLIENT UNBLOCK", "LMOVE"].iter().any(|name| begins_with(command, name))
}
