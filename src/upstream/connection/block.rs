//! Blocks: MULTI, commands and EXEC as one request, of whose replies only the last is shown.
//!
//! A block has one entry in the in-flight queue, which ends behind EXEC's last byte, so that it is sent, lost, overdue and
//! repeated like any other request. Beside it stands here how many replies come before EXEC's. They are looked at: `+OK`,
//! then `+QUEUED` for each command, or an error, which says why EXEC will be refused. Anything else is the reply to a
//! command that ran by itself, or to somebody else's; then nobody knows any more whose reply comes next.

use std::collections::VecDeque;

use super::Connection;
use crate::upstream::connect::ABORTED_BECAUSE;
use crate::upstream::error::{Error, cannot_serve, is_readonly};

/// Errors of EXEC that end the block, by their first word. In a cluster these are the others of this kind.
const ENDS: [&[u8]; 7] = [b"EXECABORT", b"MOVED", b"ASK", b"TRYAGAIN", b"CROSSSLOT", b"CLUSTERDOWN", b"REDIRECT"];

/// A block in flight.
#[derive(Debug)]
pub(super) struct Block {
    /// Offset behind its last byte, as in its entry.
    end: u64,
    /// Replies that come before EXEC's, and how many of them are due.
    preface: u32,
    due: u32,
    /// MULTI was refused, so that nothing was queued.
    refused: bool,
    /// The first error line that says that the server cannot serve, or is a replica.
    reason: Option<Vec<u8>>,
}

/// What a block's last reply ends.
#[derive(Debug)]
pub(super) struct Ended {
    /// As in [`Block`].
    pub(super) preface: u32,
    /// EXEC did not run, for this reason, if one was given.
    pub(super) reason: Option<Vec<u8>>,
    /// The server may think that the block goes on.
    pub(super) is_open: bool,
}

/// How many replies come before the one that counts, of the request that ends there.
pub(super) fn preface_of(blocks: &VecDeque<Block>, end: u64) -> u32 {
    let found = blocks.binary_search_by_key(&end, |block| block.end).ok();
    found.and_then(|at| blocks.get(at)).map_or(0, |block| block.preface)
}

impl Connection {
    /// The request that was added last is a block: so many replies come before the one that counts.
    pub(crate) fn expect_preface(&mut self, preface: u32) {
        let end = self.outgoing.accepted();
        self.blocks.push_back(Block { end, preface, due: preface, refused: false, reason: None });
    }

    /// True if the next reply belongs to a block.
    pub(super) fn is_block_next(&self) -> bool {
        self.blocks.front().is_some_and(|block| self.in_flight.front().is_some_and(|entry| entry.end == block.end))
    }

    /// True if the next reply is one that comes before EXEC's. It may come before the whole block was written.
    ///
    /// # Errors
    /// If nothing of the block was written.
    pub(super) fn awaits_preface(&self) -> Result<bool, Error> {
        if !(self.is_block_next() && self.blocks.front().is_some_and(|block| block.due > 0)) {
            return Ok(false);
        }
        if self.outgoing.written() == self.answered {
            return Err(Error::Protocol("a reply that nobody waits for".to_owned()));
        }
        Ok(true)
    }

    /// Takes a reply to the block that is next, or its last bytes if it was passed on as it came: none if it comes before
    /// EXEC's, and all is well so far.
    ///
    /// # Errors
    /// If it is not what belongs there.
    pub(super) fn reply_of_block(&mut self, reply: &[u8], streamed: bool) -> Result<Option<Ended>, Error> {
        let is_preface = self.awaits_preface()?;
        let Some(block) = self.blocks.front_mut() else { return Ok(None) };
        if is_preface {
            block.take(reply)?;
            return Ok(None);
        }
        let ended = block.end_with(if streamed { b"" } else { reply })?;
        self.blocks.pop_front();
        Ok(Some(ended))
    }
}

impl Block {
    /// Looks at a reply that comes before EXEC's.
    fn take(&mut self, reply: &[u8]) -> Result<(), Error> {
        let is_first = self.due == self.preface;
        match reply.strip_prefix(b"-") {
            Some(line) => {
                let is_reason = cannot_serve(line) || is_readonly(line);
                if is_first {
                    self.refused = true;
                    if !is_reason {
                        return Err(Error::Protocol("MULTI was refused, and what follows may run".to_owned()));
                    }
                }
                if is_reason && self.reason.is_none() {
                    self.reason = Some(line.to_vec());
                }
            }
            None if is_first && reply == b"+OK\r\n" => {}
            None if !is_first && !self.refused && reply == b"+QUEUED\r\n" => {}
            None => return Err(Error::Protocol("a command of a block ran by itself".to_owned())),
        }
        self.due -= 1;
        Ok(())
    }

