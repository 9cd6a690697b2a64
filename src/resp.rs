//! Frames of the Redis protocol, RESP2 and RESP3: where each begins and ends.
//!
//! Forwarding needs boundaries, not trees: requests and replies travel as the bytes that arrived, and this module
//! finds out, in one pass and without allocating, how long each frame is and the little that routing needs of it.
//!
//! - [`request`]: what clients send, with a server's own rules, limits and error texts.
//! - [`inline`]: the human form of a request, `SET a "b c"`, and rewriting anything into a canonical array.
//! - [`reply`]: what upstream sends, incrementally over bytes never seen before.
//!
//! A leaf: it does no I/O and uses nothing of the rest of the crate.

pub mod build;
mod header;
pub mod inline;
pub mod reply;
pub mod request;
