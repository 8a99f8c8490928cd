//! The offer: one JSON object that carries the whole state of its sender's session (protocol §2), signed and sealed.
//!
//! Decides what is well-formed and genuine; what an offer means is the session's business.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::candidate::Candidate;
use crate::key::{PrivateKey, PublicKey};
use crate::mailbox::Sealed;
use crate::seal::{CannotOpen, PairSecrets};
use crate::sign::{sign_detached, verify_detached};

/// Largest integer that JSON carries exactly: 2^53 − 1.
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Most candidates in one offer (protocol §2).
pub const MAX_CANDIDATES: usize = 16;

/// Longest string in an offer, in bytes.
const MAX_STRING: usize = 256;

/// The state of a session as its sender tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The sender.
    pub from: PublicKey,
    /// The addressee.
    pub to: PublicKey,
    /// The sender's session id: 1 to 2^53 − 1.
    pub id: u64,
    /// The addressee's session that this one is paired with.
    pub rid: Option<u64>,
    /// Counts the changes of the content.
    pub epoch: u64,
    /// Highest epoch accepted of session `rid`.
    pub repoch: Option<u64>,
    /// Highest session id of the addressee accepted since the sender started.
    pub seen: u64,
    /// Asks for an answer even if there is no news.
    pub want_ack: bool,
    /// RFC 8445 §2.5.
    pub implementation: Implementation,
    /// What the sender takes.
    pub role: Role,
    /// All candidates so far.
    pub candidates: Vec<Candidate>,
    /// Gathering is finished.
    pub eoc: bool,
    /// ICE credentials of this session.
    pub credentials: Credentials,
}

/// RFC 8445 §2.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Implementation {
    /// Sends checks.
    Full,
    /// Only answers them.
    Lite,
}

/// The ICE role (RFC 8445 §6.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Nominates.
    Controlling,
    /// Follows.
    Controlled,
}

impl Role {
    /// The role of `own` towards `peer`: the smaller key controls (protocol §1).
    pub fn of(own: &PublicKey, peer: &PublicKey) -> Self {
        if own < peer {
            Self::Controlling
        } else {
            Self::Controlled
        }
    }

    /// The other side's role.
    pub const fn opposite(self) -> Self {
        match self {
            Self::Controlling => Self::Controlled,
            Self::Controlled => Self::Controlling,
        }
    }
}

/// ICE credentials of one session (RFC 8445 §5.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Username fragment.
    pub ufrag: String,
    /// Password.
    pub pwd: Password,
}

/// An ICE password; zeroized when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Password(String);

impl Password {
    /// Wraps a password.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// Borrows the password.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

/// The JSON object, without `signature`.
#[derive(Serialize, Deserialize)]
struct Wire {
    version: u64,
    #[serde(rename = "type")]
    kind: WireKind,
    from: PublicKey,
    to: PublicKey,
    id: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rid: Option<u64>,
    epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repoch: Option<u64>,
    seen: u64,
    want_ack: bool,
    #[serde(alias = "impelementation")]
    implementation: Implementation,
    role: Role,
    candidates: Vec<Value>,
    eoc: bool,
    ufrag: String,
    pwd: String,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WireKind {
    Offer,
    Answer,
}

impl Offer {
    /// Signs the offer with `key` and seals it for the peer; `z` is 64 bytes of fresh randomness.
    ///
    /// `None` only when it would be longer than a mailbox takes, which 16 candidates cannot reach.
    pub fn seal(&self, key: &PrivateKey, secrets: &PairSecrets, z: &[u8; 64]) -> Option<Sealed> {
        let Value::Object(mut object) = serde_json::to_value(self.to_wire()).ok()? else {
            return None;
        };
        let payload = canonical(&object)?;
        let signature = sign_detached(key, &payload, z);
        object.insert("signature".into(), signature.into());
        secrets.seal(&serde_json::to_string(&object).ok()?)
    }

    /// Opens and verifies what lay in the mailbox from `peer` to `own`.
    ///
    /// # Errors
    /// [`Rejection`] says which rule it breaks; nothing of it may then be used.
    pub fn open(
        sealed: &Sealed,
        own: &PublicKey,
        peer: &PublicKey,
        secrets: &PairSecrets,
        allow_loopback: bool,
    ) -> Result<Self, Rejection> {
        let text = secrets.open(sealed)?;
        let mut object: Map<String, Value> =
            serde_json::from_str(&text).map_err(|_| Rejection::NotJson)?;
        let signature = match object.shift_remove("signature") {
            Some(Value::String(signature)) => signature,
            _ => return Err(Rejection::Unsigned),
        };
        let payload = canonical(&object).ok_or(Rejection::NotJson)?;
        verify_detached(peer, &payload, &signature).map_err(|_| Rejection::BadSignature)?;
        if object.get("version").and_then(Value::as_u64) != Some(1) {
            return Err(Rejection::UnsupportedVersion);
        }
        let wire: Wire =
            serde_json::from_value(Value::Object(object)).map_err(|_| Rejection::BadField)?;
        Self::from_wire(wire, own, peer, allow_loopback)
    }

