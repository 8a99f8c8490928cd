//! The parts of the lab that relays are tried with, by clients that are none of the project's: coturn's own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use wice_tests::certificate::{Certificate, trust};
use wice_tests::coturn::{Coturn, Login, Relay, Transport};
use wice_tests::cut::Cut;
use wice_tests::iperf::{Plan, Transfer};
use wice_tests::namespace::Namespace;
use wice_tests::nat::Nat;
use wice_tests::process::Process;
use wice_tests::stun;
use wice_tests::topology::{Family, Host, Lab};
use wice_tests::wait::{patience, until};
use wice_tests::wireguard::Engine;

use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "lab-coturn-relays-through-each-nat-by-the-transports-that-it-passes",
            transports,
        ),
        case(
            "lab-coturn-refuses-wrong-and-expired-credentials",
            credentials,
        ),
        case(
            "lab-coturn-forgets-its-allocations-when-it-is-killed",
            forgets,
        ),
        case(
            "lab-coturn-joins-an-ipv6-only-lan-and-an-ipv4-only-one",
            two_families,
        ),
        case(
            "lab-a-cut-stops-two-lans-and-nothing-else-and-opens-again",
            cut,
        ),
    ]
}

/// What coturn's client takes per run is a matter of seconds, so its runs go side by side.
fn transports(_: Engine) -> Result<()> {
    let mut lab = Lab::new(Family::V4)?;
    let certificate = Certificate::create(&lab)?;
    let server = Coturn::start(&lab, Login::User, Some(&certificate), "")?;
    let mut symmetric = lab.router(Nat::Symmetric)?;
    let mut blocked = lab.router(Nat::UdpBlocked)?;
    let mut hotel = lab.router(Nat::OnlyHttps)?;
    let (free, caged, guest) = (
        lab.host("free", &mut symmetric)?,
        lab.host("caged", &mut blocked)?,
        lab.host("guest", &mut hotel)?,
    );
    for host in [&free, &caged, &guest] {
        trust(&host.machine, &certificate.authority)?;
    }
    let tried = [
        (&free, Transport::Udp, true),
        (&free, Transport::Tcp, true),
        (&free, Transport::Tls, true),
        (&caged, Transport::Udp, false),
        (&caged, Transport::Tcp, true),
        (&guest, Transport::Tcp, false),
        (&guest, Transport::Tls, true),
    ];
    thread::scope(|scope| {
        let running: Vec<_> = tried
            .iter()
            .map(|(host, transport, _)| {
                let server = &server;
                scope.spawn(move || relays(&host.machine, &server.relay(*transport)?, *transport))
            })
            .collect();
        for ((host, transport, expected), outcome) in tried.iter().zip(running) {
            let outcome = outcome.join().map_err(|_| anyhow!("a client panicked"))?;
            let name = host.machine.name();
            println!("{name}, {transport:?}: {}", verdict(&outcome));
            ensure!(
                outcome.is_ok() == *expected,
                "{name} by {transport:?}: {outcome:?}"
            );
        }
        Ok(())
    })
}

fn credentials(_: Engine) -> Result<()> {
    let mut lab = Lab::new(Family::V4)?;
    let server = Coturn::start(&lab, Login::Secret, None, "")?;
    let host = lab.host_on_wan("client")?;
    let good = server.relay(Transport::Udp)?;
    let (username, credential) = server.temporary(-60)?;
    let expired = Relay {
        username,
        credential,
        ..good.clone()
    };
    let wrong = Relay {
        credential: "guessed".to_owned(),
        ..good.clone()
    };
    relays(&host.machine, &good, Transport::Udp).context("a good name")?;
    for (what, relay) in [("an expired name", expired), ("a wrong password", wrong)] {
        let outcome = relays(&host.machine, &relay, Transport::Udp);
        ensure!(
            outcome.is_err_and(|error| format!("{error:#}").contains("Allocation")),
            "{what} is not refused"
        );
    }
    Ok(())
}

fn forgets(_: Engine) -> Result<()> {
    let mut lab = Lab::new(Family::V4)?;
    let mut server = Coturn::start(&lab, Login::User, None, "")?;
    let host = lab.host_on_wan("client")?;
    let relay = server.relay(Transport::Udp)?;
    ensure!(server.allocations()? == 0, "allocations before any client");
    let mut robbed = command(&host.machine, &relay, Transport::Udp, "-y")?;
    // What becomes of a client that is robbed of its allocation is its own affair.
    let _robbed = Process::start(&host.machine, "uclient", &mut robbed)?;
    until("an allocation", Duration::from_secs(5), || {
        Ok((server.allocations()? > 0).then_some(()))
    })?;
    server.crash()?;
    ensure!(server.allocations()? == 0, "an allocation outlived coturn");
    server.restart()?;
    relays(&host.machine, &relay, Transport::Udp).context("after the restart")
}

fn two_families(_: Engine) -> Result<()> {
    let mut lab = Lab::dual()?;
    let server = Coturn::start(&lab, Login::User, None, "")?;
    let mut left = lab.router_in(Family::V6, Nat::Firewall)?;
    let mut right = lab.router_in(Family::V4, Nat::PortRestricted)?;
    let (a, b) = (lab.host("a", &mut left)?, lab.host("b", &mut right)?);
    ensure!(a.address.is_ipv6() && b.address.is_ipv4());
    let none = a.machine.run("ip -4 route show default")?;
    ensure!(none.trim().is_empty(), "the IPv6-only host has {none}");
    // The far end must open its own NAT to the relay, which a plain echo server does not: it stands on the WAN.
    let echo = lab.host_on_wan("echo")?;
    let _echo = echo_server(&echo)?;
    let relay = server.relay_for(a.address, Transport::Udp)?;
    let peer = format!("-X -e {} -r 3480", echo.address);
    client(&a.machine, &relay, Transport::Udp, &peer).context("from IPv6 to an IPv4 peer")?;
    relays(
        &b.machine,
        &server.relay_for(b.address, Transport::Udp)?,
        Transport::Udp,
    )
    .context("from IPv4")
}

