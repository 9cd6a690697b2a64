//! What the system says of a process: its memory; and figures printed so that a reader of the test's output finds them.

use std::fmt::Display;
use std::fs;
use std::process::{self, Command};

/// Resident memory of a process in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    status_bytes(pid, "VmRSS:")
}

/// The part of it that is no file (code and read-only data are files, and shared with whoever else has them open).
pub fn anonymous_bytes(pid: u32) -> u64 {
    status_bytes(pid, "RssAnon:")
}

/// The most that the resident memory of a process has ever been, in bytes.
pub fn peak_resident_bytes(pid: u32) -> u64 {
    status_bytes(pid, "VmHWM:")
}

fn status_bytes(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is running");
    let line =
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} is not listed"));
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number of KiB");
    kib * 1024
}

/// Makes sure that this process, and what it starts from now on, may open `count` files and some more.
pub fn allow_files(count: u64) {
    let wanted = count + 1_000;
    let limits = fs::read_to_string("/proc/self/limits").expect("limits can be read");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("the limit is listed");
    let soft = line.split_whitespace().next().expect("the soft limit comes first");
    if soft != "unlimited" && soft.parse::<u64>().expect("a number of files") < wanted {
        let own = process::id().to_string();
        let raised = Command::new("prlimit").args(["--pid", &own, &format!("--nofile={wanted}:")]).status();
        assert!(
            raised.is_ok_and(|status| status.success()),
            "this test needs {wanted} files: raise the hard limit (ulimit -n)"
        );
    }
}

/// Prints one line of figures, `name: a=1 b=2`, when dropped.
pub struct Figures {
    line: String,
}

impl Figures {
    /// A line that begins with `name`.
    pub fn of(name: &str) -> Self {
        Self { line: format!("figures {name}:") }
    }

    /// Adds one figure.
    pub fn add(&mut self, name: &str, value: impl Display) {
        self.line.push_str(&format!(" {name}={value}"));
    }
}

impl Drop for Figures {
    fn drop(&mut self) {
        println!("{}", self.line);
    }
}
