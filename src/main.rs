//! The `outrigger` program: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use outrigger::config::{Args, Command, Config, Settings};
use outrigger::{app, check, observe};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code of a usage error, as in BSD's sysexits.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no failures.
            let code = if error.use_stderr() { USAGE } else { 0 };
            return error.print().map_or(ExitCode::FAILURE, |()| ExitCode::from(code));
        }
    };
    match &args.command {
        None => resolve(&args.settings).map_or_else(|code| code, |config| serve(&config)),
        Some(Command::Check(settings)) => resolve(settings).map_or_else(|code| code, |config| check::run(&config)),
    }
}

#[expect(clippy::print_stderr, reason = "the log is not running yet, and its reader may not be who typed this")]
fn resolve(settings: &Settings) -> Result<Config, ExitCode> {
    settings.resolve().map_err(|error| {
        eprintln!("outrigger: {error}");
        ExitCode::from(USAGE)
    })
}

#[expect(clippy::print_stderr, reason = "the log is not running yet, and its reader may not be who typed this")]
fn serve(config: &Config) -> ExitCode {
    if let Err(error) = observe::log::start(config.log_format, &config.log) {
        eprintln!("outrigger: {error}");
        return ExitCode::from(USAGE);
    }
    match app::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "outrigger cannot run");
            ExitCode::FAILURE
        }
    }
}