fn cut(_: Engine) -> Result<()> {
    let mut lab = Lab::new(Family::V4)?;
    let (mut left, mut right) = (
        lab.router(Nat::PortRestricted)?,
        lab.router(Nat::PortRestricted)?,
    );
    let (a, b) = (lab.host("a", &mut left)?, lab.host("b", &mut right)?);
    let server = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 3478));
    stun::serve(lab.wan(), server)?;
    let any = Ipv4Addr::UNSPECIFIED;
    let from_a = stun::bind(&a.machine, (any, 5000).into())?;
    let from_b = stun::bind(&b.machine, (any, 5000).into())?;
    let outside_a = stun::ask(&from_a, server)?;
    let outside_b = stun::ask(&from_b, server)?;
    let passes = || -> Result<bool> {
        from_b.send_to(b"opens", outside_a)?;
        from_a.set_read_timeout(Some(Duration::from_millis(300)))?;
        from_b.set_read_timeout(Some(Duration::from_millis(300)))?;
        // What was late is not what is waited for now.
        while from_a.recv(&mut [0; 64]).is_ok() {}
        from_a.send_to(b"passes", outside_b)?;
        Ok(from_b.recv(&mut [0; 64]).is_ok())
    };
    ensure!(passes()?, "no direct path before the cut");
    let cut = Cut::between(&left, &right)?;
    ensure!(!passes()?, "a packet passed the cut");
    ensure!(
        stun::ask(&from_a, server)? == outside_a,
        "the server is cut off too, or the mapping is another"
    );
    cut.open()?;
    ensure!(passes()?, "no direct path after it was opened");

    let wan = lab.host_on_wan("far")?;
    let plan = Plan {
        time: Duration::from_secs(2),
        rate: Some(10_000_000),
    };
    let report = Transfer::start(&a.machine, &wan.machine, wan.address, plan)?.end()?;
    println!("{report:?}");
    let rate = report.bits_per_second;
    ensure!(
        (5e6..2e7).contains(&rate),
        "10 Mbit/s were asked for, and {rate} came"
    );
    Ok(())
}

/// Lets coturn's client send 2 × 5 messages between two of its own allocations, and fails unless most arrive.
fn relays(machine: &Namespace, relay: &Relay, transport: Transport) -> Result<()> {
    client(machine, relay, transport, "-y")
}

fn client(machine: &Namespace, relay: &Relay, transport: Transport, peer: &str) -> Result<()> {
    let mut command = command(machine, relay, transport, peer)?;
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let count = |name: &str| -> u32 {
        let found = said.rsplit_once(name).map(|(_, rest)| rest);
        let digits =
            found.and_then(|rest| rest.split(|letter: char| !letter.is_ascii_digit()).next());
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
    };
    let (sent, received) = (count("tot_send_msgs="), count("tot_recv_msgs="));
    // By TLS it sees each message only when the next one comes, so the last of each session stays away.
    ensure!(
        sent > 0 && received * 2 > sent,
        "{received} of {sent} messages came back: {said}"
    );
    Ok(())
}

/// coturn's client, which waits for ever for an answer that was lost.
fn command(
    machine: &Namespace,
    relay: &Relay,
    transport: Transport,
    peer: &str,
) -> Result<Command> {
    let (_, server) = relay.url.split_once(':').context("no URL")?;
    let server: SocketAddr = server.split('?').next().unwrap_or_default().parse()?;
    let how = match transport {
        Transport::Udp => "",
        Transport::Tcp => "-t",
        Transport::Tls => "-t -S -E /run/lab/authority.pem",
    };
    let mut command = machine.command("timeout");
    command
        .arg((10 * patience()).to_string())
        .arg("turnutils_uclient")
        .args(how.split_whitespace())
        .args(peer.split_whitespace())
        .args([
            "-c",
            "-n",
            "5",
            "-u",
            &relay.username,
            "-w",
            &relay.credential,
        ])
        .args(["-p", &server.port().to_string(), &server.ip().to_string()]);
    Ok(command)
}

/// coturn's echo server for relayed packets.
fn echo_server(host: &Host) -> Result<Process> {
    let mut command = host.machine.command("turnutils_peer");
    command.args(["-L", &host.address.to_string(), "-p", "3480"]);
    let process = Process::start(&host.machine, "echo", &mut command)?;
    let (IpAddr::V4(_), Ok(asking)) = (
        host.address,
        stun::bind(&host.machine, (host.address, 0).into()),
    ) else {
        bail!("the echo server is for IPv4");
    };
    asking.set_read_timeout(Some(Duration::from_millis(100)))?;
    until("the echo server", Duration::from_secs(5), || {
        asking.send_to(b"ready?", (host.address, 3480))?;
        Ok(asking.recv(&mut [0; 64]).ok().map(drop))
    })?;
    Ok(process)
}

fn verdict(outcome: &Result<()>) -> &'static str {
    if outcome.is_ok() {
        "relayed"
    } else {
        "no relay"
    }
}
