//! WireGuard interfaces, links and addresses of this machine, over netlink and the UAPI socket.
