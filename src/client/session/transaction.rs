//! Transactions: MULTI, what is queued, and EXEC, which sends all of it as one request.
//!
//! What a client queues is not run by anything but its EXEC, and all of it or nothing. A WATCH that was refused, or whose
//! connection was lost, is remembered, so that no block runs unwatched whose client meant it to be watched. A block that
//! cannot share a connection moves to one of the client's own ([`super::hold`]).

use std::mem;

use super::{OWN_BUFFER, Session, Step, Turn};
use crate::buffer::CHUNK;
use crate::client::clients::Env;
use crate::client::refusal;
use crate::client::transaction::{Block, Verdict};
use crate::command::route::{Local, Route, Transaction};
use crate::command::table;
use crate::resp::build;
use crate::resp::request::Args;

impl Session {
    /// A command of transactions while no block is open.
    pub(super) fn outside_block(&mut self, which: Transaction, frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        if let Some(error) = wrong_arity(Args::new(frame)) {
            return match which {
                Transaction::Exec => self.abort(error, turn),
                _ => self.answer_with(turn.env, |out| build::error(error, out)),
            };
        }
        match which {
            Transaction::Multi => {
                let block = Block::open();
                turn.env.pool.resized(0, block.capacity());
                self.block = Some(Box::new(block));
                self.answer_with(turn.env, |out| build::simple("OK", out))
            }
            Transaction::Exec => self.answer_with(turn.env, |out| build::error("ERR EXEC without MULTI", out)),
            Transaction::Discard => self.answer_with(turn.env, |out| build::error("ERR DISCARD without MULTI", out)),
            Transaction::Unwatch => {
                self.state.unwatched = false;
                self.answer_with(turn.env, |out| build::simple("OK", out))
            }
            // It needs a connection of its own, unless its arguments are wrong.
            Transaction::Watch => Step::Done,
        }
    }

    /// A request while a block is open: what became of it, unless it is the same as outside.
    pub(super) fn inside_block(
        &mut self,
        name: &[u8],
        route: Route,
        frame: &[u8],
        turn: &mut Turn<'_, '_>,
    ) -> Option<Step> {
        let args = Args::new(frame);
        if matches!(route, Route::Transaction(Transaction::Exec | Transaction::Discard)) && self.awaits_watch() {
            return Some(self.stand_behind_all(turn));
        }
        match route {
            Route::Local(Local::Quit) => return None,
            Route::Local(Local::Reset) if args.len() == 1 => {
                self.drop_block(turn.env);
                return None;
            }
            Route::Transaction(Transaction::Exec) => return Some(self.exec(frame, turn)),
            Route::Transaction(Transaction::Discard) if args.len() == 1 => {
                self.drop_block(turn.env);
                self.forget_watch(turn);
                return Some(self.answer_with(turn.env, |out| build::simple("OK", out)));
            }
            Route::Local(_)
            | Route::Shared(_)
            | Route::Transaction(_)
            | Route::Subscription(_)
            | Route::Leased(_)
            | Route::Control
            | Route::Refused => {}
        }
        let block = self.block.as_mut()?;
        let before = block.capacity();
        let identity = turn.upstream.shared().identity();
        let verdict = block.queue(route, frame, identity.release());
        if verdict == Verdict::NeedsLease {
            return Some(self.move_block(name, route, frame, turn));
        }
        let after = block.capacity();
        if after != before {
            turn.env.pool.resized(before, after);
            if after > CHUNK {
                self.be_watched(turn.env);
            }
        }
        Some(self.answer_with(turn.env, |out| match verdict {
            Verdict::Queued => build::simple("QUEUED", out),
            Verdict::Refused(error) => build::error(error, out),
            Verdict::NeedsLease => {}
        }))
    }

    /// Sends the block, as soon as that can be done.
    fn exec(&mut self, frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        if let Some(error) = wrong_arity(Args::new(frame)) {
            return self.abort(error, turn);
        }
        let Some(block) = self.block.as_ref().filter(|block| !block.is_dirty() && !self.state.unwatched) else {
            self.drop_block(turn.env);
            self.forget_watch(turn);
            return self.answer_with(turn.env, |out| build::error(refusal::EXECABORT, out));
        };
        if turn.env.dedicated && self.hold.is_none() {
            return self.exec_over_lasting_lease(frame, turn);
        }
        let manner = block.manner();
        let id = match self.connection_for(frame, manner, true, turn) {
            Ok(id) => id,
            Err(Step::Blocked) => return Step::Blocked,
            Err(step) => {
                self.drop_block(turn.env);
                return step;
            }
        };
        if let Some(error) = turn.upstream.shared().identity().refusal_of_blocks() {
            return self.abort(error.as_bytes(), turn);
        }
        let Some(block) = mem::take(&mut self.block) else { return Step::Done };
        let (before, preface) = (block.capacity(), block.preface());
        let bytes = block.close();
        turn.env.pool.resized(before, bytes.capacity());
        let message = self.message(id, manner, bytes.len(), turn);
        self.due = if bytes.len() < OWN_BUFFER {
            turn.env.pool.resized(bytes.capacity(), 0);
            turn.upstream.send(id, message, &bytes)
        } else {
            turn.upstream.send_owned(id, message, bytes)
        };
        turn.upstream.expect_preface(id, preface);
        Step::Done
    }

    /// Answers an EXEC that the server refuses for this reason; the block, if there is one, is over.
    pub(super) fn abort(&mut self, reason: impl AsRef<[u8]>, turn: &mut Turn<'_, '_>) -> Step {
        self.drop_block(turn.env);
        self.forget_watch(turn);
        self.answer_with(turn.env, |out| build::error(refusal::aborted(reason.as_ref()), out))
    }

    /// What was queued is not run: EXEC will say so.
    pub(super) fn spoil_block(&mut self, env: &Env) {
        if let Some(block) = &mut self.block {
            let before = block.capacity();
            block.spoil();
            env.pool.resized(before, block.capacity());
        }
    }

    /// Forgets what was queued.
    pub(super) fn drop_block(&mut self, env: &Env) {
        if let Some(block) = self.block.take() {
            env.pool.resized(block.capacity(), 0);
        }
    }
}

/// The error for a command of transactions that has too many arguments, or too few.
fn wrong_arity(mut args: Args<'_>) -> Option<Vec<u8>> {
    let count = args.len();
    let command = args.next().and_then(table::find)?;
    // In an EXEC that is refused the error stands without its `ERR`.
    (!command.accepts(count)).then(|| refusal::wrong_arity(command.name))
}
