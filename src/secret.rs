//! A secret that may be replaced while it is in use, and is never printed.
//!
//! One that comes from a file is read again when the file changes; what was read last goes on to be used if the file cannot
//! be read, or is empty: a mistake in a secret that is being replaced must not take the service down. The one before is
//! kept, since those who know it and those who are told do not change it in the same moment.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

/// What reading them may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Reads all of these at once, from file systems that may not answer.
///
/// # Errors
/// The first that cannot be had, with the setting and the remedy.
pub async fn read_all(secrets: impl Iterator<Item = &Secret>) -> Result<(), String> {
    let deadline = Instant::now() + LIMIT;
    let begin = |secret: &Secret| {
        let secret = secret.clone();
        (secret.clone(), spawn_blocking(move || secret.read().map(drop)))
    };
    let reading: Vec<_> = secrets.map(begin).collect();
    for (secret, read) in reading {
        let read = timeout_at(deadline, read).await.map_err(|_| secret.unanswered())?;
        read.unwrap_or_else(|error| Err(format!("cannot read secrets: {error}")))?;
    }
    Ok(())
}

/// A secret; clones are the same one.
#[derive(Clone)]
pub struct Secret(Arc<Inner>);

struct Inner {
    source: Option<Source>,
    versions: Mutex<Versions>,
}

/// Where it is read.
struct Source {
    /// How the operator knows the setting that names the file.
    setting: String,
    file: PathBuf,
    /// It is a token, which comes in a header of HTTP: visible characters, without what surrounds them.
    is_token: bool,
}

#[derive(Default)]
struct Versions {
    current: SecretString,
    previous: Option<SecretString>,
    /// How often it was another one than before: 1 when it was first read.
    count: u64,
}

impl Secret {
    /// One that never changes.
    #[must_use]
    pub fn fixed(secret: SecretString) -> Self {
        Self(Arc::new(Inner {
            source: None,
            versions: Mutex::new(Versions { current: secret, ..Versions::default() }),
        }))
    }

    /// The text of a file without its final line ends, not read yet; `setting` names it in errors.
    #[must_use]
    pub fn of_file(setting: String, file: PathBuf) -> Self {
        Self::of(Source { setting, file, is_token: false })
    }

    /// The token in a file, not read yet: one line of visible ASCII characters.
    #[must_use]
    pub fn token_of_file(setting: String, file: PathBuf) -> Self {
        Self::of(Source { setting, file, is_token: true })
    }

    fn of(source: Source) -> Self {
        Self(Arc::new(Inner { source: Some(source), versions: Mutex::default() }))
    }

    /// How the operator knows it, if it comes from a file.
    #[must_use]
    pub fn setting(&self) -> Option<&str> {
        self.0.source.as_ref().map(|source| source.setting.as_str())
    }

    /// What is valid now.
    #[must_use]
    pub fn current(&self) -> SecretString {
        self.versions().current.clone()
    }

    /// What was valid before.
    #[must_use]
    pub fn previous(&self) -> Option<SecretString> {
        self.versions().previous.clone()
    }

