//! Programs that are run in a container for a short answer.
//!
//! Invariant: what a program writes is read to its end, and only its beginning kept.
//! Deliberately not here: how long it may take (`prober`), terminals.

use bollard::{
    exec::{StartExecOptions, StartExecResults},
    models::{ExecConfig, ExecInspectResponse},
};
use futures_util::TryStreamExt;

use super::{
    super::{ExecEnd, RuntimeError},
    connection::Connection,
};

/// Of its output.
const KEPT_BYTES: usize = 1024;

pub(super) async fn prepare(
    connection: &Connection,
    id: &str,
    words: &[String],
) -> Result<String, RuntimeError> {
    let config = ExecConfig {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(words.to_vec()),
        ..ExecConfig::default()
    };
    let limit = connection.limits.change;
    let answer = connection.call(limit, |docker| async move { docker.create_exec(id, config).await }).await;
    answer.map(|made| made.id).map_err(|error| error.on_change(id))
}

pub(super) async fn run(connection: &Connection, exec: &str) -> Result<ExecEnd, RuntimeError> {
    let options = StartExecOptions::default();
    let limit = connection.limits.change;
    let started =
        connection.call(limit, |docker| async move { docker.start_exec(exec, Some(options)).await }).await;
    let mut kept = Vec::new();
    if let StartExecResults::Attached { mut output, .. } = started.map_err(|error| error.on_change(exec))? {
        // An engine that goes away in between ends the stream, and is noticed below.
        while let Ok(Some(part)) = output.try_next().await {
            let room = KEPT_BYTES.saturating_sub(kept.len());
            kept.extend(part.into_bytes().into_iter().take(room));
        }
    }
    match inspect(connection, exec).await?.exit_code {
        Some(exit_code) => Ok(ExecEnd { exit_code, output: String::from_utf8_lossy(&kept).into_owned() }),
        None => Err(RuntimeError::Unavailable("the end of the program is not known".to_owned())),
    }
}

pub(super) async fn runs(connection: &Connection, exec: &str) -> Result<bool, RuntimeError> {
    match inspect(connection, exec).await {
        Ok(state) => Ok(state.running.unwrap_or_default()),
        // Its container is gone, and it with it.
        Err(RuntimeError::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn inspect(connection: &Connection, exec: &str) -> Result<ExecInspectResponse, RuntimeError> {
    let limit = connection.limits.read;
    let answer = connection.call(limit, |docker| async move { docker.inspect_exec(exec).await }).await;
    answer.map_err(|error| error.on_change(exec))
}
