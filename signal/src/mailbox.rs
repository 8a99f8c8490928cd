//! Names of mailboxes and what lies in them.
//!
//! A name is a capability (protocol §1): whoever knows it may read and write. It is never printed in full.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// The name of one mailbox: 20 bytes, on the wire 40 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mailbox([u8; 20]);

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mailbox({}…)", hex::encode(&self.0[..3]))
    }
}

impl Mailbox {
    /// Writes the whole name, for the one client that asked with it.
    pub(crate) fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

impl FromStr for Mailbox {
    type Err = InvalidMailbox;

    fn from_str(text: &str) -> Result<Self, InvalidMailbox> {
        let mut bytes = [0; 20];
        let upper_case = text.bytes().any(|byte| byte.is_ascii_uppercase());
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) if !upper_case => Ok(Self(bytes)),
            _ => Err(InvalidMailbox),
        }
    }
}

/// Text that names no mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a mailbox is named by 40 lower-case hex digits")]
pub(crate) struct InvalidMailbox;

/// The version of a mailbox's content: half of its SHA-256, so that equal content has an equal tag and a
/// tag outlives a restart of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ETag([u8; 16]);

impl ETag {
    /// Reads a tag from a header or a poll: quoted, weak (RFC 9110 §8.8.3) or bare. `None` for text that is no
    /// tag of this server, which then differs from every content.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// The form of the `ETag` header.
    pub(crate) fn quoted(self) -> String {
        format!("\"{self}\"")
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A sealed message, opaque to this server, with its tag.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// Tag of `text`.
    pub(crate) etag: ETag,
    /// The message as it was written.
    pub(crate) text: Arc<str>,
}

impl Message {
    /// Takes the text in and computes its tag.
    pub(crate) fn new(text: &str) -> Self {
        let digest = Sha256::digest(text.as_bytes());
        let mut tag = [0; 16];
        tag.copy_from_slice(&digest[..16]);
        Self {
            etag: ETag(tag),
            text: text.into(),
        }
    }
}
