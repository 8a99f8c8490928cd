//! The STUN and TURN servers of `[ice] servers`, with what opens them.
//!
//! Reads the files that hold credentials; whether a server answers is not known here.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use wice_core::server::{Credential, IceServer, InvalidServer, ServerKind, ServerUrl};
use zeroize::Zeroizing;

use super::file::{Server, ServerTable};
use super::{ConfigError, read};

const KEY: &str = "[ice] servers";

/// A user name is shorter than 509 bytes (RFC 8489 §14.3).
const LONGEST_USERNAME: usize = 508;

/// A server of the list. What does not keep it from being used is said in `warnings`.
pub(super) fn ice_server(
    server: Server,
    warnings: &mut Vec<String>,
) -> Result<IceServer, ConfigError> {
    let table = match server {
        Server::Uri(url) => ServerTable {
            url,
            username: None,
            credential_file: None,
        },
        Server::Table(table) => table,
    };
    let problem = |problem: String| ConfigError::Value {
        key: KEY,
        value: table.url.clone(),
        problem,
    };
    let url: ServerUrl = table
        .url
        .parse()
        .map_err(|error: InvalidServer| problem(error.to_string()))?;
    let (username, file) = match (table.username, table.credential_file) {
        (Some(username), Some(file)) => (username, file),
        (None, None) => {
            if matches!(url.kind, ServerKind::Turn(_)) {
                warnings.push(format!(
                    "{KEY}: {url} has no username and credential-file: it is used without, and most TURN servers refuse that"
                ));
            }
            return Ok(IceServer {
                url,
                username: String::new(),
                credential: None,
            });
        }
        (Some(_), None) => {
            return Err(problem("username goes with a credential-file".into()));
        }
        (None, Some(_)) => {
            return Err(problem("credential-file goes with a username".into()));
        }
    };
    if url.kind == ServerKind::Stun {
        return Err(problem(
            "a STUN server asks for no credentials; did you mean turn: or turns:?".into(),
        ));
    }
    if username.is_empty() || username.len() > LONGEST_USERNAME {
        return Err(problem(format!(
            "username must have 1 to {LONGEST_USERNAME} bytes"
        )));
    }
    let path = located(&file).ok_or_else(|| {
        problem(format!(
            "credential-file = {:?} names a systemd credential, and the agent was given none (LoadCredential=); else write a path",
            file.display()
        ))
    })?;
    Ok(IceServer {
        url,
        username,
        credential: Some(credential(&path, warnings)?),
    })
}

/// Where the file is: a name without a slash is one of systemd's credentials (systemd.exec(5)).
fn located(file: &Path) -> Option<PathBuf> {
    if file.components().count() != 1 || file.is_absolute() {
        return Some(file.to_owned());
    }
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY")?;
    Some(Path::new(&directory).join(file))
}

fn credential(path: &Path, warnings: &mut Vec<String>) -> Result<Credential, ConfigError> {
    let text = Zeroizing::new(read(path)?);
    let credential = text.trim();
    if credential.is_empty() || credential.contains(char::is_control) {
        return Err(ConfigError::Value {
            key: "[ice] servers: credential-file",
            value: path.display().to_string(),
            problem: "expected one line with the password".into(),
        });
    }
    let mode = std::fs::metadata(path).map(|file| file.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o004 != 0) {
        warnings.push(format!(
            "{KEY}: every user of this machine can read {}: chmod 600 it, and replace the password that is in it",
            path.display()
        ));
    }
    Ok(Credential::new(credential.to_owned()))
}
