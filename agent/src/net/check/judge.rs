//! What follows from what was seen. Asks nobody.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use wice_bus::{
    Backend, BackendState, FamilyCheck, Filtering, Mapping, MappingMethod, NetCheck, NetFinding,
    ServerCheck, Udp, Verdict,
};
use wice_core::server::{ServerKind, ServerUrl, Transport};

use super::family::{Alternate, IpFamily, Seen};

/// Puts what was seen into the words of RFC 4787, and says what it means for direct paths.
pub(super) fn judge(
    seen: &[(IpFamily, Seen)],
    servers: Vec<ServerCheck>,
    backends: Vec<Backend>,
) -> NetCheck {
    let families: Vec<FamilyCheck> = seen
        .iter()
        .map(|(family, seen)| one(*family, seen))
        .collect();
    let verdict = verdict(&families, &servers);
    let findings = findings(verdict, &families, &servers, &backends);
    NetCheck {
        verdict,
        findings: findings.into_iter().collect(),
        families,
        servers,
        backends,
    }
}

/// One family in words.
pub(super) fn one(family: IpFamily, seen: &Seen) -> FamilyCheck {
    let Some(local) = seen.local else {
        return FamilyCheck {
            family: family.word().to_owned(),
            udp: Udp::NoAddress,
            ..FamilyCheck::default()
        };
    };
    let mapped: Vec<(SocketAddr, SocketAddr)> = (seen.answers.iter())
        .filter_map(|(server, answer)| Some((*server, answer.as_ref().ok()?.0.mapped)))
        .collect();
    let (mapping, mapping_method) = mapping(local, &mapped, &seen.alternates);
    let first = mapped.first().map(|(_, mapped)| *mapped);
    FamilyCheck {
        family: family.word().to_owned(),
        udp: match (seen.answers.is_empty(), first) {
            (true, _) => Udp::NoServer,
            (false, None) => Udp::Unanswered,
            (false, Some(_)) => Udp::Works,
        },
        local_address: local.ip().to_string(),
        mapped_address: first.map(|mapped| mapped.to_string()).unwrap_or_default(),
        mapping,
        mapping_method,
        filtering: filtering(&seen.alternates),
        hairpinning: seen.hairpins,
        // Without translation nobody preserves anything.
        port_preserved: first.filter(|_| mapping != Mapping::None).map(|_| {
            mapped
                .iter()
                .all(|(_, mapped)| mapped.port() == local.port())
        }),
    }
}

fn mapping(
    local: SocketAddr,
    mapped: &[(SocketAddr, SocketAddr)],
    alternates: &[Alternate],
) -> (Mapping, MappingMethod) {
    let Some((_, first)) = mapped.first() else {
        return (Mapping::Unknown, MappingMethod::None);
    };
    let same = mapped.iter().all(|(_, mapped)| mapped == first);
    let tested = alternates.iter().find_map(|it| tested(*it));
    if let Some(tested) = tested
        && (same || tested != Mapping::EndpointIndependent)
    {
        let tested = if same && *first == local && tested == Mapping::EndpointIndependent {
            Mapping::None
        } else {
            tested
        };
        return (tested, MappingMethod::Rfc5780);
    }
    if same && *first == local {
        return (Mapping::None, MappingMethod::Servers);
    }
    let hosts: BTreeSet<IpAddr> = mapped.iter().map(|(server, _)| server.ip()).collect();
    let varies_by_port = hosts.iter().any(|host| {
        let mut of_host = mapped.iter().filter(|(server, _)| server.ip() == *host);
        let one = of_host.next().map(|(_, mapped)| mapped);
        of_host.any(|(_, mapped)| Some(mapped) != one)
    });
    match (same, hosts.len()) {
        _ if varies_by_port => (Mapping::AddressAndPortDependent, MappingMethod::Servers),
        (false, _) => (Mapping::Dependent, MappingMethod::Servers),
        (true, 2..) => (Mapping::EndpointIndependent, MappingMethod::Servers),
        (true, _) => (Mapping::Unknown, MappingMethod::None),
    }
}

