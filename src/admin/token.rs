//! The operator's token: the first line of a file, read again when it may have changed. Never shown.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

/// The file is read again no more often. It is small, and only who gives a token makes us read it.
const READ_EVERY: Duration = Duration::from_secs(1);

/// The token and where it comes from.
pub(super) struct Token {
    file: PathBuf,
    latest: Mutex<Reading>,
}

struct Reading {
    at: Instant,
    token: SecretString,
    /// The file could not be read last time, which was logged.
    failed: bool,
}

impl Token {
    /// The token in `file`.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn read(file: &Path) -> io::Result<Self> {
        let reading = Reading { at: Instant::now(), token: first_line(file)?, failed: false };
        Ok(Self { file: file.to_owned(), latest: Mutex::new(reading) })
    }

    /// Whether what was given is the token, by a comparison that takes the same time for every wrong one of its length.
    pub(super) fn is(&self, given: &[u8], now: Instant) -> bool {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.renew(&self.file, now);
        bool::from(latest.token.expose_secret().as_bytes().ct_eq(given))
    }
}

impl Reading {
    /// Reads the file again, if that was not done just now. A file that cannot be read leaves the token as it was: while a
    /// secret is being replaced there may be none for a moment.
    fn renew(&mut self, file: &Path, now: Instant) {
        if now.saturating_duration_since(self.at) < READ_EVERY {
            return;
        }
        self.at = now;
        match first_line(file) {
            Ok(token) => {
                if token.expose_secret() != self.token.expose_secret() {
                    tracing::info!("the admin token has changed");
                }
                (self.token, self.failed) = (token, false);
            }
            Err(error) => {
                if !self.failed {
                    tracing::warn!(%error, file = %file.display(), "cannot read the admin token again: the last one holds");
                }
                self.failed = true;
            }
        }
    }
}

fn first_line(file: &Path) -> io::Result<SecretString> {
    let text = SecretString::from(fs::read_to_string(file)?);
    match text.expose_secret().lines().next().unwrap_or_default().trim() {
        "" => Err(io::Error::new(io::ErrorKind::InvalidData, "its first line is empty")),
        token => Ok(SecretString::from(token)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_the_first_line_and_follows_the_file() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), " first \nnot this\n").expect("it can be written");
        let token = Token::read(file.path()).expect("there is one");
        let mut now = Instant::now();
        let is = |given: &str, now| token.is(given.as_bytes(), now);
        assert!(is("first", now) && !is("not this", now) && !is("", now) && !is("firsT", now) && !is("first ", now));

        fs::write(file.path(), "second").expect("it can be written");
        assert!(is("first", now), "it was read just now");
        now += READ_EVERY;
        assert!(is("second", now) && !is("first", now));

        fs::remove_file(file.path()).expect("it can be removed");
        now += READ_EVERY;
        assert!(is("second", now), "the last one holds");
    }

    #[test]
    fn a_file_without_a_token_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), "\ntoken\n").expect("it can be written");
        assert!(Token::read(file.path()).is_err());
        assert!(Token::read(Path::new("/nonexistent")).is_err());
    }
}
