//! Tables: dumps in, verdicts out.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Path, Verdict};
use crate::device::Peer;

const OURS: &str = "198.51.100.2:40000";
const THEIRS: &str = "192.0.2.66:6";
const ELSEWHERE: &str = "192.0.2.77:7";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn kernel(endpoint: Option<&str>, rx_bytes: u64, tx_bytes: u64) -> Peer {
    Peer {
        endpoint: endpoint.map(address),
        rx_bytes,
        tx_bytes,
        ..Peer::default()
    }
}

/// Rows: seconds since the nomination, the kernel's endpoint, its receive and send counters, whether ours is put back.
fn run(rows: &[(f64, Option<&str>, u64, u64, bool)]) {
    let start = Instant::now();
    let mut path = Path::default();
    let first = path.want(address(OURS), &kernel(None, 0, 0), true, start);
    assert_eq!(first, Verdict::Set(address(OURS)));
    for (index, (seconds, endpoint, rx, tx, put_back)) in rows.iter().enumerate() {
        let now = start + Duration::from_secs_f64(*seconds);
        let verdict = path.compare(&kernel(*endpoint, *rx, *tx), now);
        let expected = if *put_back {
            Verdict::Set(address(OURS))
        } else {
            Verdict::Leave
        };
        assert_eq!(verdict, expected, "row {index} at {seconds} s");
    }
}

#[test]
fn the_wanted_endpoint_needs_nothing() {
    run(&[
        (0.1, Some(OURS), 0, 0, false),
        (60.0, Some(OURS), 5, 5, false),
    ]);
}

#[test]
fn another_programs_endpoint_is_put_back_after_pauses_that_double() {
    run(&[
        (1.0, Some(THEIRS), 0, 0, false),
        (1.9, Some(THEIRS), 0, 0, false),
        (2.0, Some(THEIRS), 0, 0, true),
        (2.1, Some(OURS), 0, 0, false),
        (3.0, Some(THEIRS), 0, 0, false),
        (4.9, Some(THEIRS), 0, 0, false),
        (5.0, Some(THEIRS), 0, 0, true),
        (5.1, Some(THEIRS), 0, 0, false),
        (9.0, Some(THEIRS), 0, 0, false),
        (9.1, Some(THEIRS), 0, 0, true),
    ]);
}

#[test]
fn an_endpoint_that_vanished_is_put_back_too() {
    run(&[(1.0, None, 0, 0, false), (2.0, None, 0, 0, true)]);
}

#[test]
fn each_other_endpoint_has_a_pause_of_its_own() {
    run(&[
        (1.0, Some(THEIRS), 0, 0, false),
        (1.9, Some(ELSEWHERE), 0, 0, false),
        (2.8, Some(ELSEWHERE), 0, 0, false),
        (2.9, Some(ELSEWHERE), 0, 0, true),
    ]);
}

#[test]
fn a_kernel_that_receives_from_elsewhere_has_roamed_and_is_left_alone_until_it_falls_silent() {
    run(&[
        (1.0, Some(ELSEWHERE), 10, 10, false),
        (1.9, Some(ELSEWHERE), 20, 10, false),
        (30.0, Some(ELSEWHERE), 30, 10, false),
        // Nothing is sent, so nothing can be answered.
        (90.0, Some(ELSEWHERE), 30, 10, false),
        (91.0, Some(ELSEWHERE), 30, 20, false),
        (109.9, Some(ELSEWHERE), 30, 30, false),
        (110.0, Some(ELSEWHERE), 30, 40, true),
    ]);
}

#[test]
fn a_repeated_wish_does_not_undo_roaming() {
    let start = Instant::now();
    let mut path = Path::default();
    path.want(address(OURS), &kernel(None, 0, 0), true, start);
    path.compare(&kernel(Some(ELSEWHERE), 10, 0), start);
    let roamed = kernel(Some(ELSEWHERE), 20, 0);
    path.compare(&roamed, start);
    assert_eq!(
        path.want(address(OURS), &roamed, true, start),
        Verdict::Leave
    );
    let other = path.want(address(THEIRS), &roamed, true, start);
    assert_eq!(other, Verdict::Set(address(THEIRS)), "a new pair is news");
}

