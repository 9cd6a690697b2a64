//! What a client is told when Redis does not answer its request: what an empty Redis would say, or an error that tells
//! whether the request can have run.

use super::degraded;
use crate::command::degrade::{Degraded, Policy, degrade};
use crate::resp::build;
use crate::resp::request::Args;
use crate::upstream::{Failure, Outcome, Protocol, Shared};

/// Who asked, and what the operator wants.
pub(super) struct Asked<'a> {
    /// The whole request; empty if it was not kept, which only large writes are not.
    pub(super) request: &'a [u8],
    pub(super) protocol: Protocol,
    /// The client came over a strict listener.
    pub(super) strict: bool,
    pub(super) policy: &'a Policy,
    pub(super) upstream: &'a Shared,
}

/// Appends the answer.
pub(super) fn answer(asked: &Asked<'_>, failure: Failure, out: &mut Vec<u8>) {
    let resp3 = asked.protocol == Protocol::Resp3;
    let sent = matches!(failure.outcome, Outcome::Unknown | Outcome::Pending);
    match degrade(Args::new(asked.request), sent, asked.strict, asked.policy) {
        Degraded::Empty(empty) => degraded::write(empty, resp3, out),
        Degraded::Dropped => build::simple("OK", out),
        Degraded::Info => {
            let greeting = asked.upstream.identity().greeting();
            let version = greeting.as_ref().map_or(degraded::UNSEEN_VERSION, |greeting| &greeting.version_text);
            degraded::info(version, resp3, out);
        }
        Degraded::CommandList => match asked.upstream.commands(asked.protocol) {
            Some(commands) => out.extend_from_slice(&commands),
            None => build::error(failure.text(), out),
        },
        Degraded::Refused => build::error(failure.text(), out),
    }
}
