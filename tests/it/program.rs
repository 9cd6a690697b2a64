//! Programs that are run to their end, within a limit.

use crate::support::wait_until;
use std::fs;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Runs `command` and returns how it ended and all it wrote, to stdout and stderr alike.
///
/// Panics with what it wrote so far if it takes longer than `limit`, and ends it then.
pub fn run_to_end(command: &mut Command, limit: Duration) -> (ExitStatus, String) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    // A file, unlike a pipe, never fills up.
    let path = directory.path().join("output");
    let output = fs::File::create(&path).expect("the output can be kept");
    command.stdout(output.try_clone().expect("the file can be shared")).stderr(output);
    let spawned = command.spawn();
    let mut running =
        Running(spawned.unwrap_or_else(|error| panic!("{} does not start: {error}", command.get_program().display())));
    let written = || String::from_utf8_lossy(&fs::read(&path).expect("the output was kept")).into_owned();
    let (start, mut status) = (Instant::now(), None);
    wait_until("the program ends", limit * 2, || {
        status = running.0.try_wait().expect("a child can be waited for");
        status.is_some() || start.elapsed() > limit
    });
    let Some(status) = status else {
        panic!("{command:?} did not end within {limit:?} and wrote:\n{}", written());
    };
    (status, written())
}

/// Ends the program if the test ends first.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
