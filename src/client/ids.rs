//! Client ids on their way: those that the server gives to leased connections, and those by which clients know each other.
//!
//! A client knows itself and others by ids of ours, which begin above 2^48; the server knows connections. While a client has
//! one for itself, its id stands for that connection, in requests and in replies. Pure: who is who is asked of the caller.

use crate::command::keys::is;
use crate::resp::build;
use crate::resp::inline;
use crate::resp::request::Args;

/// A CLIENT command with the server's ids for ours, if any of those that `theirs` knows stands there. Ours are so large that
/// no other number is mistaken for one.
pub(super) fn for_server(request: &[u8], theirs: impl Fn(u64) -> Option<u64>) -> Option<Vec<u8>> {
    if Args::new(request).nth(1).is_some_and(|subcommand| is(subcommand, b"kill")) {
        // It is about the client, not about its lease.
        return None;
    }
    let args = Args::new(request).map(|arg| match number(arg).and_then(&theirs) {
        Some(id) => id.to_string().into_bytes(),
        None => arg.to_vec(),
    });
    let args: Vec<_> = args.collect();
    if args.iter().map(Vec::as_slice).eq(Args::new(request)) {
        return None;
    }
    let mut mapped = Vec::new();
    inline::encode(args.iter(), &mut mapped);
    Some(mapped)
}

/// Appends a reply about clients with our ids for the server's, where `ours` knows one: a number alone, the `id` or
/// `redirect` of a map, or the lines of CLIENT LIST. The line of the client itself is told with its `own` words, a line too.
pub(super) fn for_client(reply: &[u8], ours: impl Fn(u64) -> Option<u64>, own: &[u8], out: &mut Vec<u8>) {
    match reply.first() {
        Some(b':') => match number(line(reply, 1)).and_then(ours) {
            Some(id) => build::integer(id, out),
            None => out.extend_from_slice(reply),
        },
        Some(b'$' | b'=') => match text(reply) {
            Some((text, is_verbatim)) => {
                let mut lines = Vec::new();
                for line in text.split_inclusive(|&byte| byte == b'\n') {
                    retell_line(line, &ours, own, &mut lines);
                }
                if is_verbatim { build::verbatim(&lines, out) } else { build::bulk(&lines, out) }
            }
            None => out.extend_from_slice(reply),
        },
        _ => in_map(reply, ours, out),
    }
}

/// The same for a reply of which not even the command is known: only maps are told from others.
pub(super) fn in_map(reply: &[u8], ours: impl Fn(u64) -> Option<u64>, out: &mut Vec<u8>) {
    member(reply, &[b"$2\r\nid\r\n:", b"$8\r\nredirect\r\n:"], ours, out);
}

/// Appends what the server says of a connection, with our ids, and with our own words for what is about the client itself.
fn retell_line(line: &[u8], ours: impl Fn(u64) -> Option<u64>, own: &[u8], out: &mut Vec<u8>) {
    let id = |value: &[u8]| number(value).and_then(&ours).map(|id| id.to_string().into_bytes());
    let is_own = field(line, b"id").and_then(id).as_deref() == field(own, b"id");
    retell(
        line,
        |name, value| match name {
            b"id" | b"redir" => id(value),
            b"addr" | b"laddr" | b"fd" | b"name" | b"age" | b"idle" | b"sub" | b"psub" | b"ssub" | b"user"
            | b"lib-name" | b"lib-ver"
                if is_own =>
            {
                field(own, name).map(<[u8]>::to_vec)
            }
            b"flags" if is_own && field(own, b"flags") == Some(b"P") && !value.contains(&b'P') => {
                Some([b"P", value.strip_prefix(b"N").unwrap_or(value)].concat())
            }
            _ => None,
        },
        out,
    );
}

/// The value of a field of a line.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut fields = line.split(|&byte| matches!(byte, b' ' | b'\n'));
    fields.find_map(|field| field.strip_prefix(name)?.strip_prefix(b"="))
}

/// Appends a line of fields, `name=value` each, with other values where `instead` has one.
fn retell(line: &[u8], instead: impl Fn(&[u8], &[u8]) -> Option<Vec<u8>>, out: &mut Vec<u8>) {
    for field in line.split_inclusive(|&byte| matches!(byte, b' ' | b'\n')) {
        let end = field.iter().rposition(|byte| !matches!(byte, b' ' | b'\n')).map_or(0, |last| last + 1);
        let (field, space) = field.split_at_checked(end).unwrap_or((field, b""));
        let at = field.iter().position(|&byte| byte == b'=').map(|at| at + 1);
        let (name, value) = at.and_then(|at| field.split_at_checked(at)).unwrap_or((field, b""));
        out.extend_from_slice(name);
        match instead(name.strip_suffix(b"=").unwrap_or(name), value) {
            Some(other) => out.extend_from_slice(&other),
            None => out.extend_from_slice(value),
        }
        out.extend_from_slice(space);
    }
}

