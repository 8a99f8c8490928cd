//! An offer as the cluster keeps it: the type that the shipped CustomResourceDefinition is generated from.
//!
//! Knows names, labels and times, and nothing of what is sealed.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wice_core::mailbox::{Mailbox, Recipient, Sealed};

/// The label that names the reader of an offer (protocol §6).
pub(super) const RECIPIENT: &str = "wice.org/recipient";
/// The label with the hour in which an offer expires: what is over is found without reading what is not.
pub(super) const EXPIRES: &str = "wice.org/expires";

/// A sealed message from one WireGuard peer to another, in the mailbox that is its name.
///
/// Readers take one that lacks a field for one of another version, and leave it alone.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[kube(
    group = "wice.org",
    version = "v1",
    kind = "Offer",
    namespaced,
    doc = "A sealed message from one WireGuard peer to another, in the mailbox that is its name. Written and removed by \
           wice-agent.",
    printcolumn = r#"{"name":"Recipient","type":"string","jsonPath":".metadata.labels.wice\\.org/recipient","description":"Whose mailbox it is: the first half of the SHA-256 of the reader's public key."}"#,
    printcolumn = r#"{"name":"Expires","type":"string","jsonPath":".spec.expires","description":"When it may be removed by anybody."}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub(super) struct OfferSpec {
    /// The offer, signed by its sender and sealed for its reader (a compact JWE).
    #[schemars(length(min = 1, max = 16384))]
    pub(super) message: String,
    /// When its writer, had it lived, would have refreshed it twice.
    #[schemars(schema_with = "date_time")]
    pub(super) expires: Timestamp,
}

fn date_time(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "format": "date-time", "maxLength": 64 })
}

impl Offer {
    /// A message that is written at `now`.
    pub(super) fn sealed(
        mailbox: Mailbox,
        recipient: Recipient,
        sealed: &Sealed,
        now: Timestamp,
        lifetime: Duration,
    ) -> Self {
        let expires = whole_seconds(now.saturating_add(lifetime).unwrap_or(now));
        let spec = OfferSpec {
            message: sealed.as_str().to_owned(),
            expires,
        };
        let mut offer = Self::new(&mailbox.to_string(), spec);
        offer.metadata.labels = Some(BTreeMap::from([
            (RECIPIENT.to_owned(), recipient.to_string()),
            (EXPIRES.to_owned(), hour(expires)),
        ]));
        offer
    }

    /// Tells whether its writer has not refreshed it for so long that it is gone.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.spec.expires < now
    }
}

/// Selects the offers of one reader.
pub(super) fn of(recipient: Recipient) -> String {
    format!("{RECIPIENT}={recipient}")
}

/// Selects the offers that expired in an hour before this one, and those whose lifetime is longer than this.
pub(super) fn over(now: Timestamp, lifetime: Duration) -> String {
    let hours = lifetime.as_secs().div_ceil(HOUR.as_secs()) + 1;
    let alive: Vec<String> = (0..=hours.min(MAX_HOURS))
        .filter_map(|hours| {
            now.checked_add(SignedDuration::from_hours(hours as i64))
                .ok()
        })
        .map(hour)
        .collect();
    format!("{EXPIRES},{EXPIRES} notin ({})", alive.join(","))
}

const HOUR: Duration = Duration::from_secs(60 * 60);
/// Longest selector: those that live longer are found and left alone.
const MAX_HOURS: u64 = 48;

fn hour(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H").to_string()
}

fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use kube::CustomResourceExt;
    use wice_core::key::PublicKey;

    use super::*;

    const SHIPPED: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../packaging/kubernetes/crd.yaml"
    );

    /// With WICE_BLESS set, writes it.
    #[test]
    fn the_shipped_definition_is_that_of_the_type() {
        let generated = serde_json::to_value(Offer::crd()).unwrap();
        if std::env::var_os("WICE_BLESS").is_some() {
            std::fs::write(SHIPPED, serde_saphyr::to_string(&generated).unwrap()).unwrap();
        }
        let shipped = std::fs::read_to_string(SHIPPED).unwrap();
        let shipped: serde_json::Value = serde_saphyr::from_str(&shipped).unwrap();
        assert_eq!(shipped, generated, "write it anew with WICE_BLESS=1");
    }

    #[test]
    fn an_offer_is_named_and_labelled_for_its_reader() {
        let recipient = Recipient::of(&PublicKey::from_bytes([1; 32]));
        let now: Timestamp = "2026-11-25T22:30:00.25Z".parse().unwrap();
        let mailbox = Mailbox::from_bytes([0xab; 20]);
        let sealed = Sealed::new("a.b.c").unwrap();
        let offer = Offer::sealed(mailbox, recipient, &sealed, now, 2 * HOUR);
        let json = serde_json::to_value(&offer).unwrap();
        assert_eq!(json["apiVersion"], "wice.org/v1");
        assert_eq!(json["metadata"]["name"], "ab".repeat(20));
        assert_eq!(
            json["metadata"]["labels"],
            serde_json::json!({
                RECIPIENT: "72cd6e8422c407fb6d098690f1130b7d",
                EXPIRES: "2026-11-26T00",
            })
        );
        assert_eq!(json["spec"]["expires"], "2026-11-26T00:30:00Z");
        assert!(!offer.is_over("2026-11-26T00:29:59Z".parse().unwrap()));
        assert!(offer.is_over("2026-11-26T00:30:01Z".parse().unwrap()));
    }

    #[test]
    fn what_is_over_is_selected_by_the_hours_that_are_not() {
        let now = "2026-11-25T22:30:00Z".parse().unwrap();
        assert_eq!(
            over(now, HOUR),
            "wice.org/expires,wice.org/expires notin (2026-11-25T22,2026-11-25T23,2026-11-26T00)"
        );
        assert!(over(now, 10_000 * HOUR).len() < 1000);
    }
}
