//! The command line of the agent.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Gives existing WireGuard tunnels a direct path through NATs.
///
/// Reads peers and keys from the kernel's WireGuard interfaces, negotiates a path with each peer (ICE, RFC 8445) through a
/// signalling backend, and writes the endpoint that works back into the interface. Needs CAP_NET_ADMIN and CAP_NET_RAW.
/// Follow it with `wicectl status`.
#[derive(Debug, Parser)]
#[command(version = env!("WICE_VERSION"), after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// Read this file instead of /etc/wice/wice.toml, and FILE.d/*.toml after it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Validate the configuration, say what is wrong with it, and exit
    #[arg(long)]
    pub(crate) check: bool,

    /// Print the manual page as roff, and exit
    #[arg(long, hide = true)]
    pub(crate) generate_man: bool,

    /// Log from this level on
    #[arg(long, value_enum, default_value_t = Level::Info, value_name = "LEVEL")]
    pub(crate) log_level: Level,
}

const EXIT_CODES: &str = "Signals: SIGHUP reads the configuration again; SIGTERM and SIGINT leave, and keep every path.\n\
    Exit status: 0 left cleanly; 1 failed; 2 wrong usage or configuration; 5 another agent is running.";

/// How much is logged.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How the agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Clean = 0,
    Failed = 1,
    Configuration = 2,
    AlreadyRunning = 5,
}
