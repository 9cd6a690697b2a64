//! The `outrigger` program: arguments in, exit code out.

use std::fmt::Display;
use std::process::ExitCode;

use outrigger::admin::caller::{self, Question};
use outrigger::config::{self, Args, Command, Config, Healthcheck, WebhookConfig};
use outrigger::observe::log::{self, Log};
use outrigger::{app, check, explain, inject, webhook};

/// Exit code of a usage error, as in BSD's sysexits.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    return_large_buffers();
    let args = match Args::read() {
        Ok(args) => args,
        Err((error, hint)) => return usage(&error, hint),
    };
    match &args.command {
        None => checked(args.settings.resolve()).map_or_else(|code| code, |config| serve(&config)),
        Some(Command::Check(settings)) => {
            checked(settings.resolve()).map_or_else(|code| code, |config| check::run(&config))
        }
        Some(Command::Explain(question)) => checked(question.deny.denied()).map_or_else(
            |code| code,
            |denied| explain::run(&question.words, &question.degrade.policy(), denied.as_ref()),
        ),
        Some(Command::Inject(wanted)) => inject::run(wanted),
        Some(Command::Uninject(manifests)) => inject::undo(manifests),
        Some(Command::Webhook(wanted)) => checked(wanted.resolve()).map_or_else(|code| code, |config| review(&config)),
        Some(Command::Wait(wait)) => {
            checked(wait.address.peer()).map_or_else(|code| code, |address| caller::wait(address, wait.timeout))
        }
        Some(Command::Healthcheck(check)) => checked(check.address.peer())
            .map_or_else(|code| code, |address| caller::healthcheck(address, question_of(check))),
    }
}

fn question_of(check: &Healthcheck) -> Question {
    if check.live {
        Question::Live
    } else if check.ready {
        Question::Ready
    } else {
        Question::Health
    }
}

/// Makes the allocator give back large buffers as soon as they are freed.
///
/// glibc asks the kernel for large blocks one by one, but after the first is freed it raises the size from which it does
/// so, up to 32 MiB; smaller ones then stay with the process, which after a burst of large values looks like a leak to
/// whoever watches the pod's memory. Setting the size by hand keeps it where it was (mallopt(3)). Nothing on the hot path
/// allocates, so the system's allocator serves us well otherwise.
fn return_large_buffers() {
    #[cfg(target_env = "gnu")]
    {
        const LARGE: libc::c_int = 128 * 1024;
        #[expect(unsafe_code, reason = "the C library offers this setting only so")]
        // SAFETY: mallopt takes two integers and touches no memory of ours. It must not run while another thread
        // allocates; this is the first thing the only thread does. Failure is harmless: the default stays.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        }
    }
}

#[expect(clippy::print_stderr, reason = "the log is not running yet, and its reader may not be who typed this")]
fn usage(error: &clap::Error, hint: Option<String>) -> ExitCode {
    // Help and version are no failures.
    let code = if error.use_stderr() { USAGE } else { 0 };
    let printed = error.print();
    if let Some(hint) = hint {
        eprintln!("{hint}");
    }
    printed.map_or(ExitCode::FAILURE, |()| ExitCode::from(code))
}

#[expect(clippy::print_stderr, reason = "the log is not running yet, and its reader may not be who typed this")]
fn checked<T>(resolved: Result<T, config::Error>) -> Result<T, ExitCode> {
    resolved.map_err(|error| {
        eprintln!("outrigger: {error}");
        ExitCode::from(USAGE)
    })
}

#[expect(clippy::print_stderr, reason = "the log is not running yet, and its reader may not be who typed this")]
fn serve(config: &Config) -> ExitCode {
    let what = match config.what_to_log() {
        Ok(what) => what,
        Err(error) => {
            eprintln!("outrigger: {error}");
            return ExitCode::FAILURE;
        }
    };
    let log = match start_log(config.log_format, &what, &config.log_setting()) {
        Ok(log) => log,
        Err(code) => return code,
    };
    ended(app::run(config, log))
}

fn review(config: &WebhookConfig) -> ExitCode {
    let log = start_log(config.log_format, &config.log, &WebhookConfig::log_setting());
    log.map_or_else(|code| code, |_log| ended(webhook::run(config)))
}

#[expect(clippy::print_stderr, reason = "the log is not running yet, and its reader may not be who typed this")]
fn start_log(format: log::Format, what: &str, setting: &str) -> Result<Log, ExitCode> {
    log::start(format, what).map_err(|error| {
        eprintln!("outrigger: {setting}: {error}");
        ExitCode::from(USAGE)
    })
}

fn ended(ended: Result<u8, impl Display>) -> ExitCode {
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            tracing::error!(%error, "outrigger cannot run");
            ExitCode::FAILURE
        }
    }
}
