//! Which connections one session tries, and when: few, one after the other, and only where UDP has had its chance.
//!
//! Knows addresses and time; opens nothing.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::candidates::is_passive;
use crate::candidate::{Candidate, Kind};
use crate::ice::LocalCandidate;

/// A connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attempt {
    /// The address of ours that it leaves from.
    pub(crate) base: IpAddr,
    /// A passive candidate of the peer's.
    pub(crate) remote: SocketAddr,
}

/// The connections of one session.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    waiting: VecDeque<Attempt>,
    tried: BTreeSet<Attempt>,
    next: Option<Instant>,
}

/// How long UDP has for itself. A path over a NAT takes a tenth of that, and whoever loses nothing by it waits no longer.
const HEAD_START: Duration = Duration::from_millis(1_500);
/// Between two connections.
const PACE: Duration = Duration::from_millis(100);
/// Connections in one session: what a peer offers makes us send no more than a few packets to any address.
const MOST: usize = 8;

impl Attempts {
    /// Begins, a while after the session was paired, or at once where UDP is known to lead nowhere.
    pub(crate) fn begin(&mut self, is_udp_blocked: bool, now: Instant) {
        let at = if is_udp_blocked {
            now
        } else {
            now + HEAD_START
        };
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// UDP is known to lead nowhere by now: no reason to wait.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.next = self.next.map(|next| next.min(now));
    }

    /// UDP works, or nothing is to be tried any more.
    pub(crate) fn stop(&mut self) {
        self.next = None;
    }

    /// Tries what follows from the present candidates of both sides, the best ones first.
    pub(crate) fn set(&mut self, locals: &[LocalCandidate], remotes: &[Candidate]) {
        let bases: BTreeSet<(usize, SocketAddr)> = (locals.iter())
            .filter(|local| local.kind == Kind::Host)
            .map(|local| local.base)
            .enumerate()
            .collect();
        let mut passive: Vec<&Candidate> = remotes.iter().filter(|it| is_passive(it)).collect();
        passive.sort_by_key(|candidate| std::cmp::Reverse(candidate.priority));
        let mut attempts: Vec<(usize, Attempt)> = Vec::new();
        for (rank, remote) in passive.iter().enumerate() {
            let remote = remote.socket_addr();
            let fitting = (bases.iter()).filter(|(_, base)| {
                base.is_ipv4() == remote.is_ipv4()
                    && base.ip().is_loopback() == remote.ip().is_loopback()
                    && *base != remote
            });
            attempts.extend(fitting.map(|(index, base)| {
                let base = base.ip();
                (rank + index, Attempt { base, remote })
            }));
        }
        attempts.sort();
        self.waiting = (attempts.into_iter())
            .map(|(_, attempt)| attempt)
            .filter(|attempt| !self.tried.contains(attempt))
            .collect();
    }

    /// The connection that is due.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Attempt> {
        if self.poll_timeout()? > now {
            return None;
        }
        let attempt = self.waiting.pop_front()?;
        self.tried.insert(attempt);
        self.next = Some(now + PACE);
        Some(attempt)
    }

    /// When [`Attempts::take`] has one.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let more = !self.waiting.is_empty() && self.tried.len() < MOST;
        self.next.filter(|_| more)
    }
}

#[cfg(test)]
mod tests {
    use super::{Attempt, Attempts, HEAD_START, MOST, PACE};
    use crate::candidate::{Candidate, Kind};
    use crate::ice::LocalCandidate;
    use crate::tcp::candidates::passive;
    use std::net::SocketAddr;
    use std::time::Instant;

    fn locals(addresses: &[&str]) -> Vec<LocalCandidate> {
        let local = |text: &&str| {
            let base: SocketAddr = text.parse().expect("an address");
            LocalCandidate {
                kind: Kind::Host,
                address: base,
                base,
            }
        };
        addresses.iter().map(local).collect()
    }

    fn offered(addresses: &[&str]) -> Vec<Candidate> {
        let locals = locals(addresses);
        passive(&locals, &locals.iter().map(|it| it.base).collect(), true)
    }

    #[test]
    fn udp_has_a_head_start_unless_it_is_blocked() {
        let now = Instant::now();
        let mut attempts = Attempts::default();
        attempts.set(&locals(&["192.0.2.1:1"]), &offered(&["192.0.2.2:2"]));
        assert_eq!(attempts.poll_timeout(), None);
        attempts.begin(false, now);
        assert_eq!(attempts.poll_timeout(), Some(now + HEAD_START));
        assert_eq!(attempts.take(now), None);
        attempts.begin(true, now);
        let attempt = Attempt {
            base: "192.0.2.1".parse().expect("an address"),
            remote: offered(&["192.0.2.2:2"])[0].socket_addr(),
        };
        assert_eq!(attempts.take(now), Some(attempt));
        assert_eq!(attempts.take(now + HEAD_START), None, "each is tried once");
    }

    #[test]
    fn connections_are_paced_and_few_and_of_one_family() {
        let now = Instant::now();
        let mut attempts = Attempts::default();
        let ours = locals(&[
            "[2001:db8::1]:1",
            "192.0.2.1:1",
            "192.0.2.2:1",
            "192.0.2.3:1",
        ]);
        let theirs = offered(&[
            "198.51.100.1:2",
            "198.51.100.2:2",
            "198.51.100.3:2",
            "198.51.100.4:2",
        ]);
        attempts.set(&ours, &theirs);
        attempts.begin(true, now);
        let mut at = now;
        let mut taken = Vec::new();
        while let Some(due) = attempts.poll_timeout() {
            assert!(due <= at, "the next one is due");
            taken.push(attempts.take(at).expect("it is due"));
            assert_eq!(attempts.take(at), None, "not two at once");
            at += PACE;
            attempts.set(&ours, &theirs);
        }
        assert_eq!(taken.len(), MOST);
        assert!(taken.iter().all(|it| it.base.is_ipv4()));
        assert_eq!(taken[0].remote, theirs[0].socket_addr());
    }

    #[test]
    fn nothing_is_tried_once_udp_works() {
        let now = Instant::now();
        let mut attempts = Attempts::default();
        attempts.set(&locals(&["192.0.2.1:1"]), &offered(&["192.0.2.2:2"]));
        attempts.begin(true, now);
        attempts.stop();
        assert_eq!(attempts.take(now), None);
    }
}
