//! The certificate of HTTPS and its key, which are replaced while they are in use.
//!
//! A mounted secret of Kubernetes is replaced by another behind a symbolic link, of which no event tells; so the files are
//! read every few seconds, and at once upon SIGHUP. A pair that cannot be used leaves the one before in its place.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{Error, InconsistentKeys, ServerConfig};

/// The files are read this often.
const EVERY: Duration = Duration::from_secs(5);

/// How often it is tried to read two files that belong together while they are being replaced.
const TRIES: usize = 3;

/// The API server offers HTTP/2 too; one request at a time on each of its connections is all it needs.
const PROTOCOL: &[u8] = b"http/1.1";

/// A file, with how the operator knows it.
type Named = (String, PathBuf);

/// The two files.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) certificate: Named,
    pub(super) key: Named,
}

/// What they hold.
#[derive(PartialEq, Eq)]
struct Texts {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// What is shown to whoever connects.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    /// There is one for all names.
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// A certificate that is kept up to date.
pub(super) struct Certificate {
    pair: Pair,
    provider: Arc<CryptoProvider>,
    shown: Arc<Shown>,
    /// What was read last, of use or not.
    last: Option<Texts>,
    /// What was last complained of, so that it is said once.
    complaint: Option<String>,
}

impl Certificate {
    /// Reads the pair for the first time.
    ///
    /// # Errors
    /// Why it cannot be used, and how to mend that.
    pub(super) fn read(pair: Pair) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let texts = pair.read()?;
        let shown = Arc::new(Shown(RwLock::new(Arc::new(pair.understand(&texts, &provider)?))));
        Ok(Self { pair, provider, shown, last: Some(texts), complaint: None })
    }

    /// How TLS is spoken with it.
    ///
    /// # Errors
    /// None that is known of: the versions are those that the library has.
    pub(super) fn config(&self) -> Result<ServerConfig, Error> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider));
        let builder = builder.with_protocol_versions(&[&TLS13, &TLS12])?.with_no_client_auth();
        let mut config = builder.with_cert_resolver(Arc::<Shown>::clone(&self.shown));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(config)
    }

    /// Reads the pair every [`EVERY`], and when `asked`. Ends only if it cannot go on.
    pub(super) async fn watch(mut self, asked: Arc<Notify>) {
        loop {
            let told = timeout(EVERY, asked.notified()).await.is_ok();
            let read = spawn_blocking(move || {
                self.read_again(told);
                self
            });
            let Ok(certificate) = read.await else { return };
            self = certificate;
        }
    }

    /// Reads the pair once more. `told`: somebody waits to hear what came of it.
    fn read_again(&mut self, told: bool) {
        if told {
            (self.last, self.complaint) = (None, None);
        }
        let texts = self.pair.read();
        if texts.as_ref().ok().is_some_and(|texts| self.last.as_ref() == Some(texts)) {
            return;
        }
        let read = texts.and_then(|texts| {
            let understood = self.pair.understand(&texts, &self.provider);
            self.last = Some(texts);
            understood
        });
        match read {
            Ok(pair) => {
                self.complaint = None;
                let mut shown = self.shown.0.write().unwrap_or_else(PoisonError::into_inner);
                if shown.cert != pair.cert {
                    *shown = Arc::new(pair);
                    tracing::info!("another certificate was read: it is used from now on");
                }
                if told {
                    tracing::info!("read the files again");
                }
            }
            Err(problem) if self.complaint.as_ref() == Some(&problem) => {}
            Err(problem) => {
                tracing::warn!(problem, "what was read again is not used: all stays as it was");
                // A file that cannot be read now may be the same again later.
                self.complaint = Some(problem);
            }
        }
    }
}

impl Pair {
    /// Reads both, as they stand side by side: one may be replaced while the other is read.
    fn read(&self) -> Result<Texts, String> {
        let mut texts = self.read_once()?;
        for _ in 1..TRIES {
            let again = self.read_once()?;
            if again == texts {
                break;
            }
            texts = again;
        }
        Ok(texts)
    }

    fn read_once(&self) -> Result<Texts, String> {
        let read = |(setting, file): &Named| {
            fs::read(file).map_err(|error| {
                format!("{setting}: cannot read `{}`: {error}; name a file that this user can read", file.display())
            })
        };
        Ok(Texts { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }

    fn understand(&self, texts: &Texts, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
        let wrong = |(setting, file): &Named, problem: &str| format!("{setting}: `{}` {problem}", file.display());
        let certificates = CertificateDer::pem_slice_iter(&texts.certificate).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.ok().filter(|all| !all.is_empty()).ok_or_else(|| {
            wrong(&self.certificate, "holds no certificates in PEM: write the certificate into it, then its issuers")
        })?;
        let key = PrivateKeyDer::from_pem_slice(&texts.key).map_err(|_| {
            wrong(&self.key, "holds no private key in PEM: write one into it, in PKCS#8, PKCS#1 or SEC1, not encrypted")
        })?;
        CertifiedKey::from_der(certificates, key, provider).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                let problem =
                    format!("is not the key of the certificate in `{}`: name a pair", self.certificate.1.display());
                wrong(&self.key, &problem)
            }
            Error::InvalidCertificate(problem) => wrong(
                &self.certificate,
                &format!("holds a certificate that cannot be used ({problem:?}): make another"),
            ),
            error => wrong(&self.key, &format!("cannot be used ({error}): give an RSA, ECDSA or Ed25519 key")),
        })
    }
}
