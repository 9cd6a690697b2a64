//! `outrigger explain COMMAND …`: what becomes of one request, in words for whoever has to know now.
//!
//! It asks the same decisions that the proxy makes ([`table`], [`route`], [`degrade`]) and dials nobody.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use crate::client::{degraded, section};
use crate::command::degrade::{Degraded, Empty, Policy, Reads, Writes, degrade};
use crate::command::deny::Denied;
use crate::command::keys::{asks_to_block, keys};
use crate::command::route::{Cause, Manner, Route, Subscription, Transaction, route};
use crate::command::table::{self, Command, Kind, Origin, Shape};

/// What the error says, but for the reason, which is that of the moment.
const NOT_SENT: &str = "-UNAVAILABLE (reason), command not sent";
const MAY_HAVE_RUN: &str = "-INDETERMINATE (reason), the command may have run";

/// Explains the request that `words` are; one word with spaces in it is a whole request, as from a log.
#[must_use]
#[expect(clippy::print_stdout, reason = "this is what the command is for")]
pub fn run(words: &[OsString], policy: &Policy, denied: Option<&Denied>) -> ExitCode {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let request = match words.as_slice() {
        [line] => line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect(),
        _ => words,
    };
    print!("{}", explain(&request, policy, denied));
    ExitCode::SUCCESS
}

/// The whole explanation, a topic to a line.
fn explain(request: &[&[u8]], policy: &Policy, denied: Option<&Denied>) -> String {
    let mut page = Page::default();
    let name = request.first().copied().unwrap_or_default();
    page.line("command", shown(request));
    let route = route(table::find(name), || request.iter().copied());
    match table::of_request(request.iter().copied()) {
        Some(command) => known(command, request, route, &mut page),
        None => page.line("", unknown(request)),
    }
    if denied.is_some_and(|denied| denied.covers(request.iter().copied())) {
        page.line("route", "refused with -NOPERM: --deny-commands names it.");
        return page.text;
    }
    page.line("route", where_to(route));
    if let (Some(command), Route::Shared(Manner { slow, .. })) = (table::of_request(request.iter().copied()), route) {
        page.line("deadline", deadline(slow));
        page.line("repeated", repeated(command));
    }
    answers(request, route, policy, &mut page);
    page.text
}

/// Lines of two columns.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, topic: &str, text: impl AsRef<str>) {
        self.text.push_str(&format!("{topic:10}{}\n", text.as_ref()));
    }
}

fn shown(request: &[&[u8]]) -> String {
    let words: Vec<String> = request.iter().map(|word| word.escape_ascii().to_string()).collect();
    words.join(" ")
}

/// What the table says of a command: what it does, whether the arguments are right in number, which of them are keys.
fn known(command: &Command, request: &[&[u8]], route: Route, page: &mut Page) {
    page.line("", format!("{} ({})", what_it_does(command, request), origin(command.origin)));
    if !command.accepts(request.len()) {
        let least = if command.arity < 0 { "at least" } else { "exactly" };
        let wanted = command.arity.unsigned_abs();
        let fate = match route {
            Route::Refused => "It is refused all the same.",
            Route::Control
            | Route::Leased(_)
            | Route::Subscription(_)
            | Route::Transaction(_)
            | Route::Local(_)
            | Route::Shared(_) => "It is forwarded all the same, so that the error is Redis' own.",
        };
        let (name, count) = (command.name.replace('|', " ").to_uppercase(), request.len());
        page.line("", format!("WRONG: {name} wants {least} {wanted} words, this has {count}. {fate}"));
    }
    let mut found = Vec::new();
    keys(command, request.iter().copied(), |key| found.push(key.escape_ascii().to_string()));
    page.line("keys", if found.is_empty() { "none".to_owned() } else { found.join(" ") });
}

fn what_it_does(command: &Command, request: &[&[u8]]) -> &'static str {
    if asks_to_block(command, request.iter().copied()) {
        return "waits for what other clients do";
    }
    match command.kind {
        Kind::Admin => "tells about the server, or changes it",
        Kind::Blocking => "waits for what other clients do",
        Kind::Connection => "reads or sets what belongs to the client's connection",
        Kind::PubSub => "publishes, subscribes, or counts subscribers",
        Kind::Read => "reads data",
        Kind::Script => "runs, keeps or lists code of the user",
        Kind::Transaction => "is part of a transaction",
        Kind::Write if command.empty == Shape::Error => "changes data",
        Kind::Write => "changes data, or only reads it, as its arguments say",
    }
}