    /// How often it was another one than before: 1 when it was first read, 0 if it comes from no file, or was not read yet.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.versions().count
    }

    /// Whether this is what is valid now, by a comparison that takes the same time for every wrong one of its length.
    /// Nothing is while the file was not read yet.
    #[must_use]
    pub fn is(&self, given: &[u8]) -> bool {
        let current = self.current();
        let current = current.expose_secret().as_bytes();
        !current.is_empty() && bool::from(current.ct_eq(given))
    }

    /// Reads the file; true if it holds another secret than before.
    ///
    /// # Errors
    /// Why it cannot be read, and how to mend that. The secret stays as it was.
    pub fn read(&self) -> Result<bool, String> {
        let Some(Source { setting, file, is_token }) = &self.0.source else { return Ok(false) };
        let shown = file.display();
        let text = fs::read_to_string(file).map_err(|error| {
            format!("{setting}: cannot read `{shown}`: {error}; name a file that this user can read")
        })?;
        let secret = if *is_token { text.trim() } else { text.trim_end_matches(['\r', '\n']) };
        if secret.is_empty() {
            return Err(format!("{setting}: `{shown}` is empty: write the secret into it"));
        }
        if *is_token && !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "{setting}: `{shown}` holds no token: write one line of visible ASCII characters into it, without spaces"
            ));
        }
        let versions = &mut *self.versions();
        let before = versions.current.expose_secret();
        if before == secret {
            return Ok(false);
        }
        let previous = std::mem::replace(&mut versions.current, secret.into());
        versions.count += 1;
        versions.previous = Some(previous).filter(|previous| !previous.expose_secret().is_empty());
        Ok(true)
    }

    /// What is wrong where the file could not be read in time.
    fn unanswered(&self) -> String {
        let Some(Source { setting, file, .. }) = &self.0.source else { return "a secret could not be had".to_owned() };
        format!(
            "{setting}: cannot read `{}`: no answer within {LIMIT:?}; name a regular file on a volume that is mounted",
            file.display()
        )
    }

    fn versions(&self) -> MutexGuard<'_, Versions> {
        // Nothing that runs under the lock can panic half-way, so a poisoned one still guards good data.
        self.0.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([REDACTED])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(secret: &Secret) -> (String, Option<String>) {
        let text = |secret: &SecretString| secret.expose_secret().to_owned();
        (text(&secret.current()), secret.previous().as_ref().map(text))
    }

    #[test]
    fn the_one_before_is_kept_and_mistakes_change_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("password");
        let secret = Secret::of_file("--password-file".to_owned(), file.clone());
        let complaint = secret.read().expect_err("there is no file");
        assert!(complaint.starts_with("--password-file: cannot read"), "{complaint}");
        let write = |text: &str| fs::write(&file, text).expect("it can be written");
        write("one\r\n");
        assert_eq!(secret.read(), Ok(true));
        assert_eq!(shown(&secret), ("one".to_owned(), None));
        assert_eq!((secret.read(), secret.count()), (Ok(false), 1));
        write("two");
        assert_eq!(secret.clone().read(), Ok(true));
        assert_eq!(shown(&secret), ("two".to_owned(), Some("one".to_owned())));
        write("\n");
        assert!(secret.read().is_err_and(|complaint| complaint.contains("is empty")));
        fs::remove_file(&file).expect("it is there");
        assert!(secret.read().is_err());
        assert_eq!(shown(&secret), ("two".to_owned(), Some("one".to_owned())));
        assert_eq!(secret.count(), 2);
        assert!(!format!("{secret:?}").contains("two"));
    }

    #[test]
    fn a_token_is_one_word() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let token = Secret::token_of_file("--admin-token-file".to_owned(), file.path().to_owned());
        let write = |text: &str| fs::write(file.path(), text).expect("it can be written");
        assert!(!token.is(b""), "nothing was read yet");
        for wrong in ["", " \n", "first\nsecond\n", "tök", "a b"] {
            write(wrong);
            assert!(token.read().is_err(), "{wrong:?}");
        }
        assert!(!token.is(b""));
        write(" first \r\n");
        assert_eq!(token.read(), Ok(true));
        for (given, right) in [("first", true), ("", false), ("firsT", false), ("first ", false), ("fir", false)] {
            assert_eq!(token.is(given.as_bytes()), right, "{given:?}");
        }
        write("second");
        assert_eq!(token.read(), Ok(true));
        assert!(token.is(b"second") && !token.is(b"first"));
    }

    #[test]
    fn one_without_a_file_never_changes() {
        let secret = Secret::fixed("fixed".into());
        assert_eq!(secret.read(), Ok(false));
        assert_eq!(shown(&secret), ("fixed".to_owned(), None));
    }
}
