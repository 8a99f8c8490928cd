//! Whether WireGuard moves data of a peer, by what the kernel has counted.
//!
//! Knows no path: keepalives and handshakes are no data.

use std::time::{Duration, Instant};

use crate::device;

/// What the kernel counted lately.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// When a period began, and the bytes of both directions until then.
    period: Option<(Instant, u64)>,
    /// When it was looked at for the first time.
    first: Option<Instant>,
    /// When data was last seen.
    data: Option<Instant>,
    busy: bool,
    resting: bool,
}

/// Bytes are compared over this, or until they are data; dumps may be more frequent.
const PERIOD: Duration = Duration::from_millis(2_500);
/// More bytes in a period than a handshake and keepalives have, fewer than one ping a second.
const DATA: u64 = 512;
/// After the last data, a peer stays busy for this long.
const BUSY: Duration = Duration::from_secs(10);
/// After this long without data, or without any since it appeared, nobody is expected to use the peer in the next seconds.
const REST: Duration = Duration::from_secs(60);

impl Traffic {
    /// Takes the counters of a dump.
    pub(super) fn observe(&mut self, kernel: &device::Peer, now: Instant) {
        let bytes = kernel.rx_bytes.saturating_add(kernel.tx_bytes);
        let (since, before) = *self.period.get_or_insert((now, bytes));
        let moved = bytes > before.saturating_add(DATA);
        if moved {
            self.data = Some(now);
        }
        if moved || now >= since + PERIOD {
            self.period = Some((now, bytes));
        }
        self.busy = self.data.is_some_and(|data| now < data + BUSY);
        let first = *self.first.get_or_insert(now);
        self.resting = now >= self.data.unwrap_or(first) + REST;
    }

    /// Tells whether data was moved lately.
    pub(super) const fn is_busy(&self) -> bool {
        self.busy
    }

    /// Tells whether no data was moved for so long that dumps may be rare.
    pub(super) const fn is_resting(&self) -> bool {
        self.resting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(bytes: u64) -> device::Peer {
        device::Peer {
            rx_bytes: bytes,
            ..device::Peer::default()
        }
    }

    #[test]
    fn data_is_noticed_at_the_first_dump_that_shows_it() {
        let (mut traffic, start) = (Traffic::default(), Instant::now());
        traffic.observe(&counted(0), start);
        traffic.observe(&counted(DATA), start + Duration::from_millis(50));
        assert!(!traffic.is_busy());
        traffic.observe(&counted(DATA + 1), start + Duration::from_millis(100));
        assert!(traffic.is_busy());
        traffic.observe(&counted(DATA + 1), start + BUSY);
        assert!(traffic.is_busy());
        traffic.observe(&counted(DATA + 1), start + BUSY + PERIOD);
        assert!(!traffic.is_busy() && !traffic.is_resting());
        traffic.observe(&counted(DATA + 1), start + REST + PERIOD);
        assert!(traffic.is_resting());
        traffic.observe(&counted(3 * DATA), start + REST + 2 * PERIOD);
        assert!(traffic.is_busy() && !traffic.is_resting());
    }

    #[test]
    fn a_trickle_over_many_dumps_is_no_data() {
        let (mut traffic, start) = (Traffic::default(), Instant::now());
        for second in 0..60_u32 {
            let bytes = u64::from(second) * 100;
            traffic.observe(&counted(bytes), start + Duration::from_secs(1) * second);
            assert!(!traffic.is_busy());
        }
    }
}
