//! Commands that are answered here: they concern the client's own connection, which the proxy terminates.
//!
//! They are answered in every state of the upstream, in the words of Redis. Wrong arguments are not judged here: such a
//! request travels ([`Answer::Forward`]), so that the words are the server's — but only where the server is sure to
//! refuse it without touching the state of the connection it came on.

use std::ops::RangeInclusive;

use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;

use super::refusal;
use super::state::{Mute, State};
use crate::command::keys::is;
use crate::command::route::{Local, Route};
use crate::resp::build;
use crate::resp::inline;
use crate::resp::request::Args;
use crate::secret::Secret;
use crate::upstream::{Identity, Protocol};

/// What became of a request that is answered here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The reply is in the buffer.
    Reply,
    /// The reply is in the buffer, and is shown even if replies are muted.
    Shown,
    /// There is no reply.
    Silent,
    /// The arguments are wrong: forward it.
    Forward,
    /// Change to this database, if it exists.
    Select(u32),
    /// It needs a connection of its own.
    Lease,
    /// The reply is in the buffer, and the last one.
    Quit,
}

/// What answering needs to know besides the client's own state.
pub(super) struct Env<'a> {
    /// The password clients must give, if any.
    pub(super) password: Option<&'a Secret>,
    /// What the server says of itself.
    pub(super) identity: &'a Identity,
    /// The database of a client that has not chosen one.
    pub(super) database: u32,
    /// The client has a connection for itself, on which its state is set.
    pub(super) alone: bool,
    /// How many channels, patterns and shard channels it is subscribed to.
    pub(super) subscribed_to: [usize; 3],
    /// Peer and own address, for CLIENT INFO.
    pub(super) addresses: &'a dyn Fn() -> (String, String),
}

/// Longest text that is kept for a client, or given back to it from here, in bytes.
const MAX_TEXT: usize = 4096;

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";
/// Answers `local`; `args` is the whole request, the name first. The reply is appended to `out`.
pub(super) fn answer(local: Local, args: Args<'_>, state: &mut State, env: &Env<'_>, out: &mut Vec<u8>) -> Answer {
    let count = args.len();
    let mut rest = args;
    rest.next();
    match (local, count) {
        (Local::Ping, 1) => build::simple("PONG", out),
        (Local::Ping | Local::Echo, 2) => match rest.next().unwrap_or_default() {
            // The server can hold it as well as we, and its way back is bounded.
            long if long.len() > MAX_TEXT => return Answer::Forward,
            text => build::bulk(text, out),
        },
        (Local::Select, 2) => return select(rest.next().unwrap_or_default(), out),
        (Local::Hello, _) => hello(rest, state, env, out),
        (Local::Auth, 2 | 3) => auth(rest, state, env, out),
        (Local::Quit, _) => {
            build::simple("OK", out);
            return Answer::Quit;
        }
        (Local::Reset, 1) => {
            let is_skipped = state.mute == Mute::Next;
            state.reset(env.database, env.password.is_none());
            if is_skipped {
                return Answer::Silent;
            }
            build::simple("RESET", out);
        }
        (Local::ClientId, 2) => build::integer(state.id, out),
        (Local::ClientGetName, 2) => get_name(state, out),
        (Local::ClientInfo, 2) => info(state, env, out),
        (Local::ClientSetName, 3) => set_name(rest.nth(1).unwrap_or_default(), state, out),
        (Local::ClientSetInfo, 4) => return set_info(rest, state, env, out),
        (Local::ClientReply, 3) => return reply(rest.nth(1).unwrap_or_default(), state, out),
        (Local::ClientNoEvict | Local::ClientNoTouch, 3) => {
            return switch(rest.nth(1).unwrap_or_default(), env, out);
        }
        _ => return Answer::Forward,
    }
    Answer::Reply
}

