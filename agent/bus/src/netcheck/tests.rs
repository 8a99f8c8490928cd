//! The dictionary, there and back.

use super::*;

#[test]
fn a_check_survives_the_bus() {
    let check = NetCheck {
        verdict: Verdict::DirectWithSome,
        findings: vec![NetFinding::MappingVaries, NetFinding::NoRelay],
        families: vec![
            FamilyCheck {
                family: "ipv4".to_owned(),
                udp: Udp::Works,
                local_address: "192.168.1.2".to_owned(),
                mapped_address: "192.0.2.1:4000".to_owned(),
                mapping: Mapping::AddressAndPortDependent,
                mapping_method: MappingMethod::Rfc5780,
                filtering: Filtering::AddressDependent,
                hairpinning: Some(false),
                port_preserved: Some(true),
            },
            FamilyCheck {
                family: "ipv6".to_owned(),
                ..FamilyCheck::default()
            },
        ],
        servers: vec![
            ServerCheck {
                url: "turn:a:3478?transport=udp".to_owned(),
                address: "192.0.2.9:3478".to_owned(),
                answered: true,
                rtt_us: 1200,
                mapped_address: "192.0.2.1:4000".to_owned(),
                relays: Some(true),
                discovery: true,
                error: String::new(),
            },
            ServerCheck {
                url: "stun:b:3478".to_owned(),
                error: "no answer".to_owned(),
                ..ServerCheck::default()
            },
        ],
        backends: vec![Backend {
            url: "wss://a".to_owned(),
            state: BackendState::Down,
            error: "refused".to_owned(),
        }],
    };
    let received = check
        .clone()
        .into_dictionary()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.try_into().expect("owned")))
        .collect();
    assert_eq!(NetCheck::from_dictionary(received), check);
    assert_eq!(
        NetCheck::from_dictionary(HashMap::new()),
        NetCheck::default()
    );
}
