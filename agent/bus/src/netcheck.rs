//! What `NetCheck` returns, and how it is written into a dictionary.

mod behaviour;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use zbus::{OwnedVariant, Variant};

use crate::{Backend, BackendState};

pub use behaviour::{Filtering, Mapping, MappingMethod, NetFinding, Udp, Verdict};

/// What a network does to UDP, who answers in it, and what that means for direct paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetCheck {
    /// Whether a direct path is likely.
    pub verdict: Verdict,
    /// What was found that a person should know.
    pub findings: Vec<NetFinding>,
    /// IPv4, then IPv6.
    pub families: Vec<FamilyCheck>,
    /// Every STUN and TURN server, once for each of its addresses.
    pub servers: Vec<ServerCheck>,
    /// The signalling backends.
    pub backends: Vec<Backend>,
}

/// What happens to UDP over one address family. The words of behaviour are those of RFC 4787.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FamilyCheck {
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// Whether UDP comes through.
    pub udp: Udp,
    /// The address that packets leave from; empty without one.
    pub local_address: String,
    /// Where the outside sees it, as `address:port`; empty when unknown.
    pub mapped_address: String,
    /// Whether the mapping depends on the destination.
    pub mapping: Mapping,
    /// How that was found out.
    pub mapping_method: MappingMethod,
    /// Who may send to the mapped address.
    pub filtering: Filtering,
    /// Whether the mapped address is reached from inside; `None` when unknown.
    pub hairpinning: Option<bool>,
    /// Whether the mapped port is the local one; `None` when unknown.
    pub port_preserved: Option<bool>,
}

/// What one server said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerCheck {
    /// Its URL, which holds no secret.
    pub url: String,
    /// The address that was asked, as `address:port`; empty when its name was not resolved.
    pub address: String,
    /// Whether it answered.
    pub answered: bool,
    /// Round-trip time in microseconds; 0 when unknown.
    pub rtt_us: u64,
    /// Where it sees us, as `address:port`; empty when it did not say.
    pub mapped_address: String,
    /// Whether a TURN server gave a relayed address; `None` for a STUN server.
    pub relays: Option<bool>,
    /// Whether it names a second address, with which filtering can be found out (RFC 5780).
    pub discovery: bool,
    /// What went wrong; empty when nothing did.
    pub error: String,
}

/// A dictionary on the wire: `a{sv}`.
type Fields = HashMap<&'static str, Variant<'static>>;
type Received = HashMap<String, OwnedVariant>;

impl NetCheck {
    /// The dictionary as the agent sends it.
    pub fn into_dictionary(self) -> Fields {
        let findings: Vec<u32> = self.findings.iter().map(|it| it.number()).collect();
        let families = self.families.into_iter().map(FamilyCheck::into_fields);
        let servers = self.servers.into_iter().map(ServerCheck::into_fields);
        let backends = self.backends.into_iter();
        let backends = backends.map(|it| (it.url, it.state.number(), it.error));
        HashMap::from([
            ("Verdict", self.verdict.number().into()),
            ("Findings", findings.into()),
            ("Families", families.collect::<Vec<Fields>>().into()),
            ("Servers", servers.collect::<Vec<Fields>>().into()),
            (
                "Backends",
                backends.collect::<Vec<(String, u32, String)>>().into(),
            ),
        ])
    }

    /// Reads the dictionary; what is missing reads as unknown, what is unknown is passed over.
    pub fn from_dictionary(mut dictionary: Received) -> Self {
        let findings: Vec<u32> = take(&mut dictionary, "Findings");
        let families: Vec<Received> = take(&mut dictionary, "Families");
        let servers: Vec<Received> = take(&mut dictionary, "Servers");
        let backends: Vec<(String, u32, String)> = take(&mut dictionary, "Backends");
        Self {
            verdict: take::<u32>(&mut dictionary, "Verdict").into(),
            findings: findings.into_iter().map(Into::into).collect(),
            families: families.into_iter().map(FamilyCheck::from_fields).collect(),
            servers: servers.into_iter().map(ServerCheck::from_fields).collect(),
            backends: backends
                .into_iter()
                .map(|(url, state, error)| Backend {
                    url,
                    state: BackendState::from(state),
                    error,
                })
                .collect(),
        }
    }
}

impl FamilyCheck {
    fn into_fields(self) -> Fields {
        let mut fields = HashMap::from([
            ("Family", self.family.into()),
            ("Udp", self.udp.number().into()),
            ("LocalAddress", self.local_address.into()),
            ("MappedAddress", self.mapped_address.into()),
            ("Mapping", self.mapping.number().into()),
            ("MappingMethod", self.mapping_method.number().into()),
            ("Filtering", self.filtering.number().into()),
        ]);
        let known = [
            ("Hairpinning", self.hairpinning),
            ("PortPreserved", self.port_preserved),
        ];
        fields.extend(
            known
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?.into()))),
        );
        fields
    }

    fn from_fields(mut fields: Received) -> Self {
        Self {
            family: take(&mut fields, "Family"),
            udp: take::<u32>(&mut fields, "Udp").into(),
            local_address: take(&mut fields, "LocalAddress"),
            mapped_address: take(&mut fields, "MappedAddress"),
            mapping: take::<u32>(&mut fields, "Mapping").into(),
            mapping_method: take::<u32>(&mut fields, "MappingMethod").into(),
            filtering: take::<u32>(&mut fields, "Filtering").into(),
            hairpinning: find(&mut fields, "Hairpinning"),
            port_preserved: find(&mut fields, "PortPreserved"),
        }
    }
}

impl ServerCheck {
    fn into_fields(self) -> Fields {
        let mut fields = HashMap::from([
            ("Url", self.url.into()),
            ("Address", self.address.into()),
            ("Answered", self.answered.into()),
            ("RoundTripTime", self.rtt_us.into()),
            ("MappedAddress", self.mapped_address.into()),
            ("Discovery", self.discovery.into()),
            ("Error", self.error.into()),
        ]);
        fields.extend(self.relays.map(|relays| ("Relays", relays.into())));
        fields
    }

    fn from_fields(mut fields: Received) -> Self {
        Self {
            url: take(&mut fields, "Url"),
            address: take(&mut fields, "Address"),
            answered: take(&mut fields, "Answered"),
            rtt_us: take(&mut fields, "RoundTripTime"),
            mapped_address: take(&mut fields, "MappedAddress"),
            relays: find(&mut fields, "Relays"),
            discovery: take(&mut fields, "Discovery"),
            error: take(&mut fields, "Error"),
        }
    }
}

fn find<T: TryFrom<OwnedVariant>>(fields: &mut Received, name: &str) -> Option<T> {
    fields.remove(name).and_then(|value| value.try_into().ok())
}

fn take<T: TryFrom<OwnedVariant> + Default>(fields: &mut Received, name: &str) -> T {
    find(fields, name).unwrap_or_default()
}
