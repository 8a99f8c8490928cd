//! The lab itself: a NAT that is not the kind it claims to be would make every other result worthless.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use wice_tests::bus;
use wice_tests::nat::Nat;
use wice_tests::ping::Pinger;
use wice_tests::stun;
use wice_tests::topology::{Family, Lab};
use wice_tests::wait::until;
use wice_tests::wireguard::{Engine, Tunnel};

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("lab-nats-map-and-filter-as-their-names-say", nats_behave),
        case(
            "lab-wireguard-works-by-hand-behind-a-nat",
            wireguard_by_hand,
        ),
        case("lab-processes-die-with-whoever-started-them", nothing_stays),
        case(
            "lab-ipv6-is-routed-through-stateful-firewalls",
            ipv6_firewalls,
        ),
    ]
}

const FIRST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 3478);
const SECOND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 3478);

/// What a NAT does, measured from both of its sides.
#[derive(Debug, PartialEq, Eq)]
struct Behaviour {
    same_mapping: bool,
    admits_strangers: bool,
    admits_other_ports: bool,
}

fn nats_behave(_: Engine) -> Result<()> {
    let expected = [
        (
            Nat::None,
            Behaviour {
                same_mapping: true,
                admits_strangers: true,
                admits_other_ports: true,
            },
        ),
        (
            Nat::FullCone,
            Behaviour {
                same_mapping: true,
                admits_strangers: true,
                admits_other_ports: true,
            },
        ),
        (
            Nat::AddressRestricted,
            Behaviour {
                same_mapping: true,
                admits_strangers: false,
                admits_other_ports: true,
            },
        ),
        (
            Nat::PortRestricted,
            Behaviour {
                same_mapping: true,
                admits_strangers: false,
                admits_other_ports: false,
            },
        ),
        (
            Nat::Symmetric,
            Behaviour {
                same_mapping: false,
                admits_strangers: false,
                admits_other_ports: false,
            },
        ),
    ];
    for (nat, expected) in expected {
        let seen = measure(nat).with_context(|| format!("measuring {nat:?}"))?;
        println!("{nat:?}: {seen:?}");
        ensure!(seen == expected, "{nat:?} should be {expected:?}");
    }
    ensure!(
        measure(Nat::UdpBlocked).is_err(),
        "UDP passes where it should be blocked"
    );
    println!("UdpBlocked: no answer");
    Ok(())
}

fn measure(nat: Nat) -> Result<Behaviour> {
    let mut lab = Lab::new(Family::V4)?;
    let mut router = lab.router(nat)?;
    let inside = lab.host("inside", &mut router)?;
    let stranger = lab.host_on_wan("stranger")?;
    if nat == Nat::None {
        // Nothing translates, so the way back must be known.
        let via = router.address;
        lab.wan()
            .ip(&format!("route add 192.168.1.0/24 via {via}"))?;
        stranger
            .machine
            .ip(&format!("route add 192.168.1.0/24 via {via}"))?;
    }
    stun::serve(lab.wan(), FIRST)?;
    stun::serve(lab.wan(), SECOND)?;
    let socket = stun::bind(&inside.machine, (Ipv4Addr::UNSPECIFIED, 5000).into())?;
    let first = stun::ask(&socket, FIRST)?;
    let other_port = stun::bind(lab.wan(), (FIRST.ip(), 4000).into())?;
    let admits_other_ports = arrives(&other_port, first, &socket)?;
    let outsider = stun::bind(&stranger.machine, (Ipv4Addr::UNSPECIFIED, 4000).into())?;
    let admits_strangers = arrives(&outsider, first, &socket)?;
    let same_mapping = first == stun::ask(&socket, SECOND)?;
    Ok(Behaviour {
        same_mapping,
        admits_strangers,
        admits_other_ports,
    })
}

fn arrives(from: &UdpSocket, mapped: SocketAddr, to: &UdpSocket) -> Result<bool> {
    to.set_read_timeout(Some(Duration::from_millis(300)))?;
    from.send_to(b"unasked", mapped)?;
    Ok(to.recv(&mut [0; 64]).is_ok())
}

fn wireguard_by_hand(engine: Engine) -> Result<()> {
    let mut lab = Lab::new(Family::V4)?;
    let mut router = lab.router(Nat::PortRestricted)?;
    let (inside, outside) = (
        lab.host("inside", &mut router)?,
        lab.host_on_wan("outside")?,
    );
    let mine = Tunnel::up(engine, &inside, "wg0", Ipv4Addr::new(10, 99, 0, 1))?;
    let theirs = Tunnel::up(engine, &outside, "wg0", Ipv4Addr::new(10, 99, 0, 2))?;
    mine.add_peer_at(&theirs, (outside.address, theirs.port).into())?;
    theirs.add_peer(&mine)?;
    Pinger::new(&inside, theirs.address)?
        .first_reply(Duration::from_millis(20), Duration::from_secs(10))?;
    let seen = theirs.handshake(&mine, Duration::from_secs(5))?;
    println!("{engine}: the outside sees {:?}", seen.endpoint);
    ensure!(
        seen.endpoint.map(|endpoint| endpoint.ip()) == Some(router.address),
        "not the router's address"
    );
    Ok(())
}

fn ipv6_firewalls(_: Engine) -> Result<()> {
    let mut lab = Lab::new(Family::V6)?;
    let (mut left, mut right) = (lab.router(Nat::Firewall)?, lab.router(Nat::Firewall)?);
    let (a, b) = (lab.host("a", &mut left)?, lab.host("b", &mut right)?);
    let any = std::net::Ipv6Addr::UNSPECIFIED;
    let (from_a, from_b) = (
        stun::bind(&a.machine, (any, 5000).into())?,
        stun::bind(&b.machine, (any, 5000).into())?,
    );
    ensure!(
        !arrives(&from_a, (b.address, 5000).into(), &from_b)?,
        "the firewall lets strangers in"
    );
    ensure!(
        arrives(&from_b, (a.address, 5000).into(), &from_a)?,
        "an answer to what went out does not come in"
    );
    Ok(())
}

/// No destructor runs when a test is killed: the kernel must do it.
fn nothing_stays(_: Engine) -> Result<()> {
    let starter = thread::spawn(|| -> Result<u32> {
        let mut lab = Lab::new(Family::V4)?;
        let host = lab.host_on_wan("orphan")?;
        let bus = bus::start(&host.machine)?;
        let id = bus.id();
        ensure!(is_alive(id), "the bus does not run");
        std::mem::forget(bus);
        Ok(id)
    });
    let id = starter
        .join()
        .map_err(|_| anyhow!("the starting thread panicked"))??;
    until("the orphan to die", Duration::from_secs(5), || {
        Ok((!is_alive(id)).then_some(()))
    })
}

/// A process that has ended and was not waited for is in state Z.
fn is_alive(id: u32) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
