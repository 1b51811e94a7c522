//! What the agent needs of a container engine.
//!
//! Invariant: an implementation touches only containers that carry this cluster's and this
//! node's labels, and every step is idempotent: repeating it after a crash does no harm.
//! Deliberately not here: when to do what (`agent/core`), who waits for it (`executor`).

pub mod docker;
pub mod fake;

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use futures_util::stream::BoxStream;
pub use skein_agent_core::container::{ContainerStatus, Health, RuntimeError};
use skein_common::{
    ClusterId, InstanceId, NodeId, ServiceId, Timestamp,
    instance::PortBinding,
    placement::DeviceShare,
    service::{ContainerSpec, Generation, ResourceRequirements},
};
use tokio::io::AsyncWrite;

/// Labels by which containers are found again. Docker spells the keys `io.skein.<field>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub instance: InstanceId,
    pub attempt: u32,
    pub service: ServiceId,
    pub service_name: String,
    /// 0 for a global service.
    pub slot: u32,
    pub generation: Generation,
}

/// Whose containers a runtime may see and touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub cluster: ClusterId,
    pub node: NodeId,
}

/// Everything a container is created from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerConfig {
    pub identity: Identity,
    pub container: ContainerSpec,
    pub resources: ResourceRequirements,
    pub ports: Vec<PortBinding>,
    /// Generic resources of the node that are its own.
    pub devices: Vec<DeviceShare>,
    /// Configs, as they lie on this node.
    pub files: Vec<FileMount>,
}

/// A file of the node that a container can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMount {
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: String,
}

/// A container of ours as the engine shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerView {
    /// The engine's id.
    pub id: String,
    pub identity: Identity,
    pub status: ContainerStatus,
    /// Its own on the node's bridge, while it runs.
    pub address: Option<IpAddr>,
}

/// A program that was run in a container came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecEnd {
    pub exit_code: i64,
    /// The beginning of what it wrote.
    pub output: String,
}

/// Something happened to a container of ours, or might have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// Look at this container again (started, died, health changed, removed by someone).
    /// `container` is the engine's id, for [`ContainerRuntime::inspect`].
    Changed { instance: InstanceId, container: String },
    /// Events may have been missed (the engine restarted): list again.
    Reconnected,
    /// The engine does not answer.
    Unavailable { reason: String },
}

/// A line a container wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub stderr: bool,
    pub at: Timestamp,
    pub line: bytes::Bytes,
}

/// Which lines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogQuery {
    pub follow: bool,
    pub tail: Option<u32>,
    pub since: Option<Timestamp>,
}

/// A command to run in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecCommand {
    /// Program and arguments.
    pub command: Vec<String>,
    /// With a terminal, on which stdout and stderr are one.
    pub tty: bool,
    pub stdin: bool,
    /// Empty = that of the container.
    pub user: String,
    pub working_dir: String,
    /// `NAME=value`, beside the container's own.
    pub environment: Vec<String>,
}

/// A command that runs.
pub struct Exec {
    /// The engine's id of it.
    pub id: String,
    /// What it writes, to its end; what is not taken is not read either.
    pub output: BoxStream<'static, Result<ExecOutput, RuntimeError>>,
    /// Its stdin; a shutdown is its end.
    pub input: Box<dyn AsyncWrite + Send + Unpin>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    pub stderr: bool,
    pub bytes: bytes::Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}

/// Counters of one container; rates are made from two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerSample {
    pub at: Timestamp,
    /// CPU time used since its start.
    pub cpu: Duration,
    /// Usage without inactive file cache.
    pub memory_bytes: u64,
    pub network_receive_bytes: u64,
    pub network_transmit_bytes: u64,
}

/// A container engine. Implementations bound every call in time.
pub trait ContainerRuntime: Send + Sync + 'static {
    /// Containers made from now on ask this name server; `None` = the engine's.
    fn resolve_with(&self, _server: Option<Ipv4Addr>) {}

    /// For people, e.g. `docker 20.10.24`.
    fn version(&self) -> impl Future<Output = Result<String, RuntimeError>> + Send;

    /// All containers of `owner`, or only those of one instance.
    fn list(
        &self,
        owner: Owner,
        only: Option<InstanceId>,
    ) -> impl Future<Output = Result<Vec<ContainerView>, RuntimeError>> + Send;

    /// One container by its engine's id or its name; `None` when it is gone or not `owner`'s.
    /// For events and after a start: asking for one is much cheaper than `list`.
    fn inspect(
        &self,
        owner: Owner,
        id: &str,
    ) -> impl Future<Output = Result<Option<ContainerView>, RuntimeError>> + Send;

    /// Events of `owner`'s containers, without end; begins with `Reconnected`.
    fn events(&self, owner: Owner) -> BoxStream<'static, RuntimeEvent>;

    /// Whether the image is on the node.
    fn has_image(&self, image: &str) -> impl Future<Output = Result<bool, RuntimeError>> + Send;

    fn pull(&self, image: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Makes the container under its deterministic name; an existing one of ours with that
    /// name is the answer, a foreign one is `Rejected`, an absent image is `Image`.
    fn create(
        &self,
        owner: Owner,
        config: &ContainerConfig,
    ) -> impl Future<Output = Result<String, RuntimeError>> + Send;

    /// Starting a running container is no error.
    fn start(&self, id: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Stop signal, then SIGKILL after `grace`. Stopping a stopped or absent container is no error.
    fn stop(&self, id: &str, grace: Duration) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Removes it with its anonymous volumes; absent is no error. Kills it when it runs.
    fn remove(&self, id: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Counters of a running container.
    fn sample(&self, id: &str) -> impl Future<Output = Result<ContainerSample, RuntimeError>> + Send;

    /// Makes ready to run a program in a running container; answers the engine's id of it.
    fn prepare_exec(
        &self,
        id: &str,
        words: &[String],
    ) -> impl Future<Output = Result<String, RuntimeError>> + Send;

    /// Runs it to its end. Whoever gives up waiting leaves it running: an engine ends none.
    fn run_exec(&self, exec: &str) -> impl Future<Output = Result<ExecEnd, RuntimeError>> + Send;

    /// Whether it still runs.
    fn exec_runs(&self, exec: &str) -> impl Future<Output = Result<bool, RuntimeError>> + Send;

    /// What it wrote; ends with the container unless it had ended before.
    fn logs(&self, id: &str, query: LogQuery) -> BoxStream<'static, Result<LogLine, RuntimeError>>;

    /// Runs a command in a running container.
    fn exec(
        &self,
        id: &str,
        command: &ExecCommand,
    ) -> impl Future<Output = Result<Exec, RuntimeError>> + Send;

    /// The terminal of a command has another size.
    fn resize_exec(
        &self,
        exec: &str,
        size: TerminalSize,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// The exit code of a command whose output has ended.
    fn exec_exit(&self, exec: &str) -> impl Future<Output = Result<i32, RuntimeError>> + Send;

    /// Ends a command, as far as the engine and the agent's rights allow; one that has ended is no error.
    fn end_exec(&self, exec: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;
}

/// `skein-<service>-<slot>-<instance>-<attempt>`: the same step always makes the same name.
#[must_use]
pub fn container_name(identity: &Identity) -> String {
    format!("skein-{}-{}-{}-{}", identity.service_name, identity.slot, identity.instance, identity.attempt)
}
