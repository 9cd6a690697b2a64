//! The build script: cargo runs it before it builds the program, to say of what and by what it is built (see `version.rs`).

use std::env;
use std::process::Command;

fn main() {
    let rustc = env::var_os("RUSTC").and_then(|rustc| Command::new(rustc).arg("--version").output().ok());
    let said = rustc.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    // `rustc 1.95.0 (59807616e 2026-04-14)`
    let version = said.split_whitespace().nth(1).unwrap_or("unknown");
    // An image is built without the repository, so its builder says what is in it.
    let revision = env::var("OUTRIGGER_REVISION").ok().filter(|revision| !revision.is_empty());
    let revision = revision.as_deref().unwrap_or("unknown");
    println!("cargo::rustc-env=OUTRIGGER_RUSTC={version}");
    println!("cargo::rustc-env=OUTRIGGER_REVISION={revision}");
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-env-changed=OUTRIGGER_REVISION");
}
