//! Tells the service manager how the agent is.
