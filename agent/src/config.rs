//! Reads the configuration: one file, then the files of its drop-in directory in the order of their names.
//!
//! Says what is wrong in terms of files and keys; decides nothing about peers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use glob::Pattern;
use url::Url;
use wice_core::key::PublicKey;
use wice_core::server::IceServer;
use wice_core::settings::{CandidateKinds, InterfaceRule, PeerRule, Policy, Settings};
use zeroize::Zeroizing;

#[cfg(feature = "kubernetes")]
use crate::signaling;
use crate::signaling::Token;

mod error;
mod file;
mod servers;

pub(crate) use error::ConfigError;
use file::ConfigFile;
use servers::ice_server;

/// The file that is read when none is named.
pub(crate) const DEFAULT_PATH: &str = "/etc/wice/wice.toml";

/// Schemes of backends that this build speaks.
const SCHEMES: &[&str] = &[
    #[cfg(feature = "http")]
    "http",
    #[cfg(feature = "http")]
    "https",
    #[cfg(feature = "kubernetes")]
    "k8s",
    #[cfg(feature = "websocket")]
    "ws",
    #[cfg(feature = "websocket")]
    "wss",
];

/// A valid configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    /// URLs of the signalling backends.
    pub(crate) backends: Vec<Url>,
    /// The bearer token for those that ask for one.
    pub(crate) token: Option<Token>,
    /// STUN and TURN servers.
    pub(crate) servers: Vec<IceServer>,
    /// What the core decides by.
    pub(crate) settings: Settings,
    /// Where Prometheus reads how the agent fares; nowhere unless it is said.
    pub(crate) metrics: Option<SocketAddr>,
    /// What was understood but has no effect in this version.
    pub(crate) warnings: Vec<String>,
}

/// Links that lead to containers and virtual machines of this host, not to peers.
const EXCLUDED: [&str; 3] = ["docker*", "virbr*", "veth*"];

impl Config {
    /// Reads `path` (default [`DEFAULT_PATH`], which may be missing) and `path.d/*.toml`.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let main = path.unwrap_or(Path::new(DEFAULT_PATH));
        let mut merged = ConfigFile::default();
        match read(main) {
            Ok(text) => merged = file::parse(main, &text)?,
            Err(ConfigError::Read { source, .. })
                if path.is_none() && source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        for drop_in in drop_ins(main)? {
            merged.merge(file::parse(&drop_in, &read(&drop_in)?)?);
        }
        Self::from_file(merged)
    }

    fn from_file(file: ConfigFile) -> Result<Self, ConfigError> {
        let mut warnings = Vec::new();
        let signaling = file.signaling.unwrap_or_default();
        let ice = file.ice.unwrap_or_default();
        let backends = signaling
            .backends
            .unwrap_or_default()
            .iter()
            .map(|text| backend(text))
            .collect::<Result<_, _>>()?;
        let mut servers = Vec::new();
        for server in ice.servers.unwrap_or_default() {
            servers.push(ice_server(server, &mut warnings)?);
        }
        let metrics = file.metrics.and_then(|metrics| metrics.listen);
        if metrics.is_some() && !cfg!(feature = "metrics") {
            warnings.push("[metrics] listen is ignored: this build serves no metrics".into());
        }
        let excluded = match ice.exclude_interfaces {
            Some(patterns) => patterns,
            None => EXCLUDED.map(str::to_owned).to_vec(),
        };
        let settings = Settings {
            interfaces: file
                .interface
                .0
                .into_iter()
                .map(|(glob, rule)| {
                    let rule = InterfaceRule {
                        manage: rule.manage,
                    };
                    Ok((pattern("[interface]", &glob)?, rule))
                })
                .collect::<Result<_, ConfigError>>()?,
            peers: peers(file.peer)?,
            candidates: candidates(ice.candidates)?,
            exclude_interfaces: excluded
                .iter()
                .map(|glob| pattern("[ice] exclude-interfaces", glob))
                .collect::<Result<_, _>>()?,
            policy: policy(ice.policy.as_deref())?,
            allow_loopback: ice.allow_loopback.unwrap_or(false),
        };
        Ok(Self {
            backends,
            token: token(signaling.token_file.as_deref())?,
            servers,
            settings,
            metrics,
            warnings,
        })
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

fn drop_ins(main: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let mut directory = main.as_os_str().to_owned();
    directory.push(".d");
    let directory = PathBuf::from(directory);
    let failed = |source| ConfigError::Read {
        path: directory.clone(),
        source,
    };
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn backend(text: &str) -> Result<Url, ConfigError> {
    let problem = |problem: String| ConfigError::Value {
        key: "[signaling] backends",
        value: redact(text),
        problem,
    };
    let url = Url::parse(text).map_err(|error| problem(format!("not a URL: {error}")))?;
    if !SCHEMES.contains(&url.scheme()) {
        return Err(problem(format!(
            "no backend speaks {:?}; this build knows {}",
            url.scheme(),
            SCHEMES.join(", ")
        )));
    }
    #[cfg(feature = "kubernetes")]
    if url.scheme() == "k8s" {
        return match signaling::check_place(&url) {
            Ok(()) => Ok(url),
            Err(wrong) => Err(problem(wrong)),
        };
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(problem(
            "a user name or password would show wherever the URL shows; put a token into token-file".into(),
        ));
    }
    if url.host().is_none() {
        return Err(problem("the URL names no host".into()));
    }
    Ok(url)
}

/// A URL may carry a password by mistake; it is not repeated.
fn redact(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}…{}", &text[..scheme + 3], &text[at..])
        }
        _ => text.to_owned(),
    }
}

