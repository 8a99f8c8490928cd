//! The kernel's WireGuard, over the generic netlink family `wireguard` (include/uapi/linux/wireguard.h).
//!
//! Must not know: userspace WireGuard, and when to read or write. Nothing here may be logged: the messages carry
//! private and preshared keys, and their `Debug` prints them.

mod dump;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;

use std::io;
use std::net::SocketAddr;

use futures_util::StreamExt;
use genetlink::{GenetlinkError, GenetlinkHandle};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_generic::GenlMessage;
use netlink_packet_wireguard::{
    WireguardAttribute, WireguardCmd, WireguardMessage, WireguardPeer, WireguardPeerAttribute,
    WireguardPeerFlags,
};
use nix::errno::Errno;
use tokio::task::JoinSet;
use wice_core::device::Device;
use wice_core::key::PublicKey;

use self::dump::Dump;
use super::links::Link;
use super::{KernelError, Wireguard};

/// How often a dump is begun anew because a peer was added or removed while it was read (NLM_F_DUMP_INTR).
const ATTEMPTS: usize = 8;

/// A generic netlink connection; it exists whether or not the kernel has WireGuard.
pub(super) struct Netlink {
    handle: GenetlinkHandle,
    /// Ends with the value.
    _connection: JoinSet<()>,
}

impl Netlink {
    /// Opens the connection.
    pub(super) fn open() -> Result<Self, KernelError> {
        let (mut connection, handle, mut unsolicited) =
            genetlink::new_connection().map_err(|source| KernelError::Open {
                protocol: "generic netlink",
                source,
            })?;
        // Without its end mark, a dump cannot be told from the first part of one.
        connection.set_forward_done(true);
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        // Were nobody listening, the connection would log what it drops, keys included.
        tasks.spawn(async move { while unsolicited.next().await.is_some() {} });
        Ok(Self {
            handle,
            _connection: tasks,
        })
    }

    /// Sends one message and hands every answer to `absorb`; retries when the module was loaded anew.
    async fn request(
        &self,
        message: &WireguardMessage,
        flags: u16,
        mut absorb: impl FnMut(u16, WireguardMessage),
    ) -> Result<(), Failure> {
        match self.exchange(message.clone(), flags, &mut absorb).await {
            // The family's number that is cached may be of a module that was unloaded.
            Err(Failure::Errno(Errno::ENOENT | Errno::EOPNOTSUPP)) => {
                self.handle.clear_family_cache().await;
                self.exchange(message.clone(), flags, &mut absorb).await
            }
            other => other,
        }
    }

    async fn exchange(
        &self,
        message: WireguardMessage,
        flags: u16,
        absorb: &mut impl FnMut(u16, WireguardMessage),
    ) -> Result<(), Failure> {
        let mut handle = self.handle.clone();
        match handle.resolve_family::<WireguardMessage>().await {
            Ok(_) => {}
            Err(error) if errno(&error) == Some(Errno::ENOENT) => return Err(Failure::NoFamily),
            Err(error) => return Err(error.into()),
        }
        let mut request = NetlinkMessage::from(GenlMessage::from_payload(message));
        request.header.flags = flags;
        let answers = handle.request(request).await?;
        let mut answers = std::pin::pin!(answers);
        let mut done = flags & NLM_F_DUMP != NLM_F_DUMP;
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(|error| Failure::Malformed(error.to_string()))?;
            match answer.payload {
                NetlinkPayload::InnerMessage(inner) => absorb(answer.header.flags, inner.payload),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(Failure::from(error.to_io()));
                }
                NetlinkPayload::Done(end) if end.code < 0 => {
                    return Err(Failure::Errno(Errno::from_raw(-end.code)));
                }
                NetlinkPayload::Done(_) => done = true,
                _ => {}
            }
        }
        if done {
            Ok(())
        } else {
            Err(Failure::Malformed("it ends too early".to_owned()))
        }
    }
}

