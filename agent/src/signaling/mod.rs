//! Moves sealed messages between mailboxes, over several backends at once.
