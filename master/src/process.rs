//! What the process asks of its machine before it begins: log lines, open files.
//!
//! Invariant: called once, by `main`; masters inside a test leave both alone.

use std::{error::Error, io::IsTerminal as _};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Each agent is a connection: the soft limit of 1,024 files would be theirs alone.
pub fn raise_open_files() {
    let limits = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits }) {
        tracing::warn!(error = &error as &dyn Error, "the limit of open files stays as it is");
    }
}

/// Log lines on standard error; `SKEIN_LOG` filters them as `RUST_LOG` would. openraft warns with
/// every heartbeat to a dead peer; the store says the same once, and everything that is fatal.
pub fn init_logs(format: LogFormat) {
    let filter = EnvFilter::try_from_env("SKEIN_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=off"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
}
