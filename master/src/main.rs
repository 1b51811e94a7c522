//! Loads the configuration, starts the master, waits for a signal, stops it.
//!
//! Invariant: exit 0 after a stop, 64 for wrong usage, 74 when the data cannot be used, 1 otherwise.

use std::{error::Error, process::ExitCode};

use skein_master::{
    config::{Config, with_causes},
    process,
    server::Master,
};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let config = match Config::parse(std::env::args_os()) {
        Ok(config) => config,
        Err(error) => return error.tell().into(),
    };
    process::init_logs(config.log_format);
    process::raise_open_files();
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, error)) => {
            eprintln!("skein-master: {}", with_causes(error.as_ref()));
            code.into()
        }
    }
}

#[tokio::main]
async fn run(config: Config) -> Result<(), (u8, Box<dyn Error>)> {
    let failed = |error: std::io::Error| (1, error.into());
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let master = Master::start(config.master).await.map_err(|error| (error.exit_code(), error.into()))?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("asked to stop");
    master.stop().await;
    Ok(())
}