/// What is no number, and what no server has, travels to be refused. But what a lenient server might take for a number,
/// such as `+1`, must not: it would change the database of a connection of all.
fn select(text: &[u8], out: &mut Vec<u8>) -> Answer {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok());
    if let Some(number) = number.filter(|number| number.to_string().as_bytes() == text) {
        return i32::try_from(number)
            .ok()
            .and_then(|number| u32::try_from(number).ok())
            .map_or(Answer::Forward, Answer::Select);
    }
    if text.iter().any(u8::is_ascii_digit) {
        build::error("ERR value is not an integer or out of range", out);
        return Answer::Reply;
    }
    Answer::Forward
}

fn auth(mut rest: Args<'_>, state: &mut State, env: &Env<'_>, out: &mut Vec<u8>) {
    let (user, password) = match (rest.next(), rest.next()) {
        (Some(user), Some(password)) => (user, password),
        (Some(password), None) => (b"default".as_slice(), password),
        _ => (b"".as_slice(), b"".as_slice()),
    };
    if is_welcome(user, password, env) {
        state.authenticated = true;
        build::simple("OK", out);
    } else {
        build::error(WRONG_PASSWORD, out);
    }
}

/// Without a password of our own anybody is who they say: the app's URL may still carry the server's credentials.
/// Compared in constant time, so that the answer's delay tells nothing.
fn is_welcome(user: &[u8], password: &[u8], env: &Env<'_>) -> bool {
    env.password.is_none_or(|expected| is_right(user, password, expected))
}

fn is_right(user: &[u8], password: &[u8], expected: &Secret) -> bool {
    let right = expected.current().expose_secret().as_bytes().ct_eq(password);
    bool::from(right) && user == b"default"
}

/// What a server is to queue instead of a request whose login is judged here: the same without the login, or if that is
/// wrong, what changes nothing. Nothing if there is no login in it.
pub(super) fn without_login(route: Route, args: Args<'_>, password: Option<&Secret>) -> Option<Vec<u8>> {
    let mut words: Vec<&[u8]> = args.collect();
    let is_welcome = |user: &[u8], given: &[u8]| password.is_none_or(|expected| is_right(user, given, expected));
    let stays = match (route, words.as_slice()) {
        (Route::Local(Local::Auth), [_, _] | [_, _, _]) => false,
        (Route::Local(Local::Hello), _) => {
            let at = words.iter().position(|word| is(word, b"auth")).filter(|at| *at >= 2 && at + 2 < words.len())?;
            let login: Vec<_> = words.drain(at..at + 3).collect();
            matches!(login.as_slice(), [_, user, given] if is_welcome(user, given))
        }
        _ => return None,
    };
    let mut request = Vec::new();
    let words = if stays { words } else { vec![b"PING".as_slice()] };
    inline::encode(words.iter(), &mut request);
    Some(request)
}

/// HELLO [version [AUTH user password] [SETNAME name]]: nothing but perhaps the name changes unless all of it is right.
fn hello(mut rest: Args<'_>, state: &mut State, env: &Env<'_>, out: &mut Vec<u8>) {
    let protocol = match rest.next() {
        None => state.protocol,
        Some(b"2") => Protocol::Resp2,
        Some(b"3") => Protocol::Resp3,
        Some(other) if is_integer(other) => return build::error("NOPROTO unsupported protocol version", out),
        Some(_) => return build::error("ERR Protocol version is not an integer or out of range", out),
    };
    let (mut login, mut name) = (None, None);
    while let Some(option) = rest.next() {
        if is(option, b"auth") && rest.len() >= 2 {
            login = rest.next().zip(rest.next());
        } else if is(option, b"setname") && rest.len() >= 1 {
            name = rest.next();
            // Older servers set the name at once, and keep it whatever comes of the rest.
            if let Some(name) = name.filter(|name| env.identity.is_before(7, 2) && is_printable(name)) {
                state.name = name.into();
            }
        } else {
            let option = option.get(..128).unwrap_or(option);
            return build::error([b"ERR Syntax error in HELLO option '", option, b"'"].concat(), out);
        }
    }
    if let Some((user, password)) = login {
        if !is_welcome(user, password, env) {
            return build::error(WRONG_PASSWORD, out);
        }
        state.authenticated = true;
    }
    if !state.authenticated {
        return build::error(hello_needs_auth(env.identity), out);
    }
    if let Some(name) = name {
        if !is_printable(name) {
            return build::error(BAD_NAME, out);
        }
        state.name = name.into();
    }
    state.protocol = protocol;
    greet(state, env.identity, out);
}

