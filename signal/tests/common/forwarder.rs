//! A way to NATS that can be cut so that neither side notices: bytes are taken and go nowhere.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Forwards TCP from a port of loopback to another one.
pub struct Forwarder {
    pub port: u16,
    open: Arc<watch::Sender<bool>>,
    task: JoinHandle<()>,
}

impl Forwarder {
    /// Forwards to this port.
    pub async fn to(port: u16) -> Self {
        let target = SocketAddr::from(([127, 0, 0, 1], port));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let open = Arc::new(watch::Sender::new(true));
        let gate = Arc::clone(&open);
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let mut gate = gate.subscribe();
                tokio::spawn(async move {
                    // While it is cut, a new connection is accepted by the kernel and gets no further.
                    let _ = gate.wait_for(|open| *open).await;
                    let Ok(far) = TcpStream::connect(target).await else {
                        return;
                    };
                    let (near_in, near_out) = near.into_split();
                    let (far_in, far_out) = far.into_split();
                    tokio::join!(
                        copy(near_in, far_out, gate.clone()),
                        copy(far_in, near_out, gate)
                    );
                });
            }
        });
        Self { port, open, task }
    }

    /// Holds everything back from now on; the connections stay. What is held back arrives when it is opened again.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Lets everything through again.
    pub fn heal(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut gate: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(count) if count > 0 => count,
            _ => return,
        };
        if gate.wait_for(|open| *open).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
