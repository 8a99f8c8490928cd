//! What happens between two WICE agents: sessions, candidates, offers, timers.
//!
//! No I/O: no runtime, socket, clock or file. `now`, a seed and [`io::Input`] come in, [`io::Output`] comes out.

pub mod backoff;
pub mod candidate;
pub mod device;
pub mod explain;
pub mod gather;
pub mod ice;
pub mod io;
pub mod key;
pub mod mailbox;
pub mod mesh;
pub mod offer;
pub mod path;
pub mod relay;
pub mod seal;
pub mod server;
pub mod session;
pub mod settings;
pub mod sign;
pub mod status;
pub mod tcp;
pub mod turn;