fn pattern(key: &'static str, glob: &str) -> Result<Pattern, ConfigError> {
    Pattern::new(glob).map_err(|error| ConfigError::Value {
        key,
        value: glob.to_owned(),
        problem: format!("not a pattern: {error}"),
    })
}

fn peers(
    tables: BTreeMap<String, file::Peer>,
) -> Result<BTreeMap<PublicKey, PeerRule>, ConfigError> {
    let rule = |(key, table): (String, file::Peer)| {
        let parsed =
            key.parse()
                .map_err(|error: wice_core::key::InvalidKey| ConfigError::Value {
                    key: "[peer]",
                    value: key,
                    problem: error.to_string(),
                })?;
        let rule = PeerRule {
            name: table.name,
            manage: table.manage,
        };
        Ok((parsed, rule))
    };
    tables.into_iter().map(rule).collect()
}

fn candidates(kinds: Option<Vec<String>>) -> Result<CandidateKinds, ConfigError> {
    let Some(kinds) = kinds else {
        return Ok(Settings::default().candidates);
    };
    for kind in &kinds {
        if !matches!(kind.as_str(), "host" | "srflx" | "relay" | "tcp") {
            return Err(ConfigError::Value {
                key: "[ice] candidates",
                value: kind.clone(),
                problem: "expected \"host\", \"srflx\", \"relay\" or \"tcp\"".into(),
            });
        }
    }
    Ok(CandidateKinds {
        host: kinds.iter().any(|kind| kind == "host"),
        server_reflexive: kinds.iter().any(|kind| kind == "srflx"),
        relay: kinds.iter().any(|kind| kind == "relay"),
        tcp: kinds.iter().any(|kind| kind == "tcp"),
    })
}

fn policy(policy: Option<&str>) -> Result<Policy, ConfigError> {
    match policy {
        None | Some("all") => Ok(Policy::All),
        Some("direct") => Ok(Policy::Direct),
        Some("relay") => Ok(Policy::Relay),
        Some(other) => Err(ConfigError::Value {
            key: "[ice] policy",
            value: other.to_owned(),
            problem: "expected \"all\", \"direct\" or \"relay\"".into(),
        }),
    }
}

/// The token of the file, else of the systemd credential `signaling-token` (systemd.exec(5)).
fn token(path: Option<&Path>) -> Result<Option<Token>, ConfigError> {
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY")
        .map(|directory| Path::new(&directory).join("signaling-token"))
        .filter(|path| path.exists());
    let Some(path) = path.map(Path::to_owned).or(credential) else {
        return Ok(None);
    };
    let text = Zeroizing::new(read(&path)?);
    let token = text.trim();
    let printable = token.bytes().all(|byte| byte.is_ascii_graphic());
    if token.is_empty() || !printable {
        return Err(ConfigError::Value {
            key: "[signaling] token-file",
            value: path.display().to_string(),
            problem: "expected one line of printable ASCII".into(),
        });
    }
    Ok(Some(Token::new(token)))
}

#[cfg(test)]
mod tests;
