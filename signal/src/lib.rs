//! The rendezvous server as a library, so that tests run the real one.
