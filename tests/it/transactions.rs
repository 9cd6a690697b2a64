//! Transactions without WATCH, which travel as one request over a connection that other clients use too: they read as the
//! server's own, run wholly or not at all, and cost no connection.

mod atomicity;
mod conversations;
mod cost;
mod faults;
mod outage;
mod rights;

use crate::support::{Client, words};

const EXECABORT: &[u8] = b"-EXECABORT Transaction discarded because of previous errors.\r\n";

/// Sends a transaction of these commands in one write; the reply to EXEC. Those before it must be `+OK` and `+QUEUED`.
fn transact(client: &mut Client, commands: &[impl AsRef<str>]) -> Vec<u8> {
    let mut requests = vec![words("MULTI")];
    requests.extend(commands.iter().map(|command| words(command.as_ref())));
    requests.push(words("EXEC"));
    let mut replies = client.pipeline(&requests);
    let last = replies.pop().expect("EXEC is answered");
    assert_eq!(shown(&replies.concat()), shown(&[b"+OK\r\n".to_vec(), b"+QUEUED\r\n".repeat(commands.len())].concat()));
    last
}

/// Bytes, fit for a message.
fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(300)].escape_ascii().to_string()
}
