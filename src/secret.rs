//! A secret that may be replaced while it is in use, and is never printed.
//!
//! One that comes from a file is read again when the file changes; what was read last goes on to be used if the file cannot
//! be read, or is empty: a mistake in a secret that is being replaced must not take the service down. The one before is
//! kept, since those who know it and those who are told do not change it in the same moment.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::{ExposeSecret, SecretString};

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
}

#[derive(Default)]
struct Versions {
    current: SecretString,
    previous: Option<SecretString>,
}

impl Secret {
    /// One that never changes.
    #[must_use]
    pub fn fixed(secret: SecretString) -> Self {
        Self(Arc::new(Inner { source: None, versions: Mutex::new(Versions { current: secret, previous: None }) }))
    }

    /// The first line of a file, not read yet; `setting` names it in errors.
    #[must_use]
    pub fn of_file(setting: String, file: PathBuf) -> Self {
        Self(Arc::new(Inner { source: Some(Source { setting, file }), versions: Mutex::default() }))
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

    /// Reads the file; true if it holds another secret than before.
    ///
    /// # Errors
    /// Why it cannot be read, and how to mend that. The secret stays as it was.
    pub fn read(&self) -> Result<bool, String> {
        let Some(Source { setting, file }) = &self.0.source else { return Ok(false) };
        let shown = file.display();
        let text = fs::read_to_string(file).map_err(|error| {
            format!("{setting}: cannot read `{shown}`: {error}; name a file that this user can read")
        })?;
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.is_empty() {
            return Err(format!("{setting}: `{shown}` is empty: write the secret into it"));
        }
        let versions = &mut *self.versions();
        let before = versions.current.expose_secret();
        if before == secret {
            return Ok(false);
        }
        let previous = std::mem::replace(&mut versions.current, secret.into());
        versions.previous = Some(previous).filter(|previous| !previous.expose_secret().is_empty());
        Ok(true)
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
        assert_eq!(secret.read(), Ok(false));
        write("two");
        assert_eq!(secret.clone().read(), Ok(true));
        assert_eq!(shown(&secret), ("two".to_owned(), Some("one".to_owned())));
        write("\n");
        assert!(secret.read().is_err_and(|complaint| complaint.contains("is empty")));
        fs::remove_file(&file).expect("it is there");
        assert!(secret.read().is_err());
        assert_eq!(shown(&secret), ("two".to_owned(), Some("one".to_owned())));
        assert!(!format!("{secret:?}").contains("two"));
    }

    #[test]
    fn one_without_a_file_never_changes() {
        let secret = Secret::fixed("fixed".into());
        assert_eq!(secret.read(), Ok(false));
        assert_eq!(shown(&secret), ("fixed".to_owned(), None));
    }
}
