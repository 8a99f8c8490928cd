//! wicectl: shows what wice-agent does and asks it to do it again.
//!
//! Talks D-Bus only; knows the contract (`wice_bus`) and nothing else of the agent.

mod agent;
mod allowed;
mod cmd;
mod failure;
mod icmp;
mod print;
mod select;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use failure::{Exit, Failure};
use print::style::{Style, When};

/// Shows and steers the WICE agent, which gives WireGuard tunnels a direct path through NATs.
///
/// A PEER is its name, its public key, or the beginning of its key. Exit status: 0 done, 1 failed, 2 wrong usage,
/// 3 timeout, 4 not authorized, 8 the agent is not running, 10 no such interface or peer.
#[derive(Parser)]
#[command(version = env!("WICE_VERSION"), max_term_width = 100)]
struct Arguments {
    /// When to use colours; NO_COLOR in the environment turns `auto` off.
    #[arg(long, value_enum, default_value_t = When::Auto, global = true)]
    color: When,
    /// Prints the manual page as roff.
    #[arg(long, hide = true)]
    generate_man: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// Shows backends, interfaces and peers; this is what wicectl does when asked nothing else.
    Status(cmd::status::Options),
    /// Starts sessions anew; the present path stays in use until a new one is found.
    Restart(cmd::restart::Options),
    /// Prints one line for each change, until interrupted.
    Monitor(cmd::monitor::Options),
    /// Waits until a peer is connected.
    Wait(cmd::wait::Options),
    /// Pings a peer through the tunnel, and says by which path each reply came.
    Ping(cmd::ping::Options),
    /// Checks what this network does to UDP, which servers answer, and whether direct paths are likely.
    Netcheck(cmd::netcheck::Options),
    /// Explains a peer's path: both sides' addresses, every pair of them, and what would help.
    Explain(cmd::explain::Options),
    /// Makes the agent read its configuration again.
    Reload,
    /// Prints the versions of wicectl and of the agent.
    Version,
    /// Prints the completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)
        .and_then(|runtime| runtime.block_on(run(arguments)));
    match outcome {
        Ok(()) => Exit::Ok.into(),
        // Whoever read the output has had enough of it.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Exit::Ok.into()
        }
        Err(failure) => {
            eprintln!("wicectl: {failure}");
            failure.exit().into()
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    if arguments.generate_man {
        let page = print::manual::page(&Arguments::command()).map_err(Failure::Output)?;
        return print::out(&page);
    }
    let style = Style::new(arguments.color);
    match arguments.action {
        None => cmd::status::run(cmd::status::Options::default(), style).await,
        Some(Action::Status(options)) => cmd::status::run(options, style).await,
        Some(Action::Restart(options)) => cmd::restart::run(options).await,
        Some(Action::Monitor(options)) => cmd::monitor::run(&options, style).await,
        Some(Action::Wait(options)) => cmd::wait::run(&options).await,
        Some(Action::Ping(options)) => cmd::ping::run(&options, style).await,
        Some(Action::Netcheck(options)) => cmd::netcheck::run(&options, style).await,
        Some(Action::Explain(options)) => cmd::explain::run(&options, style).await,
        Some(Action::Reload) => cmd::reload::run().await,
        Some(Action::Version) => cmd::version::run().await,
        Some(Action::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "wicectl", &mut script);
            print::out(&String::from_utf8_lossy(&script))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_restart_needs_a_peer_or_all_of_them() {
        assert!(Arguments::try_parse_from(["wicectl", "restart"]).is_err());
        assert!(Arguments::try_parse_from(["wicectl", "restart", "a", "--all"]).is_err());
        assert!(Arguments::try_parse_from(["wicectl", "restart", "--all"]).is_ok());
    }
}
