//! Two sides that find a path at the same moment must not both start WireGuard's handshake: initiations that cross are
//! lost.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use wice_core::device::Peer;
use wice_core::path::{Path, Verdict};

const CONTROLLING: bool = true;
const CONTROLLED: bool = false;

fn endpoint() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 51820))
}

fn at(endpoint: SocketAddr) -> Peer {
    Peer {
        endpoint: Some(endpoint),
        ..Peer::default()
    }
}

#[test]
fn the_controlling_side_sets_the_endpoint_at_once() {
    let verdict = Path::default().want(endpoint(), &Peer::default(), CONTROLLING, Instant::now());
    assert_eq!(verdict, Verdict::Set(endpoint()));
}

#[test]
fn the_controlled_side_leaves_the_first_handshake_to_the_other_side() {
    let (mut path, now) = (Path::default(), Instant::now());
    let verdict = path.want(endpoint(), &Peer::default(), CONTROLLED, now);
    assert_eq!(verdict, Verdict::Leave);
    let soon = now + Duration::from_millis(100);
    assert_eq!(path.compare(&Peer::default(), soon), Verdict::Leave);
    // The other side's initiation has brought the endpoint.
    for later in [150, 300, 5000] {
        let later = now + Duration::from_millis(later);
        assert_eq!(path.compare(&at(endpoint()), later), Verdict::Leave);
    }
}

#[test]
fn the_controlled_side_sets_the_endpoint_before_its_own_nudge_when_no_handshake_comes() {
    let (mut path, now) = (Path::default(), Instant::now());
    path.want(endpoint(), &Peer::default(), CONTROLLED, now);
    // Dumps come 100 ms apart, and what reads them takes time too.
    let set = (0..)
        .map(|dump| now + Duration::from_millis(110) * dump)
        .find(|dump| {
            assert!(
                !path.take_nudge(CONTROLLED, *dump),
                "a nudge without an endpoint"
            );
            path.compare(&Peer::default(), *dump) == Verdict::Set(endpoint())
        });
    let waited = set.expect("it is set") - now;
    assert!(waited < Duration::from_millis(400), "{waited:?}");
}

#[test]
fn a_nomination_that_repeats_does_not_put_the_endpoint_off() {
    let (mut path, now) = (Path::default(), Instant::now());
    for step in 0..4 {
        let now = now + Duration::from_millis(60) * step;
        path.want(endpoint(), &Peer::default(), CONTROLLED, now);
    }
    let verdict = path.compare(&Peer::default(), now + Duration::from_millis(200));
    assert_eq!(verdict, Verdict::Set(endpoint()));
}

#[test]
fn the_controlled_side_moves_a_tunnel_that_has_an_endpoint_at_once() {
    let old = at(SocketAddr::from(([198, 51, 100, 1], 51820)));
    let verdict = Path::default().want(endpoint(), &old, CONTROLLED, Instant::now());
    assert_eq!(verdict, Verdict::Set(endpoint()));
}
