//! The flags of `outrigger webhook`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;

use super::lifecycle::perhaps_none;
use super::{Error, Logging, Sidecar, Stopping, duration, setting, wrong};
use crate::lifecycle::drain::Schedule;
use crate::observe::log::Format as LogFormat;

/// What an answer may take while the webhook stops: the API server waits no longer.
const ANSWER: Duration = Duration::from_secs(5);

/// How to serve as a webhook, and what to inject.
#[derive(Debug, clap::Args)]
pub struct Webhook {
    /// Address for the API server and for probes: IP:PORT. `[::]` is that of IPv4 too, and where there is no IPv6 that alone.
    #[arg(long, env = "OUTRIGGER_LISTEN", value_name = "ADDR", default_value = "[::]:8443")]
    pub listen: String,

    /// File that holds the certificate for HTTPS and those of its issuers, in PEM. Read again when it changes.
    #[arg(long, env = "OUTRIGGER_TLS_CERT_FILE", value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,

    /// File that holds the certificate's key, in PEM. Read again when it changes.
    #[arg(long, env = "OUTRIGGER_TLS_KEY_FILE", value_name = "FILE")]
    pub tls_key_file: Option<PathBuf>,

    /// Image of the sidecar, as nodes can pull it.
    #[arg(long, env = "OUTRIGGER_IMAGE", value_name = "IMAGE")]
    pub image: Option<String>,

    /// Inject only pods that say outrigger.dev/inject: "true", not all that have the variable.
    #[arg(long, env = "OUTRIGGER_OPT_IN", value_parser = BoolishValueParser::new())]
    pub opt_in: bool,

    /// What else the sidecar is like.
    #[command(flatten)]
    pub sidecar: Sidecar,

    /// After SIGTERM, go on answering for so long, since the API server goes on asking.
    #[arg(long, env = "OUTRIGGER_MIN_SIGTERM_DELAY", value_name = "TIME", default_value = "5s", value_parser = perhaps_none)]
    pub min_sigterm_delay: Duration,

    /// The process ends so long after SIGTERM at the latest. Less than the pod's grace period.
    #[arg(long, env = "OUTRIGGER_MAX_SIGTERM_DELAY", value_name = "TIME", default_value = "25s", value_parser = duration)]
    pub max_sigterm_delay: Duration,

    /// The log.
    #[command(flatten)]
    pub logging: Logging,
}

/// Everything the webhook needs to know, checked.
#[derive(Debug)]
pub struct WebhookConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The certificate's file, with how the operator knows it.
    pub certificate: (String, PathBuf),
    /// The same of its key.
    pub key: (String, PathBuf),
    /// The sidecar's image.
    pub image: String,
    /// Pods have to ask for it.
    pub opt_in: bool,
    /// What else the sidecar is like.
    pub sidecar: Sidecar,
    /// When each step of stopping begins.
    pub drain: Schedule,
    /// Form of the log.
    pub log_format: LogFormat,
    /// What to log.
    pub log: String,
}

impl WebhookConfig {
    /// How the operator knows the address.
    #[must_use]
    pub fn listen_setting() -> String {
        setting("listen")
    }

    /// How the operator knows what says what to log.
    #[must_use]
    pub fn log_setting() -> String {
        setting("log")
    }
}

impl Webhook {
    /// Makes sense of what was typed.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn resolve(&self) -> Result<WebhookConfig, Error> {
        let listen = self.listen.parse();
        let listen = listen.map_err(|_| {
            wrong("listen", format!("`{}` is not IP:PORT, such as [::]:8443 or 0.0.0.0:8443", self.listen))
        })?;
        let file = |flag, file: &Option<PathBuf>, what| {
            let missing = || wrong(flag, format!("missing: name the file of the {what}, in PEM"));
            file.clone().map(|file| (setting(flag), file)).ok_or_else(missing)
        };
        let image = self.image.as_deref().map(str::trim).filter(|image| !image.is_empty());
        // A guess would be an image that no node can pull, in every pod.
        let image = image.ok_or_else(|| {
            let example = concat!("registry.example/outrigger:", env!("CARGO_PKG_VERSION"));
            wrong("image", format!("missing: name the image as nodes can pull it, such as {example}"))
        })?;
        let (min_sigterm_delay, max_sigterm_delay) = (self.min_sigterm_delay, self.max_sigterm_delay);
        Ok(WebhookConfig {
            listen,
            certificate: file("tls-cert-file", &self.tls_cert_file, "certificate")?,
            key: file("tls-key-file", &self.tls_key_file, "certificate's key")?,
            image: image.to_owned(),
            opt_in: self.opt_in,
            sidecar: self.sidecar.clone(),
            drain: Stopping { min_sigterm_delay, max_sigterm_delay }.schedule(ANSWER)?,
            log_format: self.logging.format(),
            log: self.logging.log.clone(),
        })
    }
}
