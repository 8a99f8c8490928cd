//! The way to the agent: the system bus, one snapshot, and the stream of its signals.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, select};
use wice_bus::{Peer, SERVICE, Snapshot};
use zbus::connection::Builder;
use zbus::message::Type;
use zbus::{Connection, MatchRule, Message, MessageStream};

use crate::failure::Failure;

/// Beyond the 5 s that the agent itself allows for a slow answer.
const METHOD_TIMEOUT: Duration = Duration::from_secs(10);
/// Beyond the 120 s that the agent allows for a person who is asked for a password.
const PERSON_TIMEOUT: Duration = Duration::from_secs(130);

/// Connects to the system bus (`DBUS_SYSTEM_BUS_ADDRESS`, else the usual socket).
pub(crate) async fn connect() -> Result<Connection, Failure> {
    connect_within(METHOD_TIMEOUT).await
}

/// The same for what polkit may ask a password for.
pub(crate) async fn connect_patiently() -> Result<Connection, Failure> {
    connect_within(PERSON_TIMEOUT).await
}

/// The same for what takes as long as the caller knows.
pub(crate) async fn connect_within(timeout: Duration) -> Result<Connection, Failure> {
    Builder::system()
        .method_timeout(timeout)
        .build()
        .await
        .map_err(Failure::NoBus)
}

/// Reads everything that the agent shows.
pub(crate) async fn read(connection: &Connection) -> Result<Snapshot, Failure> {
    Ok(Snapshot::read(connection).await?)
}

/// Reads one peer.
pub(crate) async fn peer(connection: &Connection, path: &str) -> Result<Peer, Failure> {
    Ok(Peer::read(connection, path).await?)
}

/// The agent's signals, and those with which the bus says that it came or went.
///
/// Ends when the bus goes away.
pub(crate) async fn signals(
    connection: &Connection,
) -> Result<BoxStream<'static, Message>, Failure> {
    let agent = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(SERVICE)
        .path_namespace(wice_bus::path::ROOT)
        .build()?;
    let owner = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender("org.freedesktop.DBus")
        .member("NameOwnerChanged")
        .add_arg(SERVICE)
        .build()?;
    let agent = MessageStream::for_match_rule(agent, connection, None).await?;
    let owner = MessageStream::for_match_rule(owner, connection, None).await?;
    // `select` goes on with one stream when the other ends: both end with the connection.
    let signals = select(agent, owner).take_while(|signal| std::future::ready(signal.is_ok()));
    Ok(signals
        .filter_map(|signal| std::future::ready(signal.ok()))
        .boxed())
}
