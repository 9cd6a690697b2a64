//! What every integration test stands on: real servers, the proxy as a process of its own, and a client that speaks raw bytes.
//!
//! A test reads as a story: start a [`Server`], put a [`Proxy`] before it, let [`Client`]s talk, compare bytes.
//! Everything started here is ended when it is dropped.

mod client;
mod fault;
mod frame;
pub mod http;
mod noise;
mod process;
mod proxy;
mod scripted;
mod server;
mod spread;

pub use client::{Client, command, words};
pub use fault::{Fault, FaultProxy, Plant};
pub use frame::{Frame, length as frame_length};
pub use noise::Noise;
pub use process::{Figures, allow_files, anonymous_bytes, peak_resident_bytes, resident_bytes};
pub use proxy::{Proxy, be_patient, is_direct};
pub use scripted::{Line, Mood, Scripted, bulk};
pub use server::{Kind, Server, dependency, others};
pub use spread::Spread;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest that any single step of a test may take before the test says what it was waiting for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds; panics with `what` after `limit`.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "gave up after {limit:?} waiting until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Says to other threads that something is over, when it is dropped: also when the test fails, so that nobody waits for ever.
pub struct Over(Arc<AtomicBool>);

impl Over {
    /// A flag, not raised yet, and its owner.
    pub fn flag() -> (Self, Arc<AtomicBool>) {
        let flag = Arc::new(AtomicBool::new(false));
        (Self(Arc::clone(&flag)), flag)
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Held by the tests that measure time or memory (their names begin with `alone_`), so that they never disturb each other.
///
/// For undisturbed figures run them apart from the others too: `cargo test --test it alone_ -- --test-threads=1`.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
