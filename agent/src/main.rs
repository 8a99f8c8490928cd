//! wice-agent: gives existing WireGuard tunnels a direct path through NATs.

mod cli;
mod config;
mod dbus;
mod driver;
mod kernel;
mod lock;
mod logging;
mod net;
mod signaling;
mod systemd;

fn main() {}
