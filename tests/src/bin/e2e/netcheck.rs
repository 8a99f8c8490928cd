//! `wicectl netcheck`: whether it calls networks by their right names.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use wice_tests::agent::{Agent, Settings, wicectl};
use wice_tests::bus;
use wice_tests::coturn::{Coturn, PASSWORD, Transport};
use wice_tests::nat::Nat;
use wice_tests::process::Process;
use wice_tests::relayed::{HOTELS, RelayScene, Whose};
use wice_tests::server::Server;
use wice_tests::stun;
use wice_tests::topology::{Family, Host, Lab, Router, Seat};
use wice_tests::wait::until;
use wice_tests::wireguard::Engine;

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("netcheck-knows-a-full-cone-nat", |_| {
            named(Nat::FullCone, ["endpoint-independent"; 2], "direct")
        }),
        case("netcheck-knows-an-address-restricted-nat", |_| {
            let words = ["endpoint-independent", "address-dependent"];
            named(Nat::AddressRestricted, words, "direct")
        }),
        case("netcheck-knows-a-port-restricted-nat", |_| {
            let words = ["endpoint-independent", "address-and-port-dependent"];
            named(Nat::PortRestricted, words, "direct")
        }),
        case("netcheck-knows-a-symmetric-nat", |_| {
            let words = ["address-and-port-dependent"; 2];
            named(Nat::Symmetric, words, "direct-with-some")
        }),
        case("netcheck-knows-a-network-without-nat", no_nat),
        case("netcheck-knows-an-ipv6-firewall", ipv6),
        case("netcheck-knows-hairpinning", hairpinning),
        case(
            "netcheck-compares-servers-without-rfc-5780",
            several_servers,
        ),
        case("netcheck-without-a-server-says-so", nobody),
        case("netcheck-says-when-udp-is-blocked", blocked),
        case("netcheck-finds-a-relay-by-tls-in-a-hotel", hotel),
        case("netcheck-runs-once-at-a-time", one_at_a_time),
    ]
}

/// An agent will have to start first.
const PATIENCE: Duration = Duration::from_secs(30);
const BRIDGE: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
/// Nobody has this address.
const DEAD: &str = "stun:10.0.0.9:3478";

/// A host without any tunnel, behind a router, and servers to ask.
struct Place {
    lab: Lab,
    router: Router,
    host: Host,
    server: Server,
    coturn: Coturn,
    _bus: Process,
}

impl Place {
    fn behind(family: Family, nat: Nat) -> Result<Self> {
        let mut lab = Lab::new(family)?;
        let mut router = lab.router(nat)?;
        let host = lab.host("inside", &mut router)?;
        Ok(Self {
            server: Server::start(&lab)?,
            coturn: Coturn::discovering(&lab)?,
            _bus: bus::start(&host.machine)?,
            lab,
            router,
            host,
        })
    }

    fn settings(&self, servers: &[&str]) -> Settings {
        Settings {
            servers: servers.iter().map(|&url| url.to_owned()).collect(),
            ..Settings::websocket(&self.server)
        }
    }

    /// What an agent with these settings finds out, once its backend is up.
    fn check(&self, settings: &Settings) -> Result<Value> {
        let agent = Agent::start(&self.host, settings)?;
        agent.backends_up(PATIENCE)?;
        check(&self.host)
    }
}

fn check(host: &Host) -> Result<Value> {
    println!("{}", wicectl(host, "netcheck")?);
    let text = wicectl(host, "netcheck --json")?;
    ensure!(!text.contains(PASSWORD), "a password in {text}");
    let json: Value = serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))?;
    ensure!(json["version"] == 1, "another version: {text}");
    Ok(json)
}

/// Compares parts of a check, each named by its place in the JSON, with what they should be.
fn expect(check: &Value, expected: &[(&str, Value)]) -> Result<()> {
    for (place, value) in expected {
        let found = check.pointer(place).unwrap_or(&Value::Null);
        ensure!(
            found == value,
            "{place} is {found} and should be {value}: {check:#}"
        );
    }
    Ok(())
}

fn finds(check: &Value, finding: &str) -> bool {
    let findings = check["findings"].as_array();
    findings.is_some_and(|all| all.iter().any(|one| one == finding))
}

/// Returns what is said of the server with this URL.
fn server<'a>(check: &'a Value, url: &str) -> Result<&'a Value> {
    let servers = check["servers"].as_array().context("no servers")?;
    let mut same = servers.iter().filter(|one| one["url"] == url);
    same.next()
        .with_context(|| format!("no {url} in {check:#}"))
}