    /// Looks at EXEC's reply; empty if it was too long to be an error.
    fn end_with(&mut self, reply: &[u8]) -> Result<Ended, Error> {
        let Some(line) = reply.strip_prefix(b"-") else {
            if self.refused {
                return Err(Error::Protocol("EXEC ran without MULTI".to_owned()));
            }
            return Ok(Ended { preface: self.preface, reason: None, is_open: false });
        };
        let first_word = line.split(|&byte| byte == b' ').next().unwrap_or_default();
        let is_open = !self.refused && !ENDS.contains(&first_word);
        let reason = line.strip_prefix(ABORTED_BECAUSE.as_bytes()).unwrap_or(line);
        let reason = self.reason.take().unwrap_or_else(|| reason.to_vec());
        Ok(Ended { preface: self.preface, reason: Some(reason), is_open })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(commands: u32) -> Block {
        Block { end: 9, preface: 1 + commands, due: 1 + commands, refused: false, reason: None }
    }

    /// Takes all replies but the last, then that.
    fn ended(replies: &[&str]) -> Result<Ended, Error> {
        let (last, before) = replies.split_last().unwrap();
        let mut block = block(u32::try_from(before.len()).unwrap() - 1);
        let line = |reply: &str| format!("{reply}\r\n").into_bytes();
        for reply in before {
            block.take(&line(reply))?;
        }
        assert_eq!(block.due, 0);
        block.end_with(&line(last))
    }

    fn reason(replies: &[&str]) -> Option<String> {
        let ended = ended(replies).unwrap();
        assert!(!ended.is_open, "{replies:?}");
        ended.reason.map(|reason| String::from_utf8(reason).unwrap().trim_end().to_owned())
    }

    const ABORT: &str = "-EXECABORT Transaction discarded because of previous errors.";

    #[test]
    fn a_block_that_ran_has_no_reason_not_to() {
        assert_eq!(reason(&["+OK", "+QUEUED", "+QUEUED", "*2"]), None);
        assert_eq!(reason(&["+OK", "*0"]), None);
        assert_eq!(reason(&["+OK", "+QUEUED", "*-1"]), None);
    }

    #[test]
    fn the_reason_is_the_one_that_means_the_server() {
        let oom = "-OOM command not allowed when used memory > 'maxmemory'.";
        let loading = "-LOADING Redis is loading the dataset in memory";
        let readonly = "-READONLY You can't write against a read only replica.";
        assert_eq!(reason(&["+OK", oom, loading, readonly, ABORT]).as_deref(), Some(&loading[1..]));
        assert_eq!(reason(&["+OK", "+QUEUED", readonly, ABORT]).as_deref(), Some(&readonly[1..]));
        assert_eq!(reason(&["+OK", oom, ABORT]).as_deref(), Some(&ABORT[1..]));
        let because = "-EXECABORT Transaction discarded because of: BUSY Redis is busy running a script.";
        assert_eq!(reason(&["+OK", "+QUEUED", because]).as_deref(), Some("BUSY Redis is busy running a script."));
        assert_eq!(reason(&["+OK", "-MOVED 1 a:1", "-MOVED 1 a:1"]).as_deref(), Some("MOVED 1 a:1"));
    }

    #[test]
    fn a_reply_that_does_not_belong_there_is_noticed() {
        for replies in [
            &["+QUEUED", "*0"][..],
            &["+OK", "+OK", "*1"],
            &["+OK", "$-1", "*1"],
            &["+OK", "+QUEUED ", "*1"],
            &[":1", "*0"],
            // What follows a MULTI that was refused for good runs by itself.
            &["-NOPERM no", "-NOPERM no", "-ERR EXEC without MULTI"],
            // Refused for now, and then not any more.
            &["-BUSY script", "+OK", "-ERR EXEC without MULTI"],
            &["-BUSY script", "+QUEUED", "*1"],
            &["-BUSY script", "-BUSY script", "*1"],
        ] {
            assert!(ended(replies).is_err(), "{replies:?}");
        }
    }

    #[test]
    fn a_refusal_from_the_first_to_the_last_is_understood() {
        let busy = "-BUSY Redis is busy running a script.";
        assert_eq!(reason(&[busy, busy, "-ERR EXEC without MULTI"]).as_deref(), Some(&busy[1..]));
        assert_eq!(reason(&[busy, busy, busy]).as_deref(), Some(&busy[1..]));
    }

    #[test]
    fn an_exec_that_is_refused_in_other_words_may_leave_the_block_open() {
        for last in ["-BUSY Redis is busy", "-NOPERM no", "-ERR EXEC without MULTI", "-EXECABORTED"] {
            assert!(ended(&["+OK", "+QUEUED", last]).unwrap().is_open, "{last}");
        }
    }
}
