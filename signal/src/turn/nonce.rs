//! Nonces that the server need not remember (RFC 8489 §9.2): the time, and a code over it and the client's address.

use std::net::IpAddr;
use std::time::Duration;

use super::credentials::Secret;

/// How long a nonce holds. A client that refreshes an allocation every few minutes is told a new one in passing.
const LIFETIME: Duration = Duration::from_secs(1800);

/// Makes nonces and knows its own.
#[derive(Debug)]
pub(super) struct Nonces(Secret);

impl Nonces {
    /// Signs with a secret of this process: after a restart every nonce is stale.
    pub(super) fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// A nonce for a client; `now` in seconds of any clock that only goes forward.
    pub(super) fn make(&self, client: IpAddr, now: u64) -> String {
        format!("{now:010x}{}", self.code(client, now))
    }

    /// Whether the nonce was made for this client, not long ago.
    pub(super) fn holds(&self, nonce: &str, client: IpAddr, now: u64) -> bool {
        let Some((time, code)) = nonce.split_at_checked(10) else {
            return false;
        };
        let Ok(time) = u64::from_str_radix(time, 16) else {
            return false;
        };
        // A code is guessed against a server that answers, so that its timing tells nothing that counts.
        time <= now && now - time < LIFETIME.as_secs() && code == self.code(client, time)
    }

    fn code(&self, client: IpAddr, time: u64) -> String {
        let code = self.0.mac(format!("{time} {client}").as_bytes());
        hex::encode(&code[..10])
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_holds_for_one_address_and_for_a_time() {
        let nonces = Nonces::new(Secret::random().unwrap());
        let client = IpAddr::from([192, 0, 2, 1]);
        let nonce = nonces.make(client, 1_000);
        assert!(nonces.holds(&nonce, client, 1_000));
        assert!(nonces.holds(&nonce, client, 2_799));
        assert!(!nonces.holds(&nonce, client, 2_800));
        assert!(!nonces.holds(&nonce, client, 999));
        assert!(!nonces.holds(&nonce, IpAddr::from([192, 0, 2, 2]), 1_000));
        let restarted = Nonces::new(Secret::random().unwrap());
        assert!(!restarted.holds(&nonce, client, 1_000));
        for other in ["", "x", "0000000000", "zzzzzzzzzz0000", "öööööööööö"] {
            assert!(!nonces.holds(other, client, 1_000), "{other}");
        }
    }
}
