//! Long-term credentials (RFC 8489 §9.2): who we are, what the server last asked, and the signature over both.

use std::fmt;

use stun_types::attribute::{ErrorCode, Nonce, Realm, Username};
use stun_types::message::{
    IntegrityAlgorithm, IntegrityKey, LongTermKeyCredentials, Message, MessageWriteExt,
    MessageWriteVec,
};

use crate::server::Credential;

/// A name, a password, and the server's challenge.
pub(super) struct Auth {
    username: String,
    password: Credential,
    challenge: Option<Challenge>,
}

struct Challenge {
    realm: String,
    nonce: String,
    key: IntegrityKey,
}

impl Auth {
    pub(super) fn new(username: &str, password: Option<&Credential>) -> Self {
        Self {
            username: username.to_owned(),
            password: password.map_or_else(|| Credential::new(String::new()), Clone::clone),
            challenge: None,
        }
    }

    /// Takes realm and nonce of a refusal. Answers whether asking again may help: not after a refusal of what was asked with
    /// this very nonce.
    pub(super) fn challenge(&mut self, message: &Message<'_>, code: u16) -> bool {
        let Ok(nonce) = message.attribute::<Nonce>() else {
            return false;
        };
        let realm = match (message.attribute::<Realm>(), &self.challenge) {
            (Ok(realm), _) => realm.realm().to_owned(),
            (Err(_), Some(known)) => known.realm.clone(),
            (Err(_), None) => return false,
        };
        let known = self.challenge.as_ref();
        let same = known.is_some_and(|known| known.nonce == nonce.nonce() && known.realm == realm);
        // A server that refuses the signature may give a new nonce with every refusal.
        let signed = known.is_some_and(|known| known.realm == realm);
        if self.username.is_empty() || same || (code == ErrorCode::UNAUTHORIZED && signed) {
            return false;
        }
        let key = LongTermKeyCredentials::new(
            self.username.clone(),
            self.password.expose().to_owned(),
            realm.clone(),
        )
        .make_key(IntegrityAlgorithm::Sha1);
        self.challenge = Some(Challenge {
            realm,
            nonce: nonce.nonce().to_owned(),
            key,
        });
        true
    }

    /// Signs a request, where the server has asked for it; nothing when a name is too long for a message.
    pub(super) fn sign(&self, message: &mut MessageWriteVec) -> Option<()> {
        let Some(challenge) = &self.challenge else {
            return Some(());
        };
        message
            .add_attribute(&Username::new(&self.username).ok()?)
            .ok()?;
        message
            .add_attribute(&Realm::new(&challenge.realm).ok()?)
            .ok()?;
        message
            .add_attribute(&Nonce::new(&challenge.nonce).ok()?)
            .ok()?;
        message
            .add_message_integrity_with_key(&challenge.key, IntegrityAlgorithm::Sha1)
            .ok()
    }

    /// Says whether the server signed this, or asked for no signatures.
    pub(super) fn verifies(&self, message: &Message<'_>) -> bool {
        (self.challenge.as_ref())
            .is_none_or(|challenge| message.validate_integrity_with_key(&challenge.key).is_ok())
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let realm = self.challenge.as_ref().map(|known| &known.realm);
        f.debug_struct("Auth")
            .field("realm", &realm)
            .finish_non_exhaustive()
    }
}
