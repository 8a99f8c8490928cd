//! The endpoint that the kernel shall have for one peer, against everything else that writes it.
//!
//! Compares a wish with dumps; knows no candidate, no session and no signalling.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::device::Peer;

/// What one peer's endpoint should be, and how its last dumps compared.
#[derive(Debug, Default)]
pub struct Path {
    wanted: Option<SocketAddr>,
    /// The address of ours that packets leave from.
    source: Option<IpAddr>,
    /// Since when the kernel has had another endpoint, and the receive counter at that time.
    deviation: Option<Deviation>,
    hold: Hold,
    /// Until when the controlled side leaves a peer without endpoint to the other side's handshake.
    yielding: Option<Instant>,
    handshake: Option<Handshake>,
    former: Option<Former>,
}

/// The endpoint before a hand-over: what still arrives from it is late, and no reason to follow.
#[derive(Debug)]
struct Former {
    endpoint: SocketAddr,
    until: Instant,
    /// When ours is put back again at the earliest.
    next: Instant,
    pause: Duration,
    /// Until when dumps should be frequent.
    settled: Option<Instant>,
}

/// How long packets may be late: those in flight, and those that the other side sends until it has moved too.
const LATE: Duration = Duration::from_secs(10);
/// Between the first two times that ours is put back; doubles.
const PUT_BACK_FIRST: Duration = Duration::from_millis(100);
/// Most late packets come within this.
const SETTLING: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Deviation {
    since: Instant,
    endpoint: Option<SocketAddr>,
    rx_bytes: u64,
    tx_bytes: u64,
    roamed: bool,
}

/// How long another program's endpoint is left alone before ours is put back: doubles with each time.
#[derive(Debug)]
struct Hold(Duration);

const HOLD_FIRST: Duration = Duration::from_secs(1);
const HOLD_LAST: Duration = Duration::from_secs(60);
/// After roaming, the kernel's endpoint is believed until nothing has come from it for this long: two of the kernel's
/// own KEEPALIVE_TIMEOUT (drivers/net/wireguard/messages.h) while packets are sent.
const ROAMED_SILENCE: Duration = Duration::from_secs(20);

/// A wait for the first sign that packets travel the new way.
#[derive(Debug)]
struct Handshake {
    /// Of the first dump after the nomination: the one before may be seconds old.
    rx_bytes: Option<u64>,
    latest_handshake: Duration,
    nudges: usize,
    next: Option<Instant>,
}

/// How long the controlled side leaves a peer without endpoint as it is. With the endpoint, traffic that waits there would
/// send an initiation at once, at the same moment as the controlling side: they cross, neither handshake ends, and with
/// traffic on both sides they cross again at each REKEY_TIMEOUT (5 s). One initiation brings the endpoint by itself.
const YIELD: Duration = Duration::from_millis(200);

/// When the tunnel is nudged after its endpoint was set. The controlled side holds back, because initiations that cross
/// cancel each other until REKEY_TIMEOUT (5 s) is over; so the last ones come after that.
const NUDGES_CONTROLLING: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(1_000),
    Duration::from_millis(5_200),
    Duration::from_millis(10_500),
];
const NUDGES_CONTROLLED: [Duration; 4] = [
    Duration::from_millis(500),
    Duration::from_millis(1_500),
    Duration::from_millis(5_700),
    Duration::from_millis(11_000),
];

impl Default for Hold {
    fn default() -> Self {
        Self(HOLD_FIRST)
    }
}

/// What a dump asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Leave the kernel as it is.
    Leave,
    /// Write the wanted endpoint.
    Set(SocketAddr),
}

impl Path {
    /// Wishes for an endpoint, on a nomination; returns it when the kernel has another one. Where the kernel has none, the
    /// controlled side waits first for the other side's handshake.
    ///
    /// Waits for a sign of life afterwards, and nudges the tunnel meanwhile.
    pub fn want(
        &mut self,
        endpoint: SocketAddr,
        kernel: &Peer,
        controlling: bool,
        now: Instant,
    ) -> Verdict {
        let repeated = self.wanted == Some(endpoint);
        if repeated && self.deviation.as_ref().is_some_and(|it| it.roamed) {
            return Verdict::Leave;
        }
        self.wanted = Some(endpoint);
        self.deviation = None;
        self.former.take_if(|former| former.endpoint == endpoint);
        self.hold = Hold::default();
        let schedule = schedule(controlling);
        self.handshake = Some(Handshake {
            rx_bytes: None,
            latest_handshake: kernel.latest_handshake,
            nudges: 0,
            next: schedule.first().map(|delay| now + *delay),
        });
        let until = self.yielding.filter(|_| repeated);
        self.yielding =
            (!controlling && kernel.endpoint.is_none()).then(|| until.unwrap_or(now + YIELD));
        if self.yielding.is_some() || kernel.endpoint == Some(endpoint) {
            Verdict::Leave
        } else {
            Verdict::Set(endpoint)
        }
    }