fn origin(origin: Origin) -> String {
    match origin {
        Origin::Core { since } => format!("Redis since {since}"),
        Origin::Module { module, since } => format!("module {module} since {since}"),
        Origin::Valkey { since } => format!("Valkey since {since}"),
    }
}

fn unknown(request: &[&[u8]]) -> String {
    let Some(name) = request.first() else { return "There is no command at all.".to_owned() };
    let name = name.escape_ascii();
    match (table::find(name.clone().collect::<Vec<_>>().as_slice()), request.get(1)) {
        (Some(_), Some(subcommand)) => format!(
            "UNKNOWN: {name} is a command, but {} is no subcommand of it that outrigger knows.",
            subcommand.escape_ascii()
        ),
        _ => format!(
            "UNKNOWN: {name} is no command that outrigger knows, so it is trusted with nothing. A typing error?"
        ),
    }
}

fn where_to(route: Route) -> &'static str {
    match route {
        Route::Local(_) => {
            "answered by outrigger itself: it is about the client's own connection. Wrong arguments go to Redis."
        }
        Route::Shared(_) => "over a connection that other clients use too: it leaves no state there.",
        Route::Subscription(_) => {
            "over the one connection that brings the messages of all subscribers: it takes none of its own."
        }
        Route::Transaction(Transaction::Watch) => {
            "over a connection of the client's own until the transaction is over: what is watched belongs to a connection."
        }
        Route::Transaction(Transaction::Exec) => {
            "the transaction in one piece, over a connection that other clients use too. Nothing comes between its commands."
        }
        Route::Transaction(Transaction::Multi | Transaction::Discard | Transaction::Unwatch) => {
            "answered by outrigger itself, which keeps the commands of a transaction until EXEC."
        }
        Route::Leased(Cause::Administration) => "over a connection of its own, for this one command.",
        Route::Leased(Cause::Blocking) => {
            "over a connection of its own until it is answered: everybody behind it on a shared one would wait too."
        }
        Route::Leased(Cause::ClientState) => {
            "over a connection of its own, which the client keeps: it sets something there. RESET gives it back."
        }
        Route::Leased(Cause::Replication) => {
            "over a connection of its own until it is answered; it waits for all that was written before it."
        }
        Route::Leased(Cause::Monitor) => "over a connection of its own, which the client keeps. RESET ends it.",
        Route::Leased(Cause::Unknown | Cause::UnknownSubcommand) => {
            "over a connection of its own, which the client keeps if Redis knows it: it may set anything there."
        }
        Route::Control => {
            "over a new connection for this request alone, whatever the state: the server may be answering nothing else."
        }
        Route::Refused => "refused: it is for replicas, or for no client of Redis.",
    }
}

fn deadline(slow: bool) -> &'static str {
    if slow {
        "slow: --slow-request-timeout, and away from other clients' requests where possible."
    } else {
        "ordinary: --request-timeout."
    }
}

fn repeated(command: &Command) -> &'static str {
    match (command.repeatable, command.kind) {
        (true, _) => {
            "yes, once, if its connection is lost: it only reads. Not if the same client sent a write behind it."
        }
        (false, Kind::Read) => "no: it reads, but leaves something behind. Only if it is certain that it never ran.",
        (false, Kind::Script) => {
            "no: its code may have written before it was lost. Only if it is certain that it never ran."
        }
        (false, _) => "no: it may have run, and must not run twice. Only if it is certain that it never ran.",
    }
}

