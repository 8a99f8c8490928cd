//! Waits until the path to a peer is direct: `wait-direct INTERFACE KEY`.

use futures_util::StreamExt;
use wice_bus::{ManagerProxy, PeerProxy, Snapshot};
use zbus::Connection;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(interface), Some(key)) = (arguments.next(), arguments.next()) else {
        return Err("usage: wait-direct INTERFACE KEY".into());
    };
    let connection = Connection::system().await?;
    let manager = ManagerProxy::new(&connection).await?;
    let path = manager.get_peer(&interface, &key).await?;
    let peer = PeerProxy::new(&connection, path).await?;
    // Listens first and asks then: nothing is missed in between.
    let mut changes = peer.receive_path_changed().await?;
    let snapshot = Snapshot::read(&connection).await?;
    let mut peers = snapshot.interfaces.iter().flat_map(|one| &one.peers);
    let now = peers
        .find(|one| one.public_key == key)
        .ok_or("the peer is gone")?;
    let mut path = now.packet_path.clone();
    println!("the path is {path}");
    while path != "direct" {
        let change = changes.next().await.ok_or("the agent or the bus is gone")?;
        path = change.args()?.new.to_owned();
    }
    println!("the path to {key} is direct");
    Ok(())
}
