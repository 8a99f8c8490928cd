//! Reads UDP sockets in batches, and gives other sockets their turn.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::sleep;
use tracing::warn;

use super::relay::Relay;
use super::socket::{Received, Scratch, Socket};

/// Batches that one socket may take before it is another's turn.
const TURN: usize = 4;

/// Serves clients on a socket, for ever.
pub(super) async fn serve(relay: Rc<RefCell<Relay>>, listener: usize, socket: Rc<Socket>) {
    let scratch = Rc::clone(&relay.borrow().scratch);
    pump(&socket, &scratch, |received| {
        relay.borrow_mut().clients_sent(listener, &socket, received);
    })
    .await;
}

/// Hands over whatever arrives at a socket, for ever.
pub(super) async fn pump(
    socket: &Rc<Socket>,
    scratch: &Rc<RefCell<Scratch>>,
    mut take: impl FnMut(&Received<'_>),
) {
    loop {
        if let Err(error) = socket.readable().await {
            return failed(socket, &error).await;
        }
        for _ in 0..TURN {
            let received = socket
                .receive(&mut scratch.borrow_mut())
                .map(|received| take(&received));
            match received {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    failed(socket, &error).await;
                    break;
                }
            }
        }
        yield_now().await;
    }
}

async fn failed(socket: &Socket, error: &io::Error) {
    warn!(address = %socket.address(), "cannot receive relayed packets: {error}; trying again");
    sleep(Duration::from_millis(200)).await;
}
