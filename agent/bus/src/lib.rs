//! The D-Bus contract of WICE.
