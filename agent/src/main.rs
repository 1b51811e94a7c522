//! Loads the configuration, starts the agent, waits for a signal, stops it; containers go on.
//!
//! Invariant: exit 0 after a stop, 64 for wrong usage, 70 when a task died, 74 when the data cannot
//! be used, 1 otherwise.

use std::{error::Error, io::IsTerminal as _, path::Path, process::ExitCode};

use skein_agent::{
    agent::Agent,
    config::{Asked, Config, EXIT_USAGE, LogFormat, with_causes},
    identity::Identity,
    names,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let done = match Asked::parse(std::env::args_os()) {
        Ok(Asked::Run(config)) => {
            init_logs(config.log_format);
            run(*config)
        }
        Ok(Asked::Uninstall(folder)) => uninstall(&folder),
        Err(error) => return error.tell().into(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, error)) => {
            eprintln!("skein-agent: {}", with_causes(error.as_ref()));
            code.into()
        }
    }
}

fn uninstall(folder: &Path) -> Result<(), (u8, Box<dyn Error>)> {
    if !folder.is_dir() {
        return Err((EXIT_USAGE, format!("{} is no agent's folder", folder.display()).into()));
    }
    let identity = Identity::open(folder, 0).map_err(|error| (1, error.into()))?;
    let removed = names::uninstall(identity.node).map_err(|error| (1, error.into()))?;
    println!("{removed} addresses removed from this machine");
    Ok(())
}

/// One thread: the agent waits, for the engine and for masters; its memory matters more.
#[tokio::main(flavor = "current_thread")]
async fn run(config: Config) -> Result<(), (u8, Box<dyn Error>)> {
    let failed = |error: std::io::Error| (1, error.into());
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let agent = Agent::start(config.agent, config.runtime)
        .await
        .map_err(|error| (error.exit_code(), error.into()))?;
    let outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        died = agent.failed() => Err((died.exit_code(), died.into())),
    };
    tracing::info!("the agent ends; containers go on");
    agent.stop().await;
    outcome
}

fn init_logs(format: LogFormat) {
    let mut filter = EnvFilter::try_from_env("SKEIN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // In detail it would write whole requests, and with them the environment of containers.
    if let Ok(directive) = "bollard=info".parse() {
        filter = filter.add_directive(directive);
    }
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
}
