//! The same tests with the mailboxes in NATS: what a client sees does not depend on the store.
#![allow(
    clippy::duplicate_mod,
    reason = "each file of tests brings its own view of the common part"
)]

#[path = "limits.rs"]
mod limits;
#[path = "rest.rs"]
mod rest;
#[path = "websocket.rs"]
mod websocket;