/// The words changed with Redis 7.2.
fn hello_needs_auth(identity: &Identity) -> String {
    let form = if identity.is_before(7, 2) { "AUTH <user> <pass>" } else { "<proto> AUTH <user> <pass>" };
    format!(
        "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO {form} option can be used \
         to authenticate the client and select the RESP protocol version at the same time"
    )
}

fn is_integer(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| text.parse::<i64>().is_ok_and(|number| number.to_string() == text))
}

/// The reply to HELLO: what the upstream server says of itself, but for what belongs to this connection.
fn greet(state: &State, identity: &Identity, out: &mut Vec<u8>) {
    let resp3 = state.protocol == Protocol::Resp3;
    let header = |count: usize, out: &mut Vec<u8>| match resp3 {
        true => build::aggregate(b'%', count, out),
        false => build::aggregate(b'*', 2 * count, out),
    };
    let Some(greeting) = identity.greeting() else {
        header(UNSEEN.len(), out);
        for (name, value) in UNSEEN {
            build::bulk(name.as_bytes(), out);
            field(name.as_bytes(), value.as_bytes(), state, out);
        }
        return;
    };
    let fields = if resp3 { &greeting.resp3 } else { &greeting.resp2 };
    header(fields.len(), out);
    for (name, value) in fields {
        out.extend_from_slice(name);
        field(name.split(|&byte| byte == b'\n').nth(1).unwrap_or_default().trim_ascii_end(), value, state, out);
    }
}

/// What we claim to be before the first contact: names, and values as they are sent.
const UNSEEN: [(&str, &str); 7] = [
    ("server", "$5\r\nredis\r\n"),
    ("version", "$5\r\n7.4.0\r\n"),
    ("proto", ""),
    ("id", ""),
    ("mode", "$10\r\nstandalone\r\n"),
    ("role", "$6\r\nmaster\r\n"),
    ("modules", "*0\r\n"),
];

/// Appends the value of a field of HELLO's reply: ours for what belongs to the connection, else the server's.
fn field(name: &[u8], value: &[u8], state: &State, out: &mut Vec<u8>) {
    match name {
        b"proto" => build::integer(if state.protocol == Protocol::Resp3 { 3 } else { 2 }, out),
        b"id" => build::integer(state.id, out),
        _ => out.extend_from_slice(value),
    }
}

fn get_name(state: &State, out: &mut Vec<u8>) {
    match (state.name.is_empty(), state.protocol) {
        (false, _) => build::bulk(&state.name, out),
        (true, Protocol::Resp2) => out.extend_from_slice(b"$-1\r\n"),
        (true, Protocol::Resp3) => out.extend_from_slice(b"_\r\n"),
    }
}

fn set_name(name: &[u8], state: &mut State, out: &mut Vec<u8>) {
    if is_printable(name) {
        state.name = name.into();
        build::simple("OK", out);
    } else {
        build::error(BAD_NAME, out);
    }
}

/// CLIENT SETINFO is new in Redis 7.2; libraries send it to any server, and we keep it for any. Only a value that every
/// server refuses travels: one that is taken would stick to a connection of all.
fn set_info(mut rest: Args<'_>, state: &mut State, env: &Env<'_>, out: &mut Vec<u8>) -> Answer {
    let (attribute, value) = (rest.nth(1).unwrap_or_default(), rest.next().unwrap_or_default());
    let field = if is(attribute, b"lib-name") {
        &mut state.library.0
    } else if is(attribute, b"lib-ver") {
        &mut state.library.1
    } else {
        build::error(refusal::unknown_attribute(attribute, env.identity), out);
        return Answer::Reply;
    };
    if !value.iter().all(|byte| PRINTABLE.contains(byte)) {
        return Answer::Forward;
    }
    if value.len() > MAX_TEXT {
        build::error([b"ERR ", attribute, b" is too long"].concat(), out);
        return Answer::Reply;
    }
    *field = value.into();
    build::simple("OK", out);
    Answer::Reply
}

