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
    until: Option<Instant>,
    busy: bool,
}

/// Bytes are compared over at least this; dumps may be more frequent.
const PERIOD: Duration = Duration::from_millis(2_500);
/// More bytes in a period than a handshake and keepalives have, fewer than one ping a second.
const DATA: u64 = 512;
/// After the last data, a peer stays busy for this long.
const BUSY: Duration = Duration::from_secs(10);

impl Traffic {
    /// Takes the counters of a dump.
    pub(super) fn observe(&mut self, kernel: &device::Peer, now: Instant) {
        let bytes = kernel.rx_bytes.saturating_add(kernel.tx_bytes);
        let (since, before) = *self.period.get_or_insert((now, bytes));
        if now >= since + PERIOD {
            self.period = Some((now, bytes));
            if bytes > before.saturating_add(DATA) {
                self.until = Some(now + BUSY);
            }
        }
        self.busy = self.until.is_some_and(|until| now < until);
    }

    /// Tells whether data was moved lately.
    pub(super) const fn is_busy(&self) -> bool {
        self.busy
    }
}
