//! Byte queues and the memory they may take.
//!
//! A [`ByteQueue`] holds bytes that a socket did not take yet: a client's unread replies. It is a list of chunks, so that a
//! long queue is neither moved when it grows nor kept when it shrinks. Chunks come from a [`ChunkPool`], of which a worker
//! has one for its clients and one for its upstream connections; it keeps a few spare ones (the hot path then allocates
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
    /// By [`Owner`].
    used: [AtomicUsize; Owner::ALL.len()],
    limit: usize,
}

/// What buffers are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// What clients have sent and is not taken yet, what they have queued or subscribed to, and replies that they have not
    /// read.
    Clients,
    /// Requests on shared connections, until they are answered, and the reserve for them.
    Upstream,
    /// Large requests over leases, and replies that are kept until they are whole.
    Leases,
}

impl Owner {
    /// Each, in the order in which they are declared.
    pub(crate) const ALL: [Self; 3] = [Self::Clients, Self::Upstream, Self::Leases];

    /// As a label's value.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Upstream => "upstream",
            Self::Leases => "leases",
        }
    }
}

impl Memory {
    /// A budget of `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: Default::default(), limit }
    }

    /// Bytes held in buffers now, over all workers.
    pub(crate) fn used(&self) -> usize {
        self.used.iter().map(|used| used.load(Ordering::Relaxed)).sum()
    }

    /// Those of them that are for this.
    pub(crate) fn used_for(&self, owner: Owner) -> usize {
        self.of(owner).load(Ordering::Relaxed)
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
    pub(crate) fn resized(&self, owner: Owner, before: usize, after: usize) {
        let used = self.of(owner);
        if after > before {
            used.fetch_add(after - before, Ordering::Relaxed);
        } else if before > after {
            used.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// Notes that a buffer of this capacity has become another's.
    pub(crate) fn moved(&self, from: Owner, to: Owner, capacity: usize) {
        if from != to {
            // First there: in between the sum is too large rather than too small.
            self.resized(to, 0, capacity);
            self.resized(from, capacity, 0);
        }
    }

    fn of(&self, owner: Owner) -> &AtomicUsize {
        let [clients, upstream, leases] = &self.used;
        match owner {
            Owner::Clients => clients,
            Owner::Upstream => upstream,
            Owner::Leases => leases,
        }
    }
}

/// A worker's store of empty chunks, for its clients or for its upstream connections.
#[derive(Debug)]
pub(crate) struct ChunkPool {
    spare: Vec<Vec<u8>>,
    memory: Arc<Memory>,
    owner: Owner,
}

impl ChunkPool {
    /// An empty pool that counts against `memory`.
    pub(crate) fn new(memory: Arc<Memory>, owner: Owner) -> Self {
        Self { spare: Vec::new(), memory, owner }
    }

    /// The budget this pool counts against.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Notes that a buffer of its owner's, of `before` bytes capacity, has `after` bytes now.
    pub(crate) fn resized(&self, before: usize, after: usize) {
        self.memory.resized(self.owner, before, after);
    }

    /// An empty chunk.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| {
            self.resized(0, CHUNK);
            Vec::with_capacity(CHUNK)
        })
    }

    /// Takes back a chunk, or any buffer of another owner that was counted in the budget.
    pub(crate) fn give_back_of(&mut self, owner: Owner, chunk: Vec<u8>) {
        self.memory.moved(owner, self.owner, chunk.capacity());
        self.give_back(chunk);
    }

    /// Takes back a chunk, or any buffer of its owner's that was counted in the budget.
    pub(crate) fn give_back(&mut self, mut chunk: Vec<u8>) {
        if chunk.capacity() == CHUNK && self.spare.len() < MAX_SPARE {
            chunk.clear();
            self.spare.push(chunk);
        } else {
            self.resized(chunk.capacity(), 0);
        }
    }

    /// Gives back half of the spare chunks; called now and then, so that a burst is forgotten.
    pub(crate) fn trim(&mut self) {
        for chunk in self.spare.drain(self.spare.len().div_ceil(2)..) {
            self.memory.resized(self.owner, chunk.capacity(), 0);
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
        ChunkPool::new(Arc::new(Memory::new(1 << 30)), Owner::Clients)
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
        memory.resized(Owner::Clients, 0, 800);
        assert!(memory.is_tight() && memory.excess() == 0);
        memory.resized(Owner::Leases, 0, 300);
        assert_eq!(memory.excess(), 100);
        memory.resized(Owner::Clients, 800, 0);
        memory.resized(Owner::Leases, 300, 0);
        assert!(!memory.is_tight() && memory.used() == 0);
    }

    #[test]
    fn what_changes_hands_is_counted_once() {
        let memory = Arc::new(Memory::new(1 << 30));
        let used = || Owner::ALL.map(|owner| memory.used_for(owner));
        let mut pool = ChunkPool::new(Arc::clone(&memory), Owner::Upstream);
        memory.resized(Owner::Clients, 0, 3 * CHUNK);
        memory.moved(Owner::Clients, Owner::Leases, 3 * CHUNK);
        assert_eq!((used(), memory.used()), ([0, 0, 3 * CHUNK], 3 * CHUNK));
        pool.give_back_of(Owner::Leases, Vec::with_capacity(3 * CHUNK));
        assert_eq!(used(), [0, 0, 0]);
        // What looks like one of its own is kept as such.
        memory.resized(Owner::Leases, 0, CHUNK);
        pool.give_back_of(Owner::Leases, Vec::with_capacity(CHUNK));
        assert_eq!(used(), [0, CHUNK, 0]);
    }
}
