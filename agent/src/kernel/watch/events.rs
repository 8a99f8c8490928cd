//! rtnetlink's multicast messages about links and addresses, and which of them matter.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::MulticastGroup;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::warn;

use super::Change;
use crate::kernel::links::{Link, LinkKind};

/// rtnetlink's multicast messages.
pub(super) struct Events {
    messages: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    /// Ends with the value.
    _connection: JoinSet<()>,
}

/// Pause between attempts to listen again.
const REOPEN: Duration = Duration::from_secs(1);

impl Events {
    /// Starts to listen.
    pub(super) fn open() -> io::Result<Self> {
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ])?;
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        Ok(Self {
            messages: messages.map(|(message, _)| message).boxed(),
            _connection: tasks,
        })
    }

    /// Waits for the next message that matters; cancel-safe. When listening ended, it begins anew.
    pub(super) async fn next(&mut self) -> Change {
        loop {
            match self.messages.next().await {
                Some(message) => {
                    if let Some(change) = concern(&message.payload) {
                        return change;
                    }
                }
                None => match Self::open() {
                    Ok(events) => {
                        *self = events;
                        return Change::Both;
                    }
                    Err(error) => {
                        warn!(%error, "cannot listen for changes of links and addresses; trying again");
                        self.messages = futures_util::stream::empty().boxed();
                        sleep(REOPEN).await;
                    }
                },
            }
        }
    }
}

/// Sorts a multicast message.
fn concern(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<Change> {
    match payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message),
        ) => {
            // Ports of a bridge speak of themselves as links, too.
            if message.header.interface_family == AddressFamily::Bridge {
                return None;
            }
            Some(match Link::from_message(message)?.kind {
                LinkKind::Wireguard => Change::Links,
                // Whether it is WireGuard is for its socket to say.
                LinkKind::Tun => Change::Both,
                LinkKind::Other => Change::Addresses,
            })
        }
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_),
        ) => Some(Change::Addresses),
        // ENOBUFS: messages were lost, and nobody knows which.
        NetlinkPayload::Overrun(_) => Some(Change::Both),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, NetlinkPayload, concern};

    #[test]
    fn lost_events_count_as_a_change_of_everything() {
        assert_eq!(
            concern(&NetlinkPayload::Overrun(Vec::new())),
            Some(Change::Both)
        );
    }
}
