//! The thread that relays run on: nothing that the agent does else delays a packet, and no flood of packets the agent.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, LocalSet};
use tracing::error;
use wice_core::io::Packet;
use wice_core::relay::RelayOrder;
use wice_core::server::IceServer;

use super::conduit::Room;
use super::establish::Ground;
use super::interface::Interface;
use super::{News, Order, Traffic};

/// The thread, as the agent sees it; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Thread {
    orders: mpsc::UnboundedSender<Order>,
    ended: oneshot::Receiver<()>,
}

impl Thread {
    pub(super) fn start(
        news: mpsc::UnboundedSender<News>,
        packets: mpsc::Sender<Packet>,
        traffic: Arc<Traffic>,
    ) -> Self {
        let (orders, received) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        let spawned = std::thread::Builder::new()
            .name("relays".into())
            .spawn(move || {
                run(received, news, packets, traffic);
                let _ = end.send(());
            });
        if let Err(error) = spawned {
            error!("cannot start a thread for the relays: {error}; goes on without relays");
        }
        Self { orders, ended }
    }

    pub(super) fn set_servers(&self, servers: Vec<IceServer>) {
        self.tell(Order::Servers(servers));
    }

    pub(super) fn network_changed(&self) {
        self.tell(Order::NetworkChanged);
    }

    pub(super) fn order(&self, order: RelayOrder) {
        self.tell(Order::Relay(order));
    }

    /// Lets the thread end by itself.
    pub(super) async fn leave(self, patience: Duration) {
        drop(self.orders);
        let _ = tokio::time::timeout(patience, self.ended).await;
    }

    fn tell(&self, order: Order) {
        // Fails only after a panic of the thread, or when there was none: both were logged.
        let _ = self.orders.send(order);
    }
}

fn run(
    orders: mpsc::UnboundedReceiver<Order>,
    news: mpsc::UnboundedSender<News>,
    packets: mpsc::Sender<Packet>,
    traffic: Arc<Traffic>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            LocalSet::new().block_on(&runtime, serve(orders, news, packets, traffic));
            // A name that is being looked up cannot be cancelled.
            runtime.shutdown_background();
        }
        Err(error) => error!("cannot start a runtime for the relays: {error}; goes on without"),
    }
}

/// Hands each interface its orders, until there are no more.
async fn serve(
    mut orders: mpsc::UnboundedReceiver<Order>,
    news: mpsc::UnboundedSender<News>,
    packets: mpsc::Sender<Packet>,
    traffic: Arc<Traffic>,
) {
    let room = Rc::new(Room::new(traffic));
    let mut servers = Vec::new();
    let mut interfaces: BTreeMap<u32, mpsc::UnboundedSender<Order>> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    while let Some(order) = orders.recv().await {
        match &order {
            Order::Servers(list) => servers.clone_from(list),
            Order::NetworkChanged => {}
            Order::Relay(order) => {
                let interface = order.interface();
                match order {
                    RelayOrder::Allocate { wanted: false, .. } => {
                        interfaces.remove(&interface);
                        continue;
                    }
                    RelayOrder::Allocate { fwmark, .. } if !interfaces.contains_key(&interface) => {
                        let ground = Ground {
                            interface,
                            fwmark: *fwmark,
                            room: Rc::clone(&room),
                            packets: packets.clone(),
                            superseded: Rc::new(Cell::new(false)),
                        };
                        let (sender, received) = mpsc::unbounded_channel();
                        let new = Interface::new(ground, servers.clone(), news.clone());
                        tasks.spawn_local(new.run(received));
                        interfaces.insert(interface, sender);
                    }
                    _ => {}
                }
                match interfaces.get(&interface) {
                    Some(sender) => {
                        let _ = sender.send(Order::Relay(order.clone()));
                    }
                    None => refuse(order, &news),
                }
                continue;
            }
        }
        for sender in interfaces.values() {
            let _ = sender.send(order.clone());
        }
    }
    interfaces.clear();
    while tasks.join_next().await.is_some() {}
}

/// Answers for an interface that has no relay.
fn refuse(order: &RelayOrder, news: &mpsc::UnboundedSender<News>) {
    if let RelayOrder::Open {
        interface, peer, ..
    } = order
    {
        let _ = news.send(News::Route {
            interface: *interface,
            peer: *peer,
            endpoint: None,
        });
    }
}