impl Wireguard for Netlink {
    async fn dump(&self, link: &Link) -> Result<Option<Device>, KernelError> {
        const ACTION: &str = "read";
        let message = get_device(link.index);
        for _ in 0..ATTEMPTS {
            let mut dump = Dump::new(link);
            let mut interrupted = false;
            let result = self
                .request(&message, NLM_F_REQUEST | NLM_F_DUMP, |flags, part| {
                    interrupted |= flags & NLM_F_DUMP_INTR != 0;
                    dump.absorb(part);
                })
                .await;
            match result {
                Ok(()) if interrupted => {}
                Ok(()) => return Ok(Some(dump.finish())),
                Err(Failure::Errno(Errno::ENODEV)) => return Ok(None),
                Err(failure) => return Err(failure.at(&link.name, ACTION)),
            }
        }
        Err(KernelError::Unsettled {
            interface: link.name.clone(),
        })
    }

    async fn write_endpoint(
        &self,
        link: &Link,
        peer: &PublicKey,
        endpoint: SocketAddr,
    ) -> Result<(), KernelError> {
        let message = set_endpoint(link.index, peer, endpoint);
        self.request(&message, NLM_F_REQUEST | NLM_F_ACK, |_, _| {})
            .await
            .map_err(|failure| failure.at(&link.name, "write an endpoint of"))
    }
}

/// Asks for one interface. By index: a link that was made anew under the same name is another one.
fn get_device(index: u32) -> WireguardMessage {
    WireguardMessage {
        cmd: WireguardCmd::GetDevice,
        attributes: vec![WireguardAttribute::IfIndex(index)],
    }
}

/// Writes one endpoint: no replace flag and no allowed IPs, so that nothing else changes.
fn set_endpoint(index: u32, peer: &PublicKey, endpoint: SocketAddr) -> WireguardMessage {
    WireguardMessage {
        cmd: WireguardCmd::SetDevice,
        attributes: vec![
            WireguardAttribute::IfIndex(index),
            WireguardAttribute::Peers(vec![WireguardPeer(vec![
                WireguardPeerAttribute::PublicKey(*peer.as_bytes()),
                WireguardPeerAttribute::Flags(WireguardPeerFlags::UpdateOnly),
                WireguardPeerAttribute::Endpoint(endpoint),
            ])]),
        ],
    }
}

/// Why a request failed, before it is known on which interface.
enum Failure {
    NoFamily,
    Errno(Errno),
    Socket(io::Error),
    Malformed(String),
}

impl Failure {
    fn at(self, interface: &str, action: &'static str) -> KernelError {
        match self {
            Self::NoFamily => KernelError::NoFamily {
                interface: interface.to_owned(),
            },
            Self::Errno(Errno::ENODEV) => KernelError::InterfaceGone {
                interface: interface.to_owned(),
            },
            Self::Errno(errno) => KernelError::refused(interface, action, errno.into()),
            Self::Socket(source) => KernelError::refused(interface, action, source),
            Self::Malformed(what) => KernelError::Malformed {
                interface: interface.to_owned(),
                action,
                what,
            },
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(code) => Self::Errno(Errno::from_raw(code)),
            None => Self::Socket(error),
        }
    }
}

impl From<GenetlinkError> for Failure {
    fn from(error: GenetlinkError) -> Self {
        match error {
            GenetlinkError::NetlinkError(error) => error.into(),
            GenetlinkError::DecodeError(error) => Self::Malformed(error.to_string()),
            // Its own text would carry the message that was sent.
            GenetlinkError::ProtocolError(_) => {
                Self::Socket(io::Error::other("the netlink connection is closed"))
            }
            other => Self::Malformed(other.to_string()),
        }
    }
}

fn errno(error: &GenetlinkError) -> Option<Errno> {
    match error {
        GenetlinkError::NetlinkError(error) => error.raw_os_error().map(Errno::from_raw),
        _ => None,
    }
}
