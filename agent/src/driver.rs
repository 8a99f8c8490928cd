//! Turns the core: feeds it what happens and does what it wants.
