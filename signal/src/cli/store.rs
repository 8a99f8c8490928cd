//! The flags that say where mailboxes are kept.

use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{TypedValueParser, ValueParserFactory};
use wice_signal::{
    BucketName, InvalidStore, NatsAuth, NatsOptions, NatsServers, NatsUser, StoreFileError,
};

use super::credential;

/// Where mailboxes are kept.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Memory,
    Nats(NatsServers),
}

impl FromStr for Place {
    type Err = InvalidStore;

    fn from_str(text: &str) -> Result<Self, InvalidStore> {
        match text {
            "memory" => Ok(Self::Memory),
            text => text.parse().map(Self::Nats),
        }
    }
}

/// Reads a place, and never repeats one in an error: it may carry a password.
#[derive(Debug, Clone)]
pub(super) struct PlaceParser;

impl ValueParserFactory for Place {
    type Parser = PlaceParser;

    fn value_parser() -> PlaceParser {
        PlaceParser
    }
}

impl TypedValueParser for PlaceParser {
    type Value = Place;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Place, clap::Error> {
        let text = value.to_str().ok_or(InvalidStore::Address);
        text.and_then(Place::from_str).map_err(|error| {
            let message = format!("invalid value for --store: {error}\n");
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, message).with_cmd(command)
        })
    }
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Store")]
pub(super) struct StoreFlags {
    /// Keep mailboxes here: `memory`, or nats://HOST:PORT[,HOST:PORT…] (tls:// with TLS) for a bucket of NATS JetStream
    /// that any number of servers share. The server starts without NATS too, and is ready (GET /readyz) when it is reached.
    #[arg(long, value_name = "WHERE", default_value = "memory")]
    store: Place,

    /// The bucket in NATS; it is made where there is none, and all servers of a fleet name the same.
    #[arg(long, value_name = "NAME", default_value_t)]
    store_bucket: BucketName,

    /// On how many NATS servers the bucket is kept: 3 in a cluster, which then may lose one of them.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    store_replicas: u8,

    /// Make yourself known to NATS with this file of credentials (JWT and seed) [default: the systemd credential
    /// store-credentials, if there is one].
    #[arg(long, value_name = "FILE", conflicts_with_all = ["store_user_file", "store_token_file"])]
    store_credentials: Option<PathBuf>,

    /// The same with the user in this file, one line NAME:PASSWORD [default: the systemd credential store-user].
    #[arg(long, value_name = "FILE", conflicts_with = "store_token_file")]
    store_user_file: Option<PathBuf>,

    /// The same with the token in this file [default: the systemd credential store-token].
    #[arg(long, value_name = "FILE")]
    store_token_file: Option<PathBuf>,

    /// Trust the certificates in this file (PEM), beside the system's, when NATS is reached with TLS [default: the systemd
    /// credential store-ca, if there is one].
    #[arg(long, value_name = "FILE")]
    store_ca: Option<PathBuf>,
}

impl StoreFlags {
    /// The store, with its secrets read; `None` for memory.
    pub(super) fn options(self) -> Result<Option<NatsOptions>, StoreFileError> {
        let Place::Nats(servers) = self.store else {
            return Ok(None);
        };
        Ok(Some(NatsOptions {
            servers,
            bucket: self.store_bucket,
            replicas: usize::from(self.store_replicas),
            auth: auth(
                self.store_credentials,
                self.store_user_file,
                self.store_token_file,
            )?,
            authority: self.store_ca.or_else(|| credential("store-ca")),
        }))
    }
}

/// What is on the command line goes before what the unit was given.
fn auth(
    credentials: Option<PathBuf>,
    user: Option<PathBuf>,
    token: Option<PathBuf>,
) -> Result<NatsAuth, StoreFileError> {
    let named = credentials.is_some() || user.is_some() || token.is_some();
    let unless_named = |name| if named { None } else { credential(name) };
    if let Some(file) = credentials.or_else(|| unless_named("store-credentials")) {
        return Ok(NatsAuth::Credentials(file));
    }
    if let Some(file) = user.or_else(|| unless_named("store-user")) {
        return NatsUser::read(&file).map(NatsAuth::User);
    }
    if let Some(file) = token.or_else(|| unless_named("store-token")) {
        return NatsAuth::token(&file);
    }
    Ok(NatsAuth::None)
}
