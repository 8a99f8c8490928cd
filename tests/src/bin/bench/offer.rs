//! What one offer costs its sender and its reader, beside one X25519: the unit that WireGuard's own handshakes are
//! counted in. Both are timed in one run, so that the ratio holds on another machine.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use wice_core::candidate::{Candidate, Kind, Network};
use wice_core::key::PrivateKey;
use wice_core::offer::{Credentials, Implementation, Offer, Password, Role};
use wice_core::seal::PairSecrets;

/// Long enough to even out what else the machine does.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

/// Prints the costs.
pub(crate) fn measure() {
    let [ours, theirs] = [[7; 32], [9; 32]]
        .map(|bytes| PrivateKey::from_bytes(bytes).expect("a key that is not zero"));
    let both = "two honest keys agree on a secret";
    let sending = PairSecrets::derive(&ours, &theirs.public()).expect(both);
    let reading = PairSecrets::derive(&theirs, &ours.public()).expect(both);
    let offer = typical(&ours, &theirs);
    let z = [5; 64];
    let short = "four candidates fit in a mailbox";
    let sealed = offer.seal(&ours, &sending, &z).expect(short);

    let (peer, own) = (ours.public(), theirs.public());
    let unit = time(|| ours.diffie_hellman(&own).is_some());
    let sender = time(|| offer.seal(&ours, &sending, &z).expect(short));
    let reader =
        time(|| Offer::open(&sealed, &own, &peer, &reading, false).expect("what we sealed opens"));

    println!(
        "\nOne offer with {} candidates, {} bytes sealed\n",
        offer.candidates.len(),
        sealed.as_str().len()
    );
    println!("  {:<24}{:>9}{:>12}", "", "µs", "× X25519");
    for (what, time) in [
        ("one X25519", unit),
        ("signing and sealing", sender),
        ("opening and verifying", reader),
    ] {
        let ratio = time.as_secs_f64() / unit.as_secs_f64();
        println!("  {what:<24}{:>9.1}{ratio:>12.2}", time.as_secs_f64() * 1e6);
    }
}

/// Returns how long one call takes on average, after some that warm up.
fn time<T>(mut work: impl FnMut() -> T) -> Duration {
    for _ in 0..50 {
        black_box(work());
    }
    let (start, mut calls) = (Instant::now(), 0);
    while start.elapsed() < LONG_ENOUGH {
        for _ in 0..50 {
            black_box(work());
        }
        calls += 50;
    }
    start.elapsed() / calls
}

/// An offer of a host with two addresses, each of which a STUN server saw.
fn typical(ours: &PrivateKey, theirs: &PrivateKey) -> Offer {
    let (from, to) = (ours.public(), theirs.public());
    let host = |last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
    let candidates = (1..=2)
        .flat_map(|last| {
            let base = candidate(Kind::Host, host(last), None);
            let seen = candidate(Kind::Srflx, host(last + 10), Some(host(last)));
            [base, seen]
        })
        .collect();
    Offer {
        from,
        to,
        id: 1_700_000_000_000,
        rid: Some(1_700_000_000_001),
        epoch: 1,
        repoch: Some(1),
        seen: 1_700_000_000_001,
        want_ack: true,
        implementation: Implementation::Full,
        role: Role::of(&from, &to),
        candidates,
        eoc: true,
        credentials: Credentials {
            ufrag: "fragment".to_owned(),
            pwd: Password::new("passwordOfTwentyFourChars".to_owned()),
        },
    }
}

fn candidate(kind: Kind, address: IpAddr, related: Option<IpAddr>) -> Candidate {
    Candidate {
        kind,
        foundation: "0123456789abcdef".to_owned(),
        component: 1,
        network: Network::udp(&address),
        priority: 2_130_706_431,
        address,
        port: 51820,
        related_address: related,
        related_port: related.map(|_| 51820),
        tcp_type: None,
    }
}
