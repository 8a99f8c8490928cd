//! The D-Bus service.
