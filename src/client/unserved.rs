//! What a client is told when Redis does not answer its request: what an empty Redis would say, or an error that tells
//! whether the request can have run.

use super::{degraded, section};
use crate::command::degrade::{Degraded, Policy, degrade};
use crate::observe::cells::Given;
use crate::resp::build;
use crate::resp::request::Args;
use crate::upstream::{Failure, Protocol, Shared};

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

/// Appends the answer; returns what that is, for counting.
pub(super) fn answer(asked: &Asked<'_>, failure: Failure, out: &mut Vec<u8>) -> Given {
    let resp3 = asked.protocol == Protocol::Resp3;
    let sent = failure.may_have_run();
    let refused = |out: &mut Vec<u8>| {
        build::error(failure.text(), out);
        failure.given()
    };
    match degrade(Args::new(asked.request), sent, asked.strict, asked.policy) {
        Degraded::Empty(empty) => degraded::write(empty, resp3, out),
        Degraded::Dropped => {
            build::simple("OK", out);
            return Given::DroppedWrite;
        }
        Degraded::Info => {
            let greeting = asked.upstream.identity().greeting();
            let version = greeting.as_ref().map_or(degraded::UNSEEN_VERSION, |greeting| &greeting.version_text);
            degraded::info(version, |text| section::write(asked.upstream, true, text), resp3, out);
        }
        Degraded::CommandList => match asked.upstream.commands(asked.protocol) {
            Some(commands) => out.extend_from_slice(&commands),
            None => return refused(out),
        },
        Degraded::Refused => return refused(out),
    }
    Given::Empty
}