    fn to_wire(&self) -> Wire {
        Wire {
            version: 1,
            kind: match self.rid {
                Some(_) => WireKind::Answer,
                None => WireKind::Offer,
            },
            from: self.from,
            to: self.to,
            id: self.id,
            rid: self.rid,
            epoch: self.epoch,
            repoch: self.repoch,
            seen: self.seen,
            want_ack: self.want_ack,
            implementation: self.implementation,
            role: self.role,
            candidates: self
                .candidates
                .iter()
                .filter_map(|candidate| serde_json::to_value(candidate).ok())
                .collect(),
            eoc: self.eoc,
            ufrag: self.credentials.ufrag.clone(),
            pwd: self.credentials.pwd.expose().to_owned(),
        }
    }

    fn from_wire(
        wire: Wire,
        own: &PublicKey,
        peer: &PublicKey,
        allow_loopback: bool,
    ) -> Result<Self, Rejection> {
        if wire.from != *peer {
            return Err(Rejection::WrongSender);
        }
        if wire.to != *own {
            return Err(Rejection::WrongAddressee);
        }
        if wire.role != Role::of(peer, own) {
            return Err(Rejection::WrongRole);
        }
        let integers = [
            Some(wire.id),
            wire.rid,
            Some(wire.epoch),
            wire.repoch,
            Some(wire.seen),
        ];
        if integers
            .into_iter()
            .flatten()
            .any(|integer| integer > MAX_INTEGER)
            || wire.candidates.len() > MAX_CANDIDATES
            || wire.ufrag.len() > MAX_STRING
            || wire.pwd.len() > MAX_STRING
        {
            return Err(Rejection::OverLimit);
        }
        let ice_chars = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
        };
        // RFC 8839 §5.4: at least 4 and 22 characters of `ice-char`.
        if wire.id == 0
            || wire.rid == Some(0)
            || (wire.kind == WireKind::Answer) != wire.rid.is_some()
            || wire.ufrag.len() < 4
            || wire.pwd.len() < 22
            || !ice_chars(&wire.ufrag)
            || !ice_chars(&wire.pwd)
        {
            return Err(Rejection::BadField);
        }
        Ok(Self {
            from: wire.from,
            to: wire.to,
            id: wire.id,
            rid: wire.rid,
            epoch: wire.epoch,
            repoch: wire.repoch,
            seen: wire.seen,
            want_ack: wire.want_ack,
            implementation: wire.implementation,
            role: wire.role,
            candidates: wire
                .candidates
                .into_iter()
                .filter_map(|value| serde_json::from_value::<Candidate>(value).ok())
                .filter(|candidate| candidate.is_usable(allow_loopback))
                .collect(),
            eoc: wire.eoc,
            credentials: Credentials {
                ufrag: wire.ufrag,
                pwd: Password::new(wire.pwd),
            },
        })
    }
}

/// RFC 8785 form of an object.
fn canonical(object: &Map<String, Value>) -> Option<Vec<u8>> {
    serde_json_canonicalizer::to_vec(object).ok()
}

/// Why a message changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Rejection {
    /// Not a compact JWE of the only accepted form.
    #[error("it is not a compact JWE with dir and A256GCM")]
    NotSealed,
    /// Sealed with another key, or altered.
    #[error("it was sealed with another key, or altered")]
    CannotOpen,
    /// Not one JSON object.
    #[error("it is not a JSON object")]
    NotJson,
    /// No signature.
    #[error("it carries no signature")]
    Unsigned,
    /// The signature does not hold.
    #[error("its signature does not verify")]
    BadSignature,
    /// Another version of the protocol.
    #[error("it speaks another version of the protocol; update the older agent")]
    UnsupportedVersion,
    /// A field is missing or has a value that it must not have.
    #[error("a field is missing or out of form")]
    BadField,
    /// A number, list or string is over a limit.
    #[error("a field is over its limit")]
    OverLimit,
    /// Signed by the peer, but in another's name.
    #[error("it names another sender")]
    WrongSender,
    /// For somebody else.
    #[error("it names another addressee")]
    WrongAddressee,
    /// The role contradicts the keys.
    #[error("its ICE role contradicts the keys")]
    WrongRole,
}

impl Rejection {
    /// Every one.
    pub const ALL: [Self; 11] = [
        Self::NotSealed,
        Self::CannotOpen,
        Self::NotJson,
        Self::Unsigned,
        Self::BadSignature,
        Self::UnsupportedVersion,
        Self::BadField,
        Self::OverLimit,
        Self::WrongSender,
        Self::WrongAddressee,
        Self::WrongRole,
    ];

    /// A word for statistics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::NotSealed => "not-sealed",
            Self::CannotOpen => "cannot-open",
            Self::NotJson => "not-json",
            Self::Unsigned => "unsigned",
            Self::BadSignature => "bad-signature",
            Self::UnsupportedVersion => "unsupported-version",
            Self::BadField => "bad-field",
            Self::OverLimit => "over-limit",
            Self::WrongSender => "wrong-sender",
            Self::WrongAddressee => "wrong-addressee",
            Self::WrongRole => "wrong-role",
        }
    }
}

impl From<CannotOpen> for Rejection {
    fn from(error: CannotOpen) -> Self {
        match error {
            CannotOpen::Form => Self::NotSealed,
            CannotOpen::Key => Self::CannotOpen,
        }
    }
}

#[cfg(test)]
mod tests;
