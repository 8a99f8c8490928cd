//! The whole room against real links, real userspace WireGuard and, where there is one, the kernel's.

mod addresses;
mod kernel;
mod lab;
mod userspace;