/// What Redis allows in names.
const PRINTABLE: RangeInclusive<u8> = b'!'..=b'~';

/// What may be a name. Redis has no limit to its length.
fn is_printable(name: &[u8]) -> bool {
    name.len() <= MAX_TEXT && name.iter().all(|byte| PRINTABLE.contains(byte))
}

/// CLIENT REPLY is never forwarded: the replies of others are on the same connection.
fn reply(mode: &[u8], state: &mut State, out: &mut Vec<u8>) -> Answer {
    if is(mode, b"on") {
        state.mute = Mute::Off;
        build::simple("OK", out);
        Answer::Shown
    } else if is(mode, b"off") {
        state.mute = Mute::On;
        Answer::Silent
    } else if is(mode, b"skip") {
        if state.mute != Mute::On {
            state.mute = Mute::Next;
        }
        Answer::Silent
    } else {
        Answer::Forward
    }
}

/// NO-EVICT and NO-TOUCH: off is how every shared connection is; on would need a connection of one's own.
fn switch(mode: &[u8], env: &Env<'_>, out: &mut Vec<u8>) -> Answer {
    if is(mode, b"off") && !env.alone {
        build::simple("OK", out);
        Answer::Reply
    } else if is(mode, b"on") {
        Answer::Lease
    } else {
        Answer::Forward
    }
}

fn info(state: &State, env: &Env<'_>, out: &mut Vec<u8>) {
    let line = line(state, env);
    match state.protocol {
        Protocol::Resp2 => build::bulk(line.as_bytes(), out),
        Protocol::Resp3 => build::verbatim(line.as_bytes(), out),
    }
}

/// What CLIENT INFO says, in the form of the server at hand, and with what is true of a client of the proxy.
pub(super) fn line(state: &State, env: &Env<'_>) -> String {
    let (peer, local) = (env.addresses)();
    let [channels, patterns, shards] = env.subscribed_to;
    let flags = if env.subscribed_to == [0; 3] { "N" } else { "P" };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let is_valkey = env.identity.release().is_some_and(|release| release.is_valkey);
    // Since Redis 7.0 and 7.4, and since Valkey 8.1.
    let of_7_0 = |text: &'static str| if env.identity.is_before(7, 0) { "" } else { text };
    let of_7_4 = |text: &'static str| if env.identity.is_before(7, 4) { "" } else { text };
    let of_valkey = |text: &'static str| if is_valkey && !env.identity.is_before(8, 1) { text } else { "" };
    let shards = if env.identity.is_before(7, 0) { String::new() } else { format!("ssub={shards} ") };
    let resp = if state.protocol == Protocol::Resp3 { 3 } else { 2 };
    let mut line = format!(
        "id={} addr={peer} laddr={local} fd=-1 name={} age={} idle=0 flags={flags} {}db={} sub={channels} psub={patterns} {shards}multi=-1 \
         {}qbuf=0 qbuf-free=0 argv-mem=0 {}obl=0 oll=0 omem=0 tot-mem=0 events=r cmd=client{} user=default redir=-1",
        state.id,
        text(&state.name),
        state.since.elapsed().as_secs(),
        of_valkey("capa= "),
        state.database,
        of_7_4("watch=0 "),
        of_7_0("multi-mem=0 rbs=0 rbp=0 "),
        of_7_0("|info"),
    );
    if !env.identity.is_before(7, 0) {
        line.push_str(&format!(" resp={resp}"));
    }
    if !env.identity.is_before(7, 2) {
        line.push_str(&format!(" lib-name={} lib-ver={}", text(&state.library.0), text(&state.library.1)));
    }
    line.push_str(of_valkey(" tot-net-in=0 tot-net-out=0 tot-cmds=0"));
    line.push('\n');
    line
}