/// What the client is answered while Redis cannot be asked, and why.
fn answers(request: &[&[u8]], route: Route, policy: &Policy, page: &mut Page) {
    page.text.push_str("\nWhile Redis cannot be asked:\n");
    match route {
        Route::Local(_) | Route::Transaction(Transaction::Multi | Transaction::Discard | Transaction::Unwatch) => {
            return page.line("answer", "the same as ever, it comes from outrigger.");
        }
        Route::Refused => return page.line("answer", "the same error as ever, it comes from outrigger."),
        Route::Transaction(Transaction::Exec) => {
            page.line("answer", NOT_SENT);
            page.line("if sent", MAY_HAVE_RUN);
            return page.line("why", "a nil would mean that a watched key has changed.");
        }
        Route::Control | Route::Leased(_) | Route::Transaction(Transaction::Watch) => {
            return page.line("answer", NOT_SENT);
        }
        Route::Subscription(Subscription::Psubscribe | Subscription::Ssubscribe | Subscription::Subscribe) => {
            page.line("answer", NOT_SENT);
            return page.line("why", "nothing would be heard. What becomes of subscribers: see --pubsub-on-loss.");
        }
        Route::Subscription(_) => {
            return page.line("answer", "the same as ever: whoever hears nothing can always stop.");
        }
        Route::Shared(_) => {}
    }
    let decided = |sent| degrade(request.iter().copied(), sent, false, policy);
    let reply = |resp3, render: &dyn Fn(bool, &mut Vec<u8>)| {
        let mut out = Vec::new();
        render(resp3, &mut out);
        out.escape_ascii().to_string()
    };
    let mut both = |render: &dyn Fn(bool, &mut Vec<u8>)| {
        page.line("RESP2", reply(false, render));
        page.line("RESP3", reply(true, render));
    };
    match decided(false) {
        Degraded::Empty(empty) => {
            both(&|resp3, out| degraded::write(empty, resp3, out));
            page.line("that is", format!("{}, as from an empty Redis.", meaning(empty)));
            page.line("beware", "a lie if these keys are no cache (queues, sessions, locks): see --strict-prefix.");
        }
        Degraded::Dropped => {
            both(&|_, out| out.extend_from_slice(b"+OK\r\n"));
            page.line("that is", "a lie: nothing is written, and Redis keeps the old value (--degrade-writes drop).");
            page.line("if sent", MAY_HAVE_RUN);
        }
        Degraded::Info => {
            both(&|resp3, out| degraded::info(degraded::UNSEEN_VERSION, section::write_unknown, resp3, out));
            page.line("that is", "the least that clients want to see before they begin, with the version last seen.");
        }
        Degraded::CommandList => page.line("answer", "what Redis last replied to it, or the error if it never did."),
        Degraded::Refused => {
            page.line("answer", NOT_SENT);
            page.line("if sent", MAY_HAVE_RUN);
            page.line("why", why_refused(request, policy));
        }
    }
}

/// The replies in words.
fn meaning(empty: Empty) -> String {
    match empty {
        Empty::Array => "an empty array".to_owned(),
        Empty::Integer(-2) => "-2, no such key".to_owned(),
        Empty::Integer(value) => format!("the number {value}"),
        Empty::Integers { each, count } => format!("{count} times the number {each}"),
        Empty::Map => "an empty map".to_owned(),
        Empty::Matches => "no matches".to_owned(),
        Empty::Nil | Empty::NilArray => "nil, nothing there".to_owned(),
        Empty::NilArrays(count) | Empty::Nils(count) => format!("{count} times nil, nothing there"),
        Empty::Scanned => "an iteration that is over and found nothing".to_owned(),
        Empty::Set => "an empty set".to_owned(),
        Empty::Text => "an empty string".to_owned(),
        Empty::TypeNone => "the type `none`".to_owned(),
    }
}