#[test]
fn a_released_path_wants_nothing() {
    let start = Instant::now();
    let mut path = Path::default();
    path.want(address(OURS), &kernel(None, 0, 0), true, start);
    path.release();
    let later = start + Duration::from_secs(100);
    assert_eq!(
        path.compare(&kernel(Some(THEIRS), 0, 0), start),
        Verdict::Leave
    );
    assert_eq!(
        path.compare(&kernel(Some(THEIRS), 0, 0), later),
        Verdict::Leave
    );
    assert_eq!((path.wanted(), path.poll_timeout()), (None, None));
}

/// When a side nudges if nothing ever arrives, in milliseconds after the nomination.
fn nudges(controlling: bool, answered: Option<u64>) -> Vec<u64> {
    let start = Instant::now();
    let mut path = Path::default();
    path.want(address(OURS), &kernel(None, 0, 0), controlling, start);
    let mut times = Vec::new();
    while let Some(at) = path.poll_timeout() {
        let passed = at.duration_since(start).as_millis() as u64;
        if answered.is_some_and(|answered| passed >= answered) {
            path.compare(&kernel(Some(OURS), 0, 148), at);
            path.compare(&kernel(Some(OURS), 148, 148), at);
        }
        if path.take_nudge(controlling, at) {
            times.push(passed);
        }
    }
    path.compare(&kernel(Some(OURS), 0, 0), start + Duration::from_secs(60));
    assert!(!path.is_unsettled(), "it waits for ever");
    times
}

#[test]
fn the_tunnel_is_nudged_until_something_arrives_and_the_sides_take_turns() {
    assert_eq!(nudges(true, None), [0, 1_000, 5_200, 10_500]);
    assert_eq!(nudges(false, None), [500, 1_500, 5_700, 11_000]);
    assert_eq!(nudges(true, Some(500)), [0]);
    assert!(nudges(false, Some(100)).is_empty());
}

#[test]
fn a_dump_from_before_the_nomination_is_no_sign_of_life() {
    let start = Instant::now();
    let mut path = Path::default();
    path.want(address(OURS), &kernel(Some(THEIRS), 100, 100), true, start);
    path.compare(&kernel(Some(OURS), 5_000, 5_000), start);
    assert!(path.is_unsettled(), "those bytes came before");
    path.compare(&kernel(Some(OURS), 5_032, 5_000), start);
    assert!(!path.is_unsettled());
}

#[test]
fn late_packets_from_the_former_endpoint_are_no_reason_to_follow_for_a_while() {
    let start = Instant::now();
    let mut path = Path::default();
    path.want(address(THEIRS), &kernel(None, 0, 0), true, start);
    path.want(address(OURS), &kernel(Some(THEIRS), 0, 0), true, start);
    path.hand_over(address(THEIRS), start);
    let (put_back, leave) = (Verdict::Set(address(OURS)), Verdict::Leave);
    // Milliseconds, the kernel's endpoint, its receive counter.
    for (millis, endpoint, rx_bytes, expected) in [
        (10, THEIRS, 1, put_back),
        (50, THEIRS, 2, leave),
        (120, THEIRS, 3, put_back),
        (200, OURS, 4, leave),
        (330, THEIRS, 5, put_back),
        (400, THEIRS, 6, leave),
        (800, THEIRS, 7, put_back),
        // Another address is no late packet.
        (1_000, ELSEWHERE, 8, leave),
        (1_100, ELSEWHERE, 9, leave),
        // After all that time, the peer must have a reason.
        (10_100, THEIRS, 10, leave),
        (10_200, THEIRS, 11, leave),
        (15_000, THEIRS, 12, leave),
    ] {
        let now = start + Duration::from_millis(millis);
        let verdict = path.compare(&kernel(Some(endpoint), rx_bytes, 0), now);
        assert_eq!(verdict, expected, "after {millis} ms");
    }
}
