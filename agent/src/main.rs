//! wice-agent: gives existing WireGuard tunnels a direct path through NATs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use tracing::error;

mod capability;
mod cli;
mod config;
mod dbus;
mod driver;
mod host;
mod kernel;
mod lock;
mod logging;
mod metrics;
mod net;
mod signaling;
mod systemd;

use cli::{Cli, Exit};
use config::Config;
use driver::Driver;
use lock::{Lock, LockError};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let exit = if cli.generate_man {
        manual()
    } else if cli.check {
        check(&cli)
    } else {
        serve(cli)
    };
    ExitCode::from(exit as u8)
}

/// Prints the manual page, for those who install the agent.
fn manual() -> Exit {
    let page = clap_mangen::Man::new(Cli::command()).section("8");
    match page.render(&mut std::io::stdout()) {
        Ok(()) => Exit::Clean,
        Err(error) => {
            eprintln!("wice-agent: cannot print the manual page: {error}");
            Exit::Failed
        }
    }
}

fn check(cli: &Cli) -> Exit {
    match Config::load(cli.config.as_deref()) {
        Ok(config) => {
            for warning in &config.warnings {
                eprintln!("warning: {warning}");
            }
            println!(
                "the configuration is valid: {} signalling backends, {} ICE servers",
                config.backends.len(),
                config.servers.len()
            );
            Exit::Clean
        }
        Err(error) => {
            eprintln!("wice-agent: {error}");
            Exit::Configuration
        }
    }
}

fn serve(cli: Cli) -> Exit {
    logging::start(cli.log_level);
    let config = match Config::load(cli.config.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            error!("{error}");
            return Exit::Configuration;
        }
    };
    if let Err(error) = capability::check() {
        error!("{error}");
        return Exit::Failed;
    }
    let _lock = match Lock::acquire() {
        Ok(lock) => lock,
        Err(error) => {
            error!("{error}");
            return match error {
                LockError::Held(_) => Exit::AlreadyRunning,
                LockError::Io(..) => Exit::Failed,
            };
        }
    };
    // Every TLS connection of the process goes by the one provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(cli.config, config) {
        Ok(()) => Exit::Clean,
        Err(error) => {
            error!("{}", logging::causes(error.as_ref()));
            Exit::Failed
        }
    }
}

fn run(path: Option<PathBuf>, config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async { Driver::start(path, config).await?.run().await });
    // A name that is being looked up cannot be cancelled, and a dead resolver takes half a minute.
    runtime.shutdown_background();
    outcome
}