/// Appends a reply with our id where one of these stands before a number.
fn member(reply: &[u8], before: &[&[u8]], ours: impl Fn(u64) -> Option<u64>, out: &mut Vec<u8>) {
    let find = |key: &&[u8]| {
        let at = reply.windows(key.len()).position(|window| window == *key)?;
        Some(at + key.len())
    };
    let found = before.iter().find_map(find).and_then(|at| reply.split_at_checked(at));
    let id = found.and_then(|(_, rest)| number(line(rest, 0)).and_then(ours));
    let (Some((head, rest)), Some(id)) = (found, id) else { return out.extend_from_slice(reply) };
    out.extend_from_slice(head);
    out.extend_from_slice(id.to_string().as_bytes());
    out.extend_from_slice(rest.get(line(rest, 0).len()..).unwrap_or_default());
}

/// The text of a bulk or verbatim string that is about clients, and whether it is the latter.
fn text(reply: &[u8]) -> Option<(&[u8], bool)> {
    let start = reply.iter().position(|&byte| byte == b'\n')? + 1;
    let body = reply.get(start..)?.strip_suffix(b"\r\n")?;
    let (body, is_verbatim) = match body.strip_prefix(b"txt:") {
        Some(rest) if reply.first() == Some(&b'=') => (rest, true),
        _ => (body, false),
    };
    body.starts_with(b"id=").then_some((body, is_verbatim))
}

/// The rest of the line from there on, without its end.
fn line(bytes: &[u8], from: usize) -> &[u8] {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.iter().position(|&byte| byte == b'\r').and_then(|end| rest.get(..end)).unwrap_or(rest)
}

/// A number as ids are written.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: u64 = 1 << 48;

    fn told(reply: &str) -> String {
        let mut out = Vec::new();
        for_client(reply.as_bytes(), |id| (id == 7).then_some(OURS), b"", &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn requests_name_the_servers_connections() {
        let mapped = |text: &str| {
            let mut request = Vec::new();
            inline::encode(text.split(' '), &mut request);
            for_server(&request, |id| (id == OURS).then_some(7))
                .map(|mapped| Args::new(&mapped).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(mapped(&format!("CLIENT LIST ID 3 {OURS}")).as_deref(), Some("CLIENT LIST ID 3 7"));
        assert_eq!(mapped(&format!("CLIENT UNBLOCK {OURS} ERROR")).as_deref(), Some("CLIENT UNBLOCK 7 ERROR"));
        assert_eq!(mapped("CLIENT LIST ID 3"), None);
    }

    #[test]
    fn replies_name_our_clients() {
        assert_eq!(told(":7\r\n"), format!(":{OURS}\r\n"));
        assert_eq!(told(":8\r\n"), ":8\r\n");
        assert_eq!(told(":-1\r\n"), ":-1\r\n");
        let list = format!("id=7 name=id=7 redir=-1\nid=8 name= redir={OURS}\n");
        let lines = list.replace("id=7 name", &format!("id={OURS} name"));
        assert_eq!(told(&format!("${}\r\n{list}\r\n", list.len())), format!("${}\r\n{lines}\r\n", lines.len()));
        let lines = format!("id={OURS} redir={OURS}\n");
        assert_eq!(told("=21\r\ntxt:id=7 redir=7\n\r\n"), format!("={}\r\ntxt:{lines}\r\n", lines.len() + 4));
        assert_eq!(told("%1\r\n$8\r\nredirect\r\n:7\r\n"), format!("%1\r\n$8\r\nredirect\r\n:{OURS}\r\n"));
        assert_eq!(told("%1\r\n$8\r\nredirect\r\n:-1\r\n"), "%1\r\n$8\r\nredirect\r\n:-1\r\n");
        assert_eq!(told("-ERR no\r\n"), "-ERR no\r\n");
    }

    #[test]
    fn ones_own_line_is_the_servers_but_for_what_is_ones_own() {
        let line = |text: &str| format!("${}\r\n{text}\r\n", text.len()).into_bytes();
        let mut out = Vec::new();
        let lines = "id=7 addr=x:1 name=lease flags=x db=3 sub=0 cmd=client|info\nid=8 name=other flags=N\n";
        let own = b"id=9 addr=y:2 name=ann flags=P db=0 sub=2 cmd=no\n";
        for_client(&line(lines), |id| (id == 7).then_some(9), own, &mut out);
        let told = "id=9 addr=y:2 name=ann flags=Px db=3 sub=2 cmd=client|info\nid=8 name=other flags=N\n";
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&line(told)));
    }
}