fn named(nat: Nat, [mapping, filtering]: [&str; 2], verdict: &str) -> Result<()> {
    let place = Place::behind(Family::V4, nat)?;
    let relay = place.coturn.relay(Transport::Udp)?;
    let url = relay.url.clone();
    let settings = place.settings(&[&place.coturn.stun(), DEAD]);
    let seen = place.check(&settings.with_relay(relay))?;
    expect(
        &seen,
        &[
            ("/verdict", verdict.into()),
            ("/families/0/family", "ipv4".into()),
            ("/families/0/udp", "works".into()),
            ("/families/0/mapping", mapping.into()),
            ("/families/0/mapping_method", "rfc5780".into()),
            ("/families/0/filtering", filtering.into()),
            ("/families/0/hairpinning", false.into()),
            ("/families/0/port_preserved", (nat != Nat::Symmetric).into()),
            (
                "/families/0/local_address",
                place.host.address.to_string().into(),
            ),
            ("/families/1/udp", "no-address".into()),
            ("/backends/0/state", "up".into()),
        ],
    )?;
    let mapped = seen["families"][0]["mapped_address"].as_str();
    ensure!(
        mapped.is_some_and(|it| it.starts_with(&format!("{}:", place.router.address))),
        "the router's address is not {mapped:?}"
    );
    let alive = server(&seen, &place.coturn.stun())?;
    ensure!(
        alive["answered"] == true && alive["rtt_us"].as_u64().is_some(),
        "{alive}"
    );
    let dead = server(&seen, DEAD)?;
    ensure!(
        dead["answered"] == false
            && dead["error"]
                .as_str()
                .is_some_and(|it| it.contains("no answer")),
        "the dead server: {dead}"
    );
    ensure!(finds(&seen, "server-silent"), "{seen:#}");
    let relay = server(&seen, &url)?;
    ensure!(
        relay["relays"] == true && relay["error"].is_null(),
        "{relay}"
    );
    until("coturn to have its allocations back", PATIENCE, || {
        Ok((place.coturn.allocations()? == 0).then_some(()))
    })
}

fn no_nat(_: Engine) -> Result<()> {
    let mut place = Place::behind(Family::V4, Nat::PortRestricted)?;
    place.host = place.lab.host_on_wan("outside")?;
    place._bus = bus::start(&place.host.machine)?;
    let seen = place.check(&place.settings(&[&place.coturn.stun()]))?;
    expect(
        &seen,
        &[
            ("/verdict", "direct".into()),
            ("/families/0/mapping", "none".into()),
            ("/families/0/filtering", "endpoint-independent".into()),
            ("/families/0/port_preserved", Value::Null),
            ("/families/0/hairpinning", Value::Null),
        ],
    )
}

fn ipv6(_: Engine) -> Result<()> {
    let place = Place::behind(Family::V6, Nat::Firewall)?;
    let seen = place.check(&place.settings(&[&place.coturn.stun()]))?;
    expect(
        &seen,
        &[
            ("/verdict", "direct".into()),
            ("/families/0/udp", "no-address".into()),
            ("/families/1/udp", "works".into()),
            ("/families/1/mapping", "none".into()),
            ("/families/1/filtering", "address-and-port-dependent".into()),
        ],
    )
}

fn hairpinning(_: Engine) -> Result<()> {
    let place = Place::behind(Family::V4, Nat::FullCone)?;
    let outside = place.router.address;
    let rules = format!(
        "table ip lab {{\n\
         chain turn {{ type nat hook prerouting priority dstnat; \
         iifname lan ip daddr {outside} ip protocol udp dnat ip to udp dport map @inside; }}\n\
         chain back {{ type nat hook postrouting priority srcnat; iifname lan oifname lan masquerade; }}\n}}\n"
    );
    let router = &place.router.machine;
    router.run_with_input("nft -f -", &rules)?;
    // Where bridges pass through the same rules, what was translated would not leave by the port that it came in by.
    if router.has(BRIDGE) {
        router.write(BRIDGE, "0")?;
    }
    let seen = place.check(&place.settings(&[&place.coturn.stun()]))?;
    expect(&seen, &[("/families/0/hairpinning", true.into())])
}