    /// The way that `former` was the endpoint of is left for a better one, though it works: what arrives from there is late.
    pub fn hand_over(&mut self, former: SocketAddr, now: Instant) {
        if self.wanted != Some(former) {
            self.former = Some(Former {
                endpoint: former,
                until: now + LATE,
                next: now,
                pause: PUT_BACK_FIRST,
                settled: Some(now + SETTLING),
            });
        }
    }

    /// Takes the address of ours that packets leave from now; true when it is another one than before.
    ///
    /// Userspace WireGuard goes on to send from the old one until its endpoint is written again, even if it is the same.
    pub fn leaves_from(&mut self, source: IpAddr) -> bool {
        self.source.replace(source).is_some_and(|old| old != source)
    }

    /// Tells whether packets travel as wished: the kernel has the endpoint, or one that it roamed to since.
    pub fn is_in_place(&self, kernel: &Peer) -> bool {
        let roamed = self.deviation.as_ref().is_some_and(|it| it.roamed);
        self.wanted.is_some() && (roamed || kernel.endpoint == self.wanted)
    }

    /// Gives the wish up: the kernel keeps what it has.
    pub fn release(&mut self) {
        *self = Self::default();
    }

    /// The endpoint that was wished for.
    pub const fn wanted(&self) -> Option<SocketAddr> {
        self.wanted
    }

    /// Compares the wish with a dump.
    pub fn compare(&mut self, kernel: &Peer, now: Instant) -> Verdict {
        if let Some(handshake) = &mut self.handshake {
            let before = *handshake.rx_bytes.get_or_insert(kernel.rx_bytes);
            if handshake.next.is_none()
                || kernel.rx_bytes > before
                || kernel.latest_handshake > handshake.latest_handshake
            {
                self.handshake = None;
            }
        }
        let Some(wanted) = self.wanted else {
            return Verdict::Leave;
        };
        if kernel.endpoint.is_some() {
            self.yielding = None;
        } else if let Some(until) = self.yielding {
            if now < until {
                return Verdict::Leave;
            }
            self.yielding = None;
            return Verdict::Set(wanted);
        }
        if let Some(former) = &mut self.former {
            former.settled.take_if(|at| *at <= now);
        }
        if kernel.endpoint == Some(wanted) {
            self.deviation = None;
            return Verdict::Leave;
        }
        self.former.take_if(|former| former.until <= now);
        if let Some(former) = &mut self.former
            && kernel.endpoint == Some(former.endpoint)
        {
            if now < former.next {
                return Verdict::Leave;
            }
            former.next = now + former.pause;
            former.pause *= 2;
            return Verdict::Set(wanted);
        }
        let deviation = match &mut self.deviation {
            Some(deviation) if deviation.endpoint == kernel.endpoint => deviation,
            other => other.insert(Deviation {
                since: now,
                endpoint: kernel.endpoint,
                rx_bytes: kernel.rx_bytes,
                tx_bytes: kernel.tx_bytes,
                roamed: false,
            }),
        };
        // Every authenticated packet makes its source the endpoint: what still receives there has roamed.
        if kernel.rx_bytes > deviation.rx_bytes {
            deviation.roamed = true;
            deviation.since = now;
            deviation.rx_bytes = kernel.rx_bytes;
            deviation.tx_bytes = kernel.tx_bytes;
            return Verdict::Leave;
        }
        let patience = if deviation.roamed {
            if kernel.tx_bytes == deviation.tx_bytes {
                deviation.since = now;
            }
            ROAMED_SILENCE
        } else {
            self.hold.0
        };
        if now < deviation.since + patience {
            return Verdict::Leave;
        }
        self.deviation = None;
        self.hold.0 = (self.hold.0 * 2).min(HOLD_LAST);
        Verdict::Set(wanted)
    }

    /// Tells whether a nudge is due now; asks for the next one.
    pub fn take_nudge(&mut self, controlling: bool, now: Instant) -> bool {
        let Some(handshake) = &mut self.handshake else {
            return false;
        };
        let Some(due) = handshake.next.filter(|due| *due <= now) else {
            return false;
        };
        let schedule = schedule(controlling);
        let passed = schedule.get(handshake.nudges).copied();
        handshake.nudges += 1;
        handshake.next = match (passed, schedule.get(handshake.nudges)) {
            (Some(passed), Some(next)) => Some(due + (*next - passed)),
            _ => None,
        };
        true
    }

    /// Tells whether the kernel is about to change: a sign of life after the last nomination is still missing, or late packets
    /// may make it roam back.
    pub fn is_unsettled(&self) -> bool {
        let settling = self.former.as_ref().is_some_and(|it| it.settled.is_some());
        self.handshake.is_some() || settling
    }

    /// When the next nudge or comparison is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.handshake.as_ref().and_then(|handshake| handshake.next)
    }
}

fn schedule(controlling: bool) -> &'static [Duration; 4] {
    if controlling {
        &NUDGES_CONTROLLING
    } else {
        &NUDGES_CONTROLLED
    }
}

#[cfg(test)]
mod tests;
