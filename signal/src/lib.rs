//! The rendezvous server of WICE as a library: mailboxes over REST and WebSocket, and STUN, in one process.
//!
//! The program is a thin shell around [`Server`]; tests run the same one. Messages are sealed: this server learns
//! the names of mailboxes, sizes, times and network addresses, and holds no secret of any peer.

mod api;
mod connection;
mod limit;
mod mailbox;
mod options;
mod problem;
mod server;
mod stop;
mod store;
mod stun;
mod tls;
mod token;

pub use options::{Limits, Options, TlsFiles};
pub use server::{Server, ServerError};
pub use tls::{Tls, TlsError};
pub use token::{InvalidToken, Token, TokenError};
