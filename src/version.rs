//! What this build is: shown by `--version`, by the HTTP port, and by `outrigger_build_info`.

/// The version of `Cargo.toml`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that it was built from, where whoever built it has said so in `OUTRIGGER_REVISION`; else `unknown`.
pub const REVISION: &str = env!("OUTRIGGER_REVISION");

/// The version of the compiler.
pub const RUSTC: &str = env!("OUTRIGGER_RUSTC");

/// All of it on a line, as `--version` says it.
pub const WHOLE: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (revision ",
    env!("OUTRIGGER_REVISION"),
    ", rustc ",
    env!("OUTRIGGER_RUSTC"),
    ")"
);