/// The project's own server has one address: what tells is that a second one sees the same, or something else.
fn several_servers(_: Engine) -> Result<()> {
    for (nat, mapping, verdict) in [
        (Nat::PortRestricted, "endpoint-independent", "direct"),
        (Nat::Symmetric, "dependent", "direct-with-some"),
    ] {
        let place = Place::behind(Family::V4, nat)?;
        let second = place.lab.server_addresses(Seat::Second)[0];
        stun::serve(place.lab.wan(), (second, 3478).into())?;
        let both = place.settings(&[&place.server.stun(), &format!("stun:{second}:3478")]);
        let seen = place.check(&both)?;
        expect(
            &seen,
            &[
                ("/verdict", verdict.into()),
                ("/families/0/mapping", mapping.into()),
                ("/families/0/mapping_method", "servers".into()),
                ("/families/0/filtering", "unknown".into()),
            ],
        )?;
        ensure!(finds(&seen, "filtering-unknown"), "{seen:#}");
        let seen = place.check(&place.settings(&[&place.server.stun()]))?;
        expect(&seen, &[("/families/0/mapping", "unknown".into())])?;
        ensure!(finds(&seen, "mapping-unknown"), "{seen:#}");
    }
    Ok(())
}

fn nobody(_: Engine) -> Result<()> {
    let place = Place::behind(Family::V4, Nat::PortRestricted)?;
    let settings = Settings {
        // It would hand out a server.
        backends: Vec::new(),
        ..place.settings(&[])
    };
    let agent = Agent::start(&place.host, &settings)?;
    until("the agent to answer", PATIENCE, || {
        agent.status().map(|_| Some(()))
    })?;
    let seen = check(&place.host)?;
    expect(
        &seen,
        &[
            ("/verdict", "unknown".into()),
            ("/families/0/udp", "no-server".into()),
        ],
    )?;
    ensure!(
        finds(&seen, "no-server") && finds(&seen, "no-backend"),
        "{seen:#}"
    );
    Ok(())
}

fn blocked(_: Engine) -> Result<()> {
    let place = Place::behind(Family::V4, Nat::UdpBlocked)?;
    let (udp, tcp) = (
        place.coturn.relay(Transport::Udp)?,
        place.coturn.relay(Transport::Tcp)?,
    );
    let (silent, url) = (udp.url.clone(), tcp.url.clone());
    let settings = place.settings(&[&place.coturn.stun()]).with_relay(udp);
    let seen = place.check(&settings)?;
    expect(
        &seen,
        &[
            ("/verdict", "blocked".into()),
            ("/families/0/udp", "unanswered".into()),
        ],
    )?;
    ensure!(
        finds(&seen, "nothing-answers") && finds(&seen, "no-tcp-relay"),
        "{seen:#}"
    );
    let seen = place.check(&settings.with_relay(tcp))?;
    expect(
        &seen,
        &[
            ("/verdict", "relay-only".into()),
            ("/families/0/udp", "unanswered".into()),
        ],
    )?;
    ensure!(finds(&seen, "udp-blocked"), "{seen:#}");
    let (silent, relay) = (server(&seen, &silent)?, server(&seen, &url)?);
    ensure!(silent["relays"] == false, "{silent}");
    ensure!(
        relay["relays"] == true && relay["mapped_address"].is_string(),
        "{relay}"
    );
    Ok(())
}

fn hotel(engine: Engine) -> Result<()> {
    let scene = RelayScene::new(engine, Whose::Coturn, Transport::Tls, HOTELS)?;
    let [agent, _other] = scene.start()?;
    agent.backends_up(PATIENCE)?;
    let seen = check(&scene.scene.a.host)?;
    expect(&seen, &[("/verdict", "relay-only".into())])?;
    let relay = server(&seen, &scene.settings[0].relays[0].url)?;
    ensure!(
        relay["relays"] == true && relay["rtt_us"].as_u64().is_some(),
        "{relay}"
    );
    Ok(())
}

fn one_at_a_time(_: Engine) -> Result<()> {
    let place = Place::behind(Family::V4, Nat::PortRestricted)?;
    // The dead server keeps each check busy for a while.
    let agent = Agent::start(&place.host, &place.settings(&[DEAD]))?;
    agent.backends_up(PATIENCE)?;
    let refused = |outcome: &Result<String>| {
        let words = outcome.as_ref().err().map(|error| format!("{error:#}"));
        words.is_some_and(|words| words.contains("another check of the network is running"))
    };
    until("one of two checks to be refused", PATIENCE, || {
        let (one, two) = std::thread::scope(|scope| {
            let one = scope.spawn(|| wicectl(&place.host, "netcheck"));
            let two = wicectl(&place.host, "netcheck");
            (one.join(), two)
        });
        let one = one.map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        let answered = one.is_ok() || two.is_ok();
        Ok((answered && (refused(&one) || refused(&two))).then_some(()))
    })
}
