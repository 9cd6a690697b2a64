//! Scripts that have shown a difference once, each made as short as it would go.

use super::again;
use super::script::Script;
use super::stage::Before;
use crate::support::Kind;

/// What the proxy did wrong, and the script that showed it.
const FOUND: &[(&str, &str)] = &[
    ("told a client the id of its lease", "1: MULTI; CLIENT ID; HELLO 3; EXEC | 1: CLIENT ID"),
    ("forgot a name given in a block", "1: MULTI; CLIENT SETNAME ann; EXEC; CLIENT GETNAME"),
    ("went on in another database than a block had chosen", "1: MULTI; SELECT 2; SET s1 v; EXEC | 1: SELECT 0; GET s1"),
    ("did not know whom a block unblocks", "2: BRPOP l1 0 | 1: MULTI; CLIENT UNBLOCK {id2}; EXEC"),
    ("took a refused MULTI for one", "1: WATCH s1; MULTI x; GET s1; EXEC | 1: GET s1"),
    (
        "lost what a stream answers before RESET and QUIT",
        "1: MONITOR | 1: GET s1; RESET | 2: MONITOR | 2: GET s1; QUIT",
    ),
    ("answered PING before what the server tells", "1: HELLO 3; CLIENT TRACKING ON | 1: FLUSHALL; PING"),
    (
        "applied CLIENT CACHING to a later command",
        "1: HELLO 3; CLIENT TRACKING ON OPTIN; CLIENT CACHING YES; PING; GET s1 | 2: SET s1 v",
    ),
    ("killed a client of another worker twice", "2: CLIENT KILL ID {id1}; CLIENT KILL ID {id1}"),
    ("ended a client of another type", "1: CLIENT ID | 2: CLIENT KILL ID {id1} TYPE PUBSUB | 1: PING"),
    ("let WAIT look for a connection that had written nothing", "1: WAIT 0 10 | 2: WATCH s1 | 1: WAIT 0 0"),
    ("forgot that a block has subscribed", "1: MULTI; SUBSCRIBE b; EXEC | 1: PSUBSCRIBE a | 1: PING; GET s1"),
    ("lost the last answer of a stream", "1: MULTI; SUBSCRIBE b; EXEC | 1 finishes: UNSUBSCRIBE b"),
    ("counted what another block had queued", "1: WATCH s1; MULTI; GET s1; EXEC; MULTI; CLIENT ID; GET s1; EXEC"),
    ("took EXEC of a subscriber for any command", "1: SUBSCRIBE a | 1: EXEC x"),
    ("told of itself in the form of another version", "1: CLIENT INFO; MULTI; CLIENT INFO; EXEC; CLIENT LIST ID {id1}"),
];

#[test]
fn what_was_found_once_is_mended() {
    for kind in Kind::ALL {
        for (fault, script) in FOUND {
            let script = Script::read(script);
            again(kind, Before::Proxy(2), &script)
                .unwrap_or_else(|finding| panic!("{}: {fault}:\n{finding}", kind.name()));
        }
    }
}
