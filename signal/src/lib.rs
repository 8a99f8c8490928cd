//! The rendezvous server of WICE as a library: mailboxes over REST and WebSocket, STUN and TURN, in one process.
//!
//! The program is a thin shell around [`Server`]; tests run the same one. Messages are sealed: this server learns
//! the names of mailboxes, sizes, times and network addresses, and holds no secret of any peer.

mod api;
mod connection;
mod limit;
mod mailbox;
mod metrics;
mod options;
mod problem;
mod proxy;
mod server;
mod stop;
mod store;
mod stun;
mod tls;
mod token;
mod turn;

pub use options::{
    BucketName, InvalidStore, Limits, NatsAuth, NatsOptions, NatsServers, NatsUser, Options,
    StoreFileError, TlsFiles, TurnLimits, TurnOptions,
};
pub use server::{Server, ServerError};
pub use store::NatsError;
pub use tls::{Tls, TlsError};
pub use token::{InvalidToken, Token, TokenError, Tokens};
pub use turn::{InvalidSecret, Secret, SecretError};
