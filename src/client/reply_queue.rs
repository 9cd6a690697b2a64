//! The client's reply queue: replies leave in the order of the requests, wherever they come from.
//!
//! A client sticks to one upstream connection while anything of its is unanswered there, and Redis answers in order, so
//! forwarded replies need no entry here: they arrive in the client's order. Only a local answer that stands behind
//! unanswered forwarded requests has to wait, and it waits for a *number*: the count of forwarded replies that come
//! before it.
//!
//! ```text
//!   requests:   GET a   PING   GET b   ECHO x        forwarded: 2, answered: 0
//!   queue:            (after 1: PONG)  (after 2: x)  ── as replies arrive, what is due behind them leaves
//! ```

use std::collections::VecDeque;

/// Which local answers wait for which forwarded replies. Pure: it holds bytes and counts.
#[derive(Debug, Default)]
pub(crate) struct ReplyQueue {
    /// Requests forwarded and replies received, since the client came; their difference is what is outstanding.
    forwarded: u64,
    answered: u64,
    /// Local answers that wait, oldest first.
    waiting: VecDeque<Waiting>,
    /// Their bytes, one after the other.
    bytes: VecDeque<u8>,
}

#[derive(Debug)]
struct Waiting {
    /// Due once so many forwarded requests are answered.
    after: u64,
    len: usize,
}

impl ReplyQueue {
    /// Forwarded requests whose replies are due.
    pub(crate) fn forwarded(&self) -> usize {
        usize::try_from(self.forwarded - self.answered).unwrap_or(usize::MAX)
    }

    /// All replies that are due, local ones included.
    pub(crate) fn outstanding(&self) -> usize {
        self.forwarded() + self.waiting.len()
    }

    /// Bytes of local answers that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Notes a request that was forwarded.
    pub(crate) fn forward(&mut self) {
        self.forwarded += 1;
    }

    /// Takes a local answer. Returns true if it is due at once: then the caller sends it and nothing is kept.
    pub(crate) fn answer(&mut self, bytes: &[u8]) -> bool {
        if self.forwarded == self.answered {
            return true;
        }
        self.waiting.push_back(Waiting { after: self.forwarded, len: bytes.len() });
        self.bytes.extend(bytes);
        false
    }

    /// Notes that the oldest forwarded request was answered; true if local answers became due, for
    /// [`ReplyQueue::pop_due`].
    pub(crate) fn answered(&mut self) -> bool {
        debug_assert!(self.answered < self.forwarded, "more replies than requests");
        self.answered += 1;
        self.waiting.front().is_some_and(|waiting| waiting.after <= self.answered)
    }

    /// Moves the oldest local answer that is due behind `into`; false if there is none.
    pub(crate) fn pop_due(&mut self, into: &mut Vec<u8>) -> bool {
        let Some(due) = self.waiting.pop_front_if(|waiting| waiting.after <= self.answered) else {
            if self.waiting.is_empty() && self.waiting.capacity() > 0 {
                // At rest nothing is kept.
                (self.waiting, self.bytes) = (VecDeque::new(), VecDeque::new());
            }
            return false;
        };
        into.extend(self.bytes.drain(..due.len));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_answer_alone_is_due_at_once() {
        let mut queue = ReplyQueue::default();
        assert!(queue.answer(b"+PONG\r\n"));
        assert_eq!(queue.outstanding(), 0);
    }

    #[test]
    fn local_answers_wait_for_the_replies_before_them() {
        let mut queue = ReplyQueue::default();
        queue.forward();
        assert!(!queue.answer(b"one"));
        assert!(!queue.answer(b"two"));
        queue.forward();
        assert!(!queue.answer(b"three"));
        assert_eq!((queue.outstanding(), queue.bytes()), (5, 11));
        let mut out = Vec::new();
        assert!(!queue.pop_due(&mut out));
        assert!(queue.answered());
        while queue.pop_due(&mut out) {}
        assert_eq!(out, b"onetwo");
        assert!(queue.answered());
        while queue.pop_due(&mut out) {}
        assert_eq!(out, b"onetwothree");
        assert_eq!(queue.outstanding(), 0);
    }

    proptest::proptest! {
        /// Whatever the mixture of forwarded and local requests, and however answers interleave with new requests, the
        /// client sees the numbers of its requests in order.
        #[test]
        fn order_is_kept_in_any_interleaving(steps in proptest::collection::vec(0..3u8, 1..200)) {
            let mut queue = ReplyQueue::default();
            let mut pending = VecDeque::new();
            let (mut next, mut seen, mut due) = (0u8, Vec::new(), Vec::new());
            let mut answer = |queue: &mut ReplyQueue, pending: &mut VecDeque<u8>, seen: &mut Vec<u8>| {
                if let Some(number) = pending.pop_front() {
                    seen.push(number);
                    if queue.answered() {
                        while queue.pop_due(&mut due) {}
                        seen.append(&mut due);
                    }
                }
            };
            for step in steps {
                match step {
                    0 => { queue.forward(); pending.push_back(next); next += 1; }
                    1 => { if queue.answer(&[next]) { seen.push(next); } next += 1; }
                    _ => answer(&mut queue, &mut pending, &mut seen),
                }
            }
            while !pending.is_empty() {
                answer(&mut queue, &mut pending, &mut seen);
            }
            proptest::prop_assert_eq!(seen, (0..next).collect::<Vec<_>>());
            proptest::prop_assert_eq!(queue.outstanding(), 0);
        }
    }
}
