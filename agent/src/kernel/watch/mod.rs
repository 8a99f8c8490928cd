//! Tells when links, addresses or UAPI sockets change.
//!
//! Must not know: what they changed to; whoever waits reads that anew. There is no event for WireGuard's own
//! configuration: the kernel has none.

mod events;
mod sockets;

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::warn;

use self::events::Events;
use self::sockets::Sockets;
use super::KernelError;

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// WireGuard interfaces appeared, vanished, or were renamed or switched on or off.
    Links,
    /// Addresses came, went, or moved to another state; or a link did that carries some.
    Addresses,
    /// Both, or events were lost.
    Both,
}

/// Listens on rtnetlink's multicast groups and on the socket directory.
pub(super) struct Watch {
    events: Events,
    sockets: Option<Sockets>,
    pending: Option<Pending>,
}

/// A change that waits for the burst to end.
struct Pending {
    change: Change,
    first: Instant,
    latest: Instant,
}

/// A burst has ended when nothing came for this long. Also the time that a userspace WireGuard has between making
/// its socket (which is seen) and listening on it (which is not).
const QUIET: Duration = Duration::from_millis(100);

/// A burst that does not end is reported after this long all the same.
const LONGEST_BURST: Duration = Duration::from_millis(500);

impl Change {
    /// Tells whether the list of WireGuard interfaces is to be read anew.
    pub(crate) fn links(self) -> bool {
        matches!(self, Self::Links | Self::Both)
    }

    /// Tells whether the list of addresses is to be read anew.
    pub(crate) fn addresses(self) -> bool {
        matches!(self, Self::Addresses | Self::Both)
    }

    fn and(self, other: Self) -> Self {
        if self == other { self } else { Self::Both }
    }
}

impl Watch {
    /// Starts to listen.
    pub(super) fn open() -> Result<Self, KernelError> {
        let events = Events::open().map_err(|source| KernelError::Open {
            protocol: "rtnetlink",
            source,
        })?;
        let sockets = Sockets::open()
            .inspect_err(|error| {
                warn!(%error, "cannot watch for userspace WireGuard (inotify); it is found when a link changes");
            })
            .ok();
        Ok(Self {
            events,
            sockets,
            pending: None,
        })
    }

    /// Waits for the end of the next burst of changes; cancel-safe.
    pub(super) async fn changed(&mut self) -> Change {
        loop {
            let due = self.pending.as_ref().map(Pending::due);
            let sockets = async {
                match &mut self.sockets {
                    Some(sockets) => sockets.changed().await,
                    None => std::future::pending().await,
                }
            };
            let settled = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let change = tokio::select! {
                // In this order, a burst that never pauses ends all the same.
                biased;
                () = settled => None,
                change = self.events.next() => Some(change),
                result = sockets => {
                    if let Err(error) = result {
                        warn!(%error, "no longer watching for userspace WireGuard; it is found when a link changes");
                        self.sockets = None;
                    }
                    // The addresses too: those of a tunnel are not ours to offer.
                    Some(Change::Both)
                }
            };
            match change {
                Some(change) => self.note(change),
                None => {
                    if let Some(pending) = self.pending.take() {
                        return pending.change;
                    }
                }
            }
        }
    }

    fn note(&mut self, change: Change) {
        let now = Instant::now();
        match &mut self.pending {
            Some(pending) => {
                pending.change = pending.change.and(change);
                pending.latest = now;
            }
            None => {
                self.pending = Some(Pending {
                    change,
                    first: now,
                    latest: now,
                });
            }
        }
    }
}

impl Pending {
    fn due(&self) -> Instant {
        (self.latest + QUIET).min(self.first + LONGEST_BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Duration, Instant, Pending};

    #[test]
    fn different_changes_of_one_burst_become_both() {
        assert_eq!(Change::Links.and(Change::Links), Change::Links);
        assert_eq!(Change::Links.and(Change::Addresses), Change::Both);
        assert_eq!(Change::Both.and(Change::Addresses), Change::Both);
    }

    #[test]
    fn a_burst_ends_with_a_pause_or_after_half_a_second() {
        let first = Instant::now();
        let due = |milliseconds| {
            let pending = Pending {
                change: Change::Links,
                first,
                latest: first + Duration::from_millis(milliseconds),
            };
            (pending.due() - first).as_millis()
        };
        assert_eq!((due(0), due(50), due(450)), (100, 150, 500));
    }
}
