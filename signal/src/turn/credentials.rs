//! Short-lived TURN credentials that need no table of users (TURN REST API).
//!
//! The user name says until when it holds, the password is derived from it by a secret: whoever knows the secret can hand
//! credentials out and check them.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use zeroize::Zeroizing;

/// What credentials are derived from, wiped from memory when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// Shorter secrets can be guessed from one pair of user name and password.
const SHORTEST: usize = 16;

impl Secret {
    /// Takes the secret from text, without the white space around it. Fails when it is too short.
    pub fn new(text: &str) -> Result<Self, InvalidSecret> {
        let text = text.trim();
        if text.len() < SHORTEST || text.contains(char::is_control) {
            return Err(InvalidSecret);
        }
        Ok(Self(Zeroizing::new(text.as_bytes().to_vec())))
    }

    /// Reads the secret from a file that holds nothing else.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let text = fs::read_to_string(path).map(Zeroizing::new);
        let text = text.map_err(|source| SecretError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::new(&text).map_err(|source| SecretError::Invalid {
            path: path.to_owned(),
            source,
        })
    }

    /// Makes one that nobody knows, for a server that shares it with no other.
    pub fn random() -> io::Result<Self> {
        let mut bytes = Zeroizing::new(vec![0; 32]);
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(Self(bytes))
    }

    fn password(&self, username: &str) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.mac(username.as_bytes())))
    }

    /// HMAC-SHA1 under this secret.
    pub(super) fn mac(&self, text: &[u8]) -> [u8; 20] {
        let mut mac = Hmac::<Sha1>::new_from_slice(&self.0).expect("a key of any length is taken");
        mac.update(text);
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Text that cannot be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a secret is one line of at least {SHORTEST} bytes")]
pub struct InvalidSecret;

/// A file that gives no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error(
        "cannot read the TURN secret from {}: {source}; check that it exists and that this user may read it",
        path.display()
    )]
    Read {
        /// What was read.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} holds no TURN secret: {source}", path.display())]
    Invalid {
        /// What was read.
        path: PathBuf,
        /// What is wrong with it.
        source: InvalidSecret,
    },
}

/// Hands credentials out, and tells the password that goes with a user name.
#[derive(Debug, Clone)]
pub(crate) struct Issuer {
    secret: Secret,
    ttl: Duration,
}

/// What a client is given.
pub(crate) struct Issued {
    /// `<end>:<user>`, the end in Unix seconds.
    pub(crate) username: String,
    /// The password.
    pub(crate) credential: Zeroizing<String>,
    /// How long they hold.
    pub(crate) ttl: Duration,
}

/// Who holds an allocation: the part of a user name that a renewal keeps.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct User(String);

/// Bytes of a user; longer ones are not ours.
const LONGEST_USER: usize = 64;

impl User {
    /// A user whom nobody else is.
    pub(crate) fn random() -> Self {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("the kernel has random bytes once it has booted");
        Self(hex::encode(bytes))
    }
}

impl Issuer {
    /// Issues credentials that hold for `ttl`.
    pub(crate) fn new(secret: Secret, ttl: Duration) -> Self {
        Self { secret, ttl }
    }

    /// How long credentials hold.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Credentials for a user; `now` in Unix seconds.
    pub(crate) fn issue(&self, user: &User, now: u64) -> Issued {
        let username = format!("{}:{}", now + self.ttl.as_secs(), user.0);
        Issued {
            credential: self.secret.password(&username),
            ttl: self.ttl,
            username,
        }
    }

    /// The user and the password of a user name that still holds. Whether the client knows the password is not known yet.
    pub(super) fn open(&self, username: &str, now: u64) -> Option<(User, Zeroizing<String>)> {
        let (end, user) = username.split_once(':')?;
        let end: u64 = end.parse().ok()?;
        if end <= now || user.len() > LONGEST_USER {
            return None;
        }
        Some((User(user.to_owned()), self.secret.password(username)))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_what_other_servers_with_the_same_secret_derive() {
        // printf 1700000000:ann | openssl dgst -sha1 -hmac 0123456789abcdef -binary | base64
        let secret = Secret::new(" 0123456789abcdef\n").unwrap();
        assert_eq!(
            *secret.password("1700000000:ann"),
            "QdOgEOT2pYSZ9A8u47sWHH0ObZM="
        );
    }

    #[test]
    fn credentials_end() {
        let issuer = Issuer::new(Secret::random().unwrap(), Duration::from_secs(60));
        let user = User::random();
        let issued = issuer.issue(&user, 1_000);
        let (opened, password) = issuer.open(&issued.username, 1_059).unwrap();
        assert_eq!((opened, password), (user, issued.credential));
        assert!(issuer.open(&issued.username, 1_060).is_none());
        for other in ["", ":", "x:ann", "99999999999999999999999:ann", "1000"] {
            assert!(issuer.open(other, 0).is_none(), "{other}");
        }
    }

    #[test]
    fn a_short_secret_is_refused_and_none_is_printed() {
        assert_eq!(Secret::new("123456789012345").unwrap_err(), InvalidSecret);
        let secret = Secret::new("0123456789abcdef").unwrap();
        assert!(!format!("{secret:?}").contains("0123"));
    }
}
