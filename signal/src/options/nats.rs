//! Where NATS is, and how a server makes itself known there.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use async_nats::ServerAddr;
use zeroize::Zeroizing;

use crate::token::{InvalidToken, Token};

/// Mailboxes in a key-value bucket of NATS JetStream.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// The servers of one NATS cluster; any of them will do.
    pub servers: NatsServers,
    /// The bucket; it is made where there is none.
    pub bucket: BucketName,
    /// On how many NATS servers the bucket is kept.
    pub replicas: usize,
    /// What NATS asks for.
    pub auth: NatsAuth,
    /// Certificates in PEM that NATS's own is checked with, beside the system's.
    pub authority: Option<PathBuf>,
}

/// How a server makes itself known to NATS.
#[derive(Debug, Clone, Default)]
pub enum NatsAuth {
    /// Not at all.
    #[default]
    None,
    /// With a token.
    Token(Token),
    /// With name and password.
    User(NatsUser),
    /// With a file of credentials (JWT and seed), read at each connection's start.
    Credentials(PathBuf),
}

/// Text on the command line that names no store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStore {
    /// A password or token would be seen by every user of the machine.
    #[error(
        "the URL carries a password or a token, which every user of this machine can read in a command line: leave it \
         out, and use --store-user-file, --store-token-file or --store-credentials"
    )]
    Secret,
    /// It is no address.
    #[error(
        "not an address of NATS: use nats://HOST:PORT or tls://HOST:PORT, several with commas between"
    )]
    Address,
    /// It is no bucket.
    #[error("a bucket's name is made of letters, digits, - and _")]
    Bucket,
}

/// Addresses of the servers of one NATS cluster.
#[derive(Debug, Clone)]
pub struct NatsServers(Vec<ServerAddr>);

impl NatsServers {
    /// All of them.
    pub(crate) fn addresses(&self) -> Vec<ServerAddr> {
        self.0.clone()
    }
}

impl FromStr for NatsServers {
    type Err = InvalidStore;

    fn from_str(text: &str) -> Result<Self, InvalidStore> {
        let mut scheme = "nats";
        let mut servers = Vec::new();
        for part in text.split(',') {
            // The first one's scheme goes for those that say none.
            let url = match part.split_once("://") {
                Some((named @ ("nats" | "tls"), _)) => {
                    scheme = if named == "tls" { "tls" } else { "nats" };
                    part.to_owned()
                }
                Some(_) => return Err(InvalidStore::Address),
                None if servers.is_empty() => return Err(InvalidStore::Address),
                None => format!("{scheme}://{part}"),
            };
            let server: ServerAddr = url.parse().map_err(|_| InvalidStore::Address)?;
            if url.contains('@') {
                return Err(InvalidStore::Secret);
            }
            if server.host().is_empty() {
                return Err(InvalidStore::Address);
            }
            servers.push(server);
        }
        Ok(Self(servers))
    }
}

/// The name of a key-value bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketName(String);

impl BucketName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for BucketName {
    fn default() -> Self {
        Self("wice".to_owned())
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BucketName {
    type Err = InvalidStore;

    fn from_str(text: &str) -> Result<Self, InvalidStore> {
        let fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if text.is_empty() || !text.bytes().all(fit) {
            return Err(InvalidStore::Bucket);
        }
        Ok(Self(text.to_owned()))
    }
}

/// A user's name and password, wiped from memory when dropped.
#[derive(Clone)]
pub struct NatsUser(Zeroizing<String>);

impl NatsUser {
    /// Reads both from a file of one line, `NAME:PASSWORD`.
    pub fn read(path: &Path) -> Result<Self, StoreFileError> {
        let text = read(path)?;
        let line = text.trim();
        match line.split_once(':') {
            Some((name, password)) if !name.is_empty() && !password.is_empty() => {
                Ok(Self(Zeroizing::new(line.to_owned())))
            }
            _ => Err(StoreFileError::User {
                path: path.to_owned(),
            }),
        }
    }

    pub(crate) fn expose(&self) -> (&str, &str) {
        self.0.split_once(':').unwrap_or((&self.0, ""))
    }
}

impl fmt::Debug for NatsUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NatsUser(…)")
    }
}

impl NatsAuth {
    /// Reads a token for NATS from a file that holds nothing else.
    pub fn token(path: &Path) -> Result<Self, StoreFileError> {
        let token = Token::new(&read(path)?).map_err(|source| StoreFileError::Token {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::Token(token))
    }
}

/// A file that does not tell how to make oneself known to NATS.
#[derive(Debug, thiserror::Error)]
pub enum StoreFileError {
    /// The file cannot be read.
    #[error(
        "cannot read {} for NATS: {source}; check that it exists and that this user may read it",
        path.display()
    )]
    Read {
        /// What was read.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// The file holds no name and password.
    #[error("{} holds no user of NATS: write one line, NAME:PASSWORD", path.display())]
    User {
        /// What was read.
        path: PathBuf,
    },
    /// The file holds no token.
    #[error("{} holds no token of NATS: {source}", path.display())]
    Token {
        /// What was read.
        path: PathBuf,
        /// What is wrong with it.
        source: InvalidToken,
    },
}

fn read(path: &Path) -> Result<Zeroizing<String>, StoreFileError> {
    let text = fs::read_to_string(path).map(Zeroizing::new);
    text.map_err(|source| StoreFileError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_servers_needs_its_scheme_once() {
        let servers: NatsServers = "tls://one:4222,two,nats://[::1]:7".parse().unwrap();
        let written: Vec<_> = servers.0.iter().map(|it| it.as_url_str()).collect();
        assert_eq!(written, ["tls://one:4222", "tls://two", "nats://[::1]:7"]);
    }

    #[test]
    fn a_password_in_the_command_line_is_refused_without_repeating_it() {
        for text in ["nats://u:hunter2@host", "nats://host,tls://hunter2@b"] {
            let error = text.parse::<NatsServers>().unwrap_err();
            assert_eq!(error, InvalidStore::Secret);
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "host:4222", "http://host", "nats://", "nats://a,,b"] {
            let error = text.parse::<NatsServers>().unwrap_err();
            assert_eq!(error, InvalidStore::Address, "{text:?}");
        }
    }
}
