//! Byte queues and the memory they may take.
//!
//! A [`ByteQueue`] holds bytes that a socket did not take yet: a client's unread replies. It is a list of chunks, so that a long queue is neither moved when it grows nor kept when it
//! shrinks. Chunks come from the worker's [`ChunkPool`], which keeps a few spare ones (the hot path then allocates
//! nothing) and reports what it holds to the process-wide [`Memory`].

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Size of a pooled chunk, in bytes.
pub(crate) const CHUNK: usize = 16 * 1024;

/// How many spare chunks a worker keeps while it is busy (512 KiB); [`ChunkPool::trim`] halves them at rest.
const MAX_SPARE: usize = 32;

/// Most slices handed to one vectored write (1 MiB of full chunks).
pub(crate) const MAX_SLICES: usize = 64;

/// The process' budget for buffered bytes, shared by all workers and counted when memory is taken or given back, never
/// per request.
#[derive(Debug)]
pub(crate) struct Memory {
    used: AtomicUsize,
    limit: usize,
}

impl Memory {
    /// A budget of `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    /// Bytes held in buffers now, over all workers.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// What may be held, in bytes.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// True from three quarters of the budget on: nobody may begin to buffer something large.
    pub(crate) fn is_tight(&self) -> bool {
        self.used() > self.limit / 4 * 3
    }

    /// Bytes beyond the budget: those who hold most are disconnected until so much is free.
    pub(crate) fn excess(&self) -> usize {
        self.used().saturating_sub(self.limit)
    }

    /// Notes that a buffer of `before` bytes capacity has `after` bytes now.
    pub(crate) fn resized(&self, before: usize, after: usize) {
        if after > before {
            self.used.fetch_add(after - before, Ordering::Relaxed);
        } else if before > after {
            self.used.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

/// A worker's store of empty chunks.
#[derive(Debug)]
pub(crate) struct ChunkPool {
    spare: Vec<Vec<u8>>,
    memory: Arc<Memory>,
}

impl ChunkPool {
    /// An empty pool that counts against `memory`.
    pub(crate) fn new(memory: Arc<Memory>) -> Self {
        Self { spare: Vec::new(), memory }
    }

    /// The budget this pool counts against.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// An empty chunk.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| {
            self.memory.resized(0, CHUNK);
            Vec::with_capacity(CHUNK)
        })
    }

    /// Takes back a chunk, or any buffer that was counted in the budget.
    pub(crate) fn give_back(&mut self, mut chunk: Vec<u8>) {
        if chunk.capacity() == CHUNK && self.spare.len() < MAX_SPARE {
            chunk.clear();
            self.spare.push(chunk);
        } else {
            self.memory.resized(chunk.capacity(), 0);
        }
    }

    /// Gives back half of the spare chunks; called now and then, so that a burst is forgotten.
    pub(crate) fn trim(&mut self) {
        for chunk in self.spare.drain(self.spare.len().div_ceil(2)..) {
            self.memory.resized(chunk.capacity(), 0);
        }
    }
}

/// A first-in, first-out queue of bytes in chunks. Holds no memory while empty.
///
/// Whoever drops a queue that is not empty calls [`ByteQueue::clear`] first, so that the budget stays true.
#[derive(Debug, Default)]
pub(crate) struct ByteQueue {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that are gone already.
    head: usize,
    len: usize,
}

impl ByteQueue {
    /// Bytes waiting.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// True if nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a copy of `bytes`.
    pub(crate) fn push(&mut self, mut bytes: &[u8], pool: &mut ChunkPool) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            let room = self.chunks.back().map_or(0, |last| last.capacity() - last.len());
            if room == 0 {
                self.chunks.push_back(pool.take());
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(last) = self.chunks.back_mut() {
                last.extend_from_slice(now);
            }
            bytes = later;
        }
    }

    /// Appends all of `other`, of which nothing was consumed yet, and empties it.
    pub(crate) fn append(&mut self, other: &mut Self) {
        debug_assert!(other.head == 0, "what is gone from it would come back");
        self.len += std::mem::take(&mut other.len);
        self.chunks.append(&mut other.chunks);
    }

    /// The waiting bytes as slices for a vectored write, oldest first, at most [`MAX_SLICES`].
    pub(crate) fn slices<'a>(&'a self, into: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let mut count = 0;
        for (slot, chunk) in into.iter_mut().zip(&self.chunks) {
            let skip = if count == 0 { self.head } else { 0 };
            *slot = IoSlice::new(chunk.get(skip..).unwrap_or_default());
            count += 1;
        }
        count
    }

    /// Forgets the oldest `count` bytes: they were written.
    pub(crate) fn consume(&mut self, count: usize, pool: &mut ChunkPool) {
        debug_assert!(count <= self.len, "consumed more than was queued");
        self.len -= count;
        self.head += count;
        while let Some(first) = self.chunks.front() {
            if self.head < first.len() {
                break;
            }
            self.head -= first.len();
            if let Some(chunk) = self.chunks.pop_front() {
                pool.give_back(chunk);
            }
        }
        if self.chunks.is_empty() && self.chunks.capacity() > 64 {
            self.chunks = VecDeque::new();
        }
    }

    /// Empties the queue and gives its memory back.
    pub(crate) fn clear(&mut self, pool: &mut ChunkPool) {
        self.consume(self.len, pool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> ChunkPool {
        ChunkPool::new(Arc::new(Memory::new(1 << 30)))
    }

    fn contents(queue: &ByteQueue) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let count = queue.slices(&mut slices);
        slices.iter().take(count).flat_map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn bytes_come_out_in_the_order_they_went_in() {
        let (mut queue, mut pool) = (ByteQueue::default(), pool());
        let bytes: Vec<u8> = (0..3 * CHUNK + 17).map(|i| (i % 251) as u8).collect();
        queue.push(&bytes[..10], &mut pool);
        queue.push(&bytes[10..CHUNK + 5], &mut pool);
        queue.push(&bytes[CHUNK + 5..], &mut pool);
        assert_eq!(contents(&queue), bytes);
        for step in [1, 9, CHUNK, 7, CHUNK - 1] {
            let before = contents(&queue);
            queue.consume(step, &mut pool);
            assert_eq!(contents(&queue), before[step..]);
        }
        queue.clear(&mut pool);
        assert!(queue.is_empty() && contents(&queue).is_empty());
    }

    #[test]
    fn memory_returns_to_what_the_spare_chunks_hold() {
        let (mut queue, mut pool) = (ByteQueue::default(), pool());
        queue.push(&vec![7; 100 * CHUNK], &mut pool);
        assert_eq!(pool.memory().used(), 100 * CHUNK);
        queue.clear(&mut pool);
        assert_eq!(pool.memory().used(), MAX_SPARE * CHUNK);
        for _ in 0..10 {
            pool.trim();
        }
        assert!(pool.memory().used() <= CHUNK);
    }

    #[test]
    fn the_budget_is_tight_before_it_is_exhausted() {
        let memory = Memory::new(1000);
        memory.resized(0, 800);
        assert!(memory.is_tight() && memory.excess() == 0);
        memory.resized(0, 300);
        assert_eq!(memory.excess(), 100);
        memory.resized(1100, 0);
        assert!(!memory.is_tight() && memory.used() == 0);
    }
}
