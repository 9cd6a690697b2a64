//! The requests of one upstream connection, as bytes: those still to be written, and those written and not yet answered.
//!
//! A request is kept until its reply has come. If the connection is lost, what it asked can then be asked again
//! elsewhere, or answered as an empty Redis would. Positions are *offsets*: bytes since the connection began.
//!
//! ```text
//!   0 ─────────── answered ─────────── written ─────────── accepted
//!      forgotten            kept                to be written
//! ```

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem;
use std::ops::Range;

use crate::buffer::{ChunkPool, MAX_SLICES, Owner};

/// Bytes on their way to the server, and the memory of those that went.
///
/// Whoever drops one that is not empty calls [`Outgoing::clear`] first, so that the budget of memory stays true.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    chunks: VecDeque<Chunk>,
    /// Index of the first chunk that is not written entirely.
    unwritten: usize,
    accepted: u64,
    written: u64,
}

#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    /// Offsets of its first byte, and behind its last.
    start: u64,
    end: u64,
    /// One large request that is not asked again: its bytes go when they are written.
    fleeting: bool,
    owner: Owner,
}

impl Outgoing {
    /// Offset behind the last byte ever appended.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Offset behind the last byte handed to the kernel.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// True if everything was handed to the kernel.
    pub(crate) fn is_written(&self) -> bool {
        self.written == self.accepted
    }

    /// Appends a copy of `bytes`.
    #[inline(always)] // Once for each request or reply: a call costs as much as what it does.
    pub(crate) fn push(&mut self, bytes: &[u8], pool: &mut ChunkPool) {
        match self.chunks.back_mut() {
            Some(last) if last.has_room() && last.bytes.capacity() - last.bytes.len() >= bytes.len() => {
                last.bytes.extend_from_slice(bytes);
                last.end += bytes.len() as u64;
                self.accepted = last.end;
            }
            _ => self.push_over(bytes, pool),
        }
    }

    /// Appends what does not fit into the last chunk.
    fn push_over(&mut self, mut bytes: &[u8], pool: &mut ChunkPool) {
        while !bytes.is_empty() {
            let Some(last) = self.chunks.back_mut().filter(|last| last.has_room()) else {
                self.chunks.push_back(Chunk {
                    bytes: pool.take(),
                    start: self.accepted,
                    end: self.accepted,
                    fleeting: false,
                    owner: Owner::Upstream,
                });
                continue;
            };
            let room = last.bytes.capacity() - last.bytes.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            last.bytes.extend_from_slice(now);
            last.end += now.len() as u64;
            self.accepted += now.len() as u64;
            bytes = later;
        }
    }

    /// Appends `bytes` without copying them. The caller has counted their capacity in the budget, as this owner's; from here
    /// on the queue answers for it. With `keep` they are kept until answered like others, else they are gone once written.
    pub(crate) fn push_owned(&mut self, bytes: Vec<u8>, keep: bool, owner: Owner) {
        let start = self.accepted;
        self.accepted += bytes.len() as u64;
        self.chunks.push_back(Chunk { bytes, start, end: self.accepted, fleeting: !keep, owner });
    }

    /// The bytes to be written as slices for a vectored write, oldest first, at most [`MAX_SLICES`].
    pub(crate) fn slices<'a>(&'a self, into: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let mut count = 0;
        for (slot, chunk) in into.iter_mut().zip(self.chunks.range(self.unwritten.min(self.chunks.len())..)) {
            let skip = usize::try_from(self.written.saturating_sub(chunk.start)).unwrap_or(usize::MAX);
            *slot = IoSlice::new(chunk.bytes.get(skip..).unwrap_or_default());
            count += 1;
        }
        count
    }

    /// Notes that the next `count` bytes were handed to the kernel.
    pub(crate) fn wrote(&mut self, count: usize, pool: &mut ChunkPool) {
        self.written += count as u64;
        debug_assert!(self.written <= self.accepted, "wrote more than was queued");
        let last = self.chunks.len().saturating_sub(1);
        while let Some(chunk) = self.chunks.get_mut(self.unwritten)
            && chunk.end <= self.written
        {
            // The last chunk may still grow; then it is unwritten again.
            if self.unwritten == last && chunk.has_room() {
                break;
            }
            if chunk.fleeting {
                pool.give_back_of(chunk.owner, mem::take(&mut chunk.bytes));
            }
            self.unwritten += 1;
        }
    }

    /// Forgets everything before `offset`: it was answered.
    pub(crate) fn release(&mut self, offset: u64, pool: &mut ChunkPool) {
        while let Some(first) = self.chunks.front()
            && first.end <= offset
        {
            self.unwritten = self.unwritten.saturating_sub(1);
            if let Some(chunk) = self.chunks.pop_front().filter(|chunk| chunk.bytes.capacity() > 0) {
                pool.give_back_of(chunk.owner, chunk.bytes);
            }
        }
        if self.chunks.is_empty() && self.chunks.capacity() > 64 {
            self.chunks = VecDeque::new();
        }
    }

    /// Copies the bytes between two offsets behind `into`; false if they are kept no longer.
    pub(crate) fn copy(&self, range: Range<u64>, into: &mut Vec<u8>) -> bool {
        let before = into.len();
        for chunk in self.chunks.iter().filter(|chunk| chunk.start < range.end && range.start < chunk.end) {
            let from = usize::try_from(range.start.saturating_sub(chunk.start)).unwrap_or(usize::MAX);
            let to = usize::try_from(range.end.min(chunk.end) - chunk.start).unwrap_or(usize::MAX);
            into.extend_from_slice(chunk.bytes.get(from..to).unwrap_or_default());
        }
        (into.len() - before) as u64 == range.end - range.start
    }

    /// Empties the queue and gives its memory back.
    pub(crate) fn clear(&mut self, pool: &mut ChunkPool) {
        self.written = self.accepted;
        self.release(u64::MAX, pool);
    }
}

