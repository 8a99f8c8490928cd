//! STUN on WireGuard's own UDP port.