/// RFC 5780 §4.3; nothing where the second address does not answer.
fn tested(alternate: Alternate) -> Option<Mapping> {
    let (first, address) = (alternate.mapped, alternate.other_address);
    Some(match (address, alternate.other_both) {
        (Some(address), _) if address == first => Mapping::EndpointIndependent,
        (Some(address), Some(both)) if address == both => Mapping::AddressDependent,
        (Some(_), Some(_)) => Mapping::AddressAndPortDependent,
        (Some(_), None) => Mapping::Dependent,
        (None, Some(both)) if both == first => Mapping::EndpointIndependent,
        (None, Some(_)) => Mapping::Dependent,
        (None, None) => return None,
    })
}

/// RFC 5780 §4.4. A second address that does not even answer who asks it says nothing about filters.
fn filtering(alternates: &[Alternate]) -> Filtering {
    let mut open = alternates.iter().map(|it| match it {
        it if it.admits_addresses => Filtering::EndpointIndependent,
        it if it.other_address.is_none() && it.other_both.is_none() => Filtering::Unknown,
        it if it.admits_ports => Filtering::AddressDependent,
        _ => Filtering::AddressAndPortDependent,
    });
    open.find(|it| *it != Filtering::Unknown)
        .unwrap_or_default()
}

fn verdict(families: &[FamilyCheck], servers: &[ServerCheck]) -> Verdict {
    let works = families.iter().filter(|family| family.udp == Udp::Works);
    let best = works.map(|family| match family.mapping {
        Mapping::None | Mapping::EndpointIndependent => Verdict::Direct,
        // One server says where it sees us and not whether others do, too; a kept port is how NATs begin that keep it.
        Mapping::Unknown if family.port_preserved == Some(true) => Verdict::Direct,
        _ => Verdict::DirectWithSome,
    });
    best.min().unwrap_or_else(|| {
        if servers.is_empty() {
            Verdict::Unknown
        } else if servers.iter().any(|server| server.relays == Some(true)) {
            Verdict::RelayOnly
        } else {
            Verdict::Blocked
        }
    })
}

fn findings(
    verdict: Verdict,
    families: &[FamilyCheck],
    servers: &[ServerCheck],
    backends: &[Backend],
) -> BTreeSet<NetFinding> {
    let works = |family: &&FamilyCheck| family.udp == Udp::Works;
    let any = |test: fn(&FamilyCheck) -> bool| families.iter().filter(works).any(test);
    let all_relays = || servers.iter().filter_map(|server| server.relays);
    let tcp_relay = servers.iter().any(|server| is_tcp_relay(&server.url));
    let found = [
        (NetFinding::NoServer, servers.is_empty()),
        (
            NetFinding::NothingAnswers,
            !servers.is_empty() && servers.iter().all(|server| !server.answered),
        ),
        (NetFinding::UdpBlocked, verdict == Verdict::RelayOnly),
        (
            NetFinding::MappingVaries,
            any(|family| family.mapping >= Mapping::Dependent),
        ),
        (
            NetFinding::MappingUnknown,
            any(|family| family.mapping == Mapping::Unknown),
        ),
        (
            NetFinding::FilteringUnknown,
            any(|family| family.filtering == Filtering::Unknown),
        ),
        (
            NetFinding::ServerSilent,
            // Where nothing but TCP comes through, it is not the servers' fault.
            verdict < Verdict::RelayOnly && servers.iter().any(|server| !server.answered),
        ),
        (
            NetFinding::NoRelay,
            !servers.is_empty() && all_relays().next().is_none(),
        ),
        (
            NetFinding::NoRelayWorks,
            all_relays().next().is_some() && all_relays().all(|relays| !relays),
        ),
        (
            NetFinding::NoTcpRelay,
            verdict >= Verdict::RelayOnly && !tcp_relay,
        ),
        (
            NetFinding::NoBackend,
            backends.iter().all(|it| it.state != BackendState::Up),
        ),
        (
            NetFinding::NoIpv6,
            families
                .iter()
                .any(|it| it.family == IpFamily::V6.word() && it.udp == Udp::NoAddress),
        ),
    ];
    found
        .into_iter()
        .filter_map(|(finding, is)| is.then_some(finding))
        .collect()
}

fn is_tcp_relay(url: &str) -> bool {
    url.parse().is_ok_and(|url: ServerUrl| {
        matches!(url.kind, ServerKind::Turn(Transport::Tcp | Transport::Tls))
    })
}
