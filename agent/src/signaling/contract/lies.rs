//! Servers that lie: nothing that they send changes more than the state of their own backend.
