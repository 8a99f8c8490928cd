//! TCP streams between agents (RFC 6544), for hosts whose network passes no UDP: listeners beside WireGuard's port, connections,
//! and packets in frames (RFC 4571), on a thread of their own.
//!
//! Must not know which streams are good for what: the core keeps some, lets some carry a peer, and closes them.

mod frame;
mod limits;
mod listeners;
mod room;
mod socket;
mod stream;
#[cfg(test)]
mod tests;

use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tracing::error;
use wice_core::tcp::{TcpInput, TcpOrder};

use room::Room;

/// The streams as the agent sees them: nothing that it does else delays a packet, and no flood of packets delays the agent.
#[derive(Debug)]
pub(crate) struct Streams {
    /// None until the first order: most agents never need a thread for this.
    orders: Option<mpsc::UnboundedSender<TcpOrder>>,
    sender: mpsc::Sender<TcpInput>,
    inputs: mpsc::Receiver<TcpInput>,
}

/// News that wait until the agent has time for them.
const INPUTS: usize = 256;

impl Default for Streams {
    fn default() -> Self {
        let (sender, inputs) = mpsc::channel(INPUTS);
        Self {
            orders: None,
            sender,
            inputs,
        }
    }
}

impl Streams {
    /// Does what the core wants; answers come by [`Streams::next`]. The thread and its sockets belong to the network namespace
    /// of whoever gives the first order.
    pub(crate) fn order(&mut self, order: TcpOrder) {
        let orders = (self.orders).get_or_insert_with(|| start(self.sender.clone()));
        // Fails only after a panic of the thread, or when there was none: both were logged.
        let _ = orders.send(order);
    }

    /// Waits for news; nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> TcpInput {
        match self.inputs.recv().await {
            Some(input) => input,
            // A sender is a field of this very struct.
            None => std::future::pending().await,
        }
    }
}

/// Starts the thread, which ends when the sender that this answers is dropped.
fn start(inputs: mpsc::Sender<TcpInput>) -> mpsc::UnboundedSender<TcpOrder> {
    let (sender, orders) = mpsc::unbounded_channel();
    let spawned = std::thread::Builder::new()
        .name("streams".into())
        .spawn(move || run(orders, inputs));
    if let Err(error) = spawned {
        error!("cannot start a thread for TCP streams: {error}; goes on without them");
    }
    sender
}

fn run(orders: mpsc::UnboundedReceiver<TcpOrder>, inputs: mpsc::Sender<TcpInput>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => LocalSet::new().block_on(&runtime, serve(orders, inputs)),
        Err(error) => error!("cannot start a runtime for TCP streams: {error}; goes on without"),
    }
}

async fn serve(mut orders: mpsc::UnboundedReceiver<TcpOrder>, inputs: mpsc::Sender<TcpInput>) {
    let mut room = Room::default();
    loop {
        let input = tokio::select! {
            order = orders.recv() => match order {
                Some(order) => {
                    room.order(order);
                    continue;
                }
                None => return,
            },
            input = room.next() => input,
        };
        match input {
            // Checks are repeated; everything else is told once.
            TcpInput::Packet { .. } => {
                let _ = inputs.try_send(input);
            }
            _ => {
                // Nobody listens any more when the agent leaves.
                let _ = inputs.send(input).await;
            }
        }
    }
}
