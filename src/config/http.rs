//! The HTTP port: where it is, and who may do what there.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;

use super::{Error, duration, setting, wrong};
use crate::admin;
use crate::admin::caller::reachable;
use crate::secret::Secret;

/// Where the HTTP port is: the same for who opens it and for who asks there.
#[derive(Debug, clap::Args)]
pub struct HttpAddress {
    /// Address of the HTTP port, for probes, metrics and the status page: IP:PORT, or off.
    #[arg(id = "http", long = "http", env = "OUTRIGGER_HTTP", value_name = "ADDR", default_value = "127.0.0.1:9379")]
    pub text: String,
}

/// The HTTP port of a proxy.
#[derive(Debug, clap::Args)]
pub struct Http {
    /// Where it is.
    #[command(flatten)]
    pub address: HttpAddress,

    /// File that holds the token for the HTTP port's details and switches; without one, they are not there. It is read again
    /// when it changes.
    #[arg(long, env = "OUTRIGGER_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,

    /// Let whoever is on this machine end the proxy by POST /quitquitquit, without the token.
    #[arg(long, env = "OUTRIGGER_QUITQUITQUIT", value_parser = BoolishValueParser::new())]
    pub quitquitquit: bool,

    /// Have /readyz fail while Redis does not answer: an outage then takes the pod out of its service.
    #[arg(long, env = "OUTRIGGER_READY_REQUIRES_UPSTREAM", value_parser = BoolishValueParser::new())]
    pub ready_requires_upstream: bool,

    /// Have /startupz fail until Redis was reached once: the application then does not start in an outage.
    #[arg(long, env = "OUTRIGGER_STARTUP_REQUIRES_UPSTREAM", value_parser = BoolishValueParser::new())]
    pub startup_requires_upstream: bool,
}

/// How `outrigger wait` waits.
#[derive(Debug, clap::Args)]
pub struct Wait {
    /// Where the other is.
    #[command(flatten)]
    pub address: HttpAddress,

    /// How long at most: 500ms, 30s, 2m.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
}

/// What `outrigger healthcheck` asks.
#[derive(Debug, clap::Args)]
pub struct Healthcheck {
    /// Where the other is.
    #[command(flatten)]
    pub address: HttpAddress,

    /// Ask whether it is ready, instead of whether Redis answers.
    #[arg(long, conflicts_with = "live")]
    pub ready: bool,

    /// Ask whether it is alive, instead of whether Redis answers.
    #[arg(long)]
    pub live: bool,
}

impl HttpAddress {
    /// The address; none if the port is switched off.
    fn resolve(&self) -> Result<Option<SocketAddr>, Error> {
        if self.text.eq_ignore_ascii_case("off") {
            return Ok(None);
        }
        let problem = |_| {
            wrong("http", format!("`{}` is neither IP:PORT, such as 127.0.0.1:9379 or [::]:9379, nor off", self.text))
        };
        self.text.parse().map(Some).map_err(problem)
    }

    /// Where to ask a proxy that was given this address.
    ///
    /// # Errors
    /// It is no address, or none to ask at.
    pub fn peer(&self) -> Result<SocketAddr, Error> {
        let address = self.resolve()?.ok_or_else(|| wrong("http", "it is off, so there is nobody to ask"))?;
        Ok(reachable(address))
    }
}

impl Http {
    /// Settings of the HTTP port; none if it is switched off.
    pub(super) fn resolve(&self) -> Result<Option<admin::Config>, Error> {
        let config = |address| admin::Config {
            address,
            token: self.admin_token_file.clone().map(|file| Secret::token_of_file(setting("admin-token-file"), file)),
            quitquitquit: self.quitquitquit,
            ready_requires_upstream: self.ready_requires_upstream,
            startup_requires_upstream: self.startup_requires_upstream,
        };
        Ok(self.address.resolve()?.map(config))
    }
}