/// Why there is an error and no answer: the command itself, its arguments, or the settings.
fn why_refused(request: &[&[u8]], policy: &Policy) -> &'static str {
    let under = |policy: &Policy| degrade(request.iter().copied(), false, false, policy);
    if under(&Policy { writes: policy.writes, ..Policy::default() }) != Degraded::Refused {
        let without_prefixes = Policy { strict_prefixes: Vec::new(), ..policy.clone() };
        return match policy.reads {
            _ if under(&without_prefixes) != Degraded::Refused => "--strict-prefix forbids an answer.",
            Reads::Values => "--degrade-reads values: only GET, MGET, HGET and HMGET are answered.",
            Reads::Empty | Reads::Error => "--degrade-reads error: no read is answered.",
        };
    }
    let Some(command) = table::of_request(request.iter().copied()) else {
        return "nothing is known of it.";
    };
    if under(&Policy { writes: Writes::Drop, ..Policy::default() }) == Degraded::Dropped {
        return "it changes data. (--degrade-writes drop would say +OK, and write nothing.)";
    }
    match (command.kind, command.empty, command.origin) {
        (Kind::Read, Shape::Error, Origin::Module { .. }) => "what a module replies without data is not known.",
        (Kind::Read, Shape::Error, _) => "an empty Redis has an error, or nothing to do with data, for it too.",
        (Kind::Read, ..) => "an empty Redis would refuse these arguments too.",
        (Kind::Write, ..) => "it changes data.",
        (Kind::Script, ..) => "what a script would reply cannot be known.",
        (Kind::PubSub, ..) => "nobody would hear it.",
        (Kind::Admin, ..) => "it is about the server, which cannot be asked.",
        (Kind::Blocking | Kind::Connection | Kind::Transaction, ..) => "it depends on a connection to Redis.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &str, policy: &Policy) -> String {
        explain(&words.split(' ').map(str::as_bytes).collect::<Vec<_>>(), policy, None)
    }

    fn has(words: &str, policy: &Policy, lines: &[&str]) {
        let page = of(words, policy);
        for line in lines {
            assert!(page.lines().any(|other| other.contains(line)), "`{line}` is not in\n{page}");
        }
    }

    #[test]
    fn a_read_is_explained() {
        let lines = [
            "command   MGET a b",
            "reads data (Redis since 1.0.0)",
            "keys      a b",
            "route     over a connection that other clients use too",
            "deadline  ordinary: --request-timeout.",
            "repeated  yes, once",
            r"RESP2     *2\r\n$-1\r\n$-1\r\n",
            r"RESP3     *2\r\n_\r\n_\r\n",
            "that is   2 times nil",
        ];
        has("MGET a b", &Policy::default(), &lines);
    }

    #[test]
    fn a_refusal_says_why() {
        let plain = Policy::default();
        has("INCR k", &plain, &["-UNAVAILABLE", "why       it changes data."]);
        has("SET k v EX 9", &plain, &["--degrade-writes drop would say +OK"]);
        has("JSON.GET k", &plain, &["what a module replies"]);
        has("XPENDING k g", &plain, &["an empty Redis has an error"]);
        has("BITPOS k 2", &plain, &["would refuse these arguments"]);
        has("EVAL x 0", &plain, &["slow: --slow-request-timeout", "what a script would reply"]);
        has(
            "KEYS *",
            &Policy { strict_prefixes: vec![b"s".as_slice().into()], ..plain.clone() },
            &["--strict-prefix forbids"],
        );
        has("EXISTS k", &Policy { reads: Reads::Values, ..plain.clone() }, &["--degrade-reads values"]);
        has("GET k", &Policy { reads: Reads::Error, ..plain.clone() }, &["--degrade-reads error"]);
        has("SET k v", &Policy { writes: Writes::Drop, ..plain }, &[r"RESP3     +OK\r\n", "a lie: nothing is written"]);
    }

    #[test]
    fn transactions_are_explained() {
        let plain = Policy::default();
        has("MULTI", &plain, &["keeps the commands of a transaction until EXEC", "the same as ever"]);
        has("EXEC", &plain, &["the transaction in one piece", "-UNAVAILABLE", "-INDETERMINATE", "a nil would mean"]);
        has("WATCH k", &plain, &["a connection of the client's own", "-UNAVAILABLE"]);
    }

    #[test]
    fn what_redis_would_refuse_is_said_to_be_wrong() {
        let plain = Policy::default();
        has("NOSUCH k", &plain, &["UNKNOWN: NOSUCH is no command", "a connection of its own"]);
        has("CLIENT NOSUCH", &plain, &["NOSUCH is no subcommand"]);
        has("GET", &plain, &["WRONG: GET wants exactly 2 words, this has 1."]);
        has("OBJECT ENCODING", &plain, &["WRONG: OBJECT ENCODING wants exactly 3 words"]);
        has("", &plain, &["UNKNOWN"]);
    }

    #[test]
    fn what_outrigger_answers_itself_stays_the_same() {
        has("PING", &Policy::default(), &["answered by outrigger itself", "the same as ever"]);
        has("INFO", &Policy::default(), &["loading:0", "version last seen"]);
        has("COMMAND", &Policy::default(), &["last replied"]);
    }

    #[test]
    fn subscriptions_have_a_connection_for_all() {
        let plain = Policy::default();
        has("SUBSCRIBE c", &plain, &["the messages of all subscribers", "-UNAVAILABLE", "--pubsub-on-loss"]);
        has("PUNSUBSCRIBE", &plain, &["the messages of all subscribers", "can always stop"]);
        has("SSUBSCRIBE", &plain, &["WRONG: SSUBSCRIBE wants at least 2 words", "so that the error is Redis' own"]);
    }

    #[test]
    fn every_command_can_be_explained() {
        for command in table::all() {
            let name = command.name.replace('|', " ");
            for count in 0..5 {
                let page = of(&format!("{name}{}", " 1".repeat(count)), &Policy::default());
                assert!(page.contains("While Redis cannot be asked:"), "{page}");
                // A container takes the first argument for a subcommand.
                assert!(command.is_container() || !page.contains("UNKNOWN"), "{page}");
            }
        }
    }
}
