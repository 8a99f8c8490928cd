//! wice-agent: gives existing WireGuard tunnels a direct path through NATs.

mod config;
mod dbus;
mod driver;
mod kernel;
mod net;
mod signaling;
mod systemd;

fn main() {}