impl Chunk {
    /// True if small requests may be appended: chunks of the pool until full, never a large request's own buffer.
    fn has_room(&self) -> bool {
        self.bytes.len() < self.bytes.capacity() && self.bytes.capacity() == crate::buffer::CHUNK
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::buffer::{CHUNK, Memory};

    fn pool() -> ChunkPool {
        ChunkPool::new(Arc::new(Memory::new(1 << 30)), Owner::Upstream)
    }

    fn to_write(queue: &Outgoing) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let count = queue.slices(&mut slices);
        slices.iter().take(count).flat_map(|slice| slice.to_vec()).collect()
    }

    fn copied(queue: &Outgoing, range: Range<u64>) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        queue.copy(range, &mut bytes).then_some(bytes)
    }

    proptest::proptest! {
        /// However pushes, writes and releases interleave, what is to be written is written once and in order, and what
        /// is kept is what was pushed.
        #[test]
        fn bytes_are_written_in_order_and_kept(steps in proptest::collection::vec((0..4u8, 1..3 * CHUNK), 1..40)) {
            let (mut queue, mut pool) = (Outgoing::default(), pool());
            let (mut all, mut released) = (Vec::new(), 0);
            for (step, size) in steps {
                let fresh: Vec<u8> = (0..size).map(|i| ((all.len() + i) % 251) as u8).collect();
                match step {
                    0 => { queue.push(&fresh, &mut pool); all.extend(fresh); }
                    1 => { pool.memory().resized(Owner::Leases, 0, fresh.capacity()); queue.push_owned(fresh.clone(), true, Owner::Leases); all.extend(fresh); }
                    2 => {
                        let written = queue.written() as usize;
                        proptest::prop_assert!(all[written..].starts_with(&to_write(&queue)));
                        queue.wrote(size.min(all.len() - written), &mut pool);
                    }
                    _ => {
                        released = queue.written().min(released + size as u64);
                        queue.release(released, &mut pool);
                    }
                }
                let kept = copied(&queue, released..queue.accepted());
                proptest::prop_assert_eq!(kept.as_deref(), all.get(released as usize..));
            }
            queue.clear(&mut pool);
            (0..10).for_each(|_| pool.trim());
            proptest::prop_assert!(pool.memory().used() <= CHUNK);
        }
    }

    #[test]
    fn a_large_request_that_is_not_kept_goes_once_it_is_written() {
        let (mut queue, mut pool) = (Outgoing::default(), pool());
        queue.push(b"before", &mut pool);
        let large = vec![7; 5 * CHUNK];
        pool.resized(0, large.capacity());
        queue.push_owned(large, false, Owner::Upstream);
        queue.push(b"behind", &mut pool);
        let end = 6 + 5 * CHUNK as u64;
        queue.wrote(6 + CHUNK, &mut pool);
        assert!(copied(&queue, 6..end).is_some(), "not written entirely");
        queue.wrote(4 * CHUNK, &mut pool);
        assert!(copied(&queue, 6..end).is_none());
        assert_eq!(copied(&queue, end..end + 6).as_deref(), Some(&b"behind"[..]));
        assert_eq!(to_write(&queue), b"behind");
        assert!(pool.memory().used() < 4 * CHUNK);
    }
}
