//! The container engine Docker, from 20.10 (API 1.41) on.
//!
//! Invariant: touches only containers that carry the owner's labels; every call is bounded in
//! time; a step repeated after a crash finds its own work by the deterministic name.
//! Deliberately not here: retries, back-off, order of steps (`agent/core`, `executor`).

mod body;
mod bridge;
mod call_error;
mod cgroup;
mod command;
mod connection;
mod devices;
mod events;
mod exec;
mod labels;
mod logs;
mod placeholders;
mod pull;
mod rfc3339;
mod stats;
mod view;

use std::{collections::HashMap, net::Ipv4Addr, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use bollard::{
    models::ContainerInspectResponse,
    query_parameters::{
        CreateContainerOptions, ListContainersOptions, RemoveContainerOptions, StartContainerOptions,
        StopContainerOptions,
    },
};
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use skein_common::InstanceId;
use tokio::{
    task,
    time::{self, Instant},
};

use self::call_error::CallError;
use self::connection::Connection;
pub use self::connection::{InvalidHost, Limits};
pub use self::devices::DevicePaths;
use super::{
    ContainerConfig, ContainerRuntime, ContainerSample, ContainerView, Exec, ExecCommand, ExecEnd, LogLine,
    LogQuery, Owner, RuntimeError, RuntimeEvent, TerminalSize, container_name,
};

/// Questions to the engine at the same time while listing.
const INSPECTS_AT_ONCE: usize = 8;
/// How often to look whether a removal that goes on elsewhere is done.
const REMOVAL_POLL: Duration = Duration::from_millis(100);

/// Docker at one address. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DockerRuntime {
    connection: Connection,
    node_name: Arc<str>,
    devices: Arc<DevicePaths>,
    /// Of containers that name none.
    resolver: Arc<ArcSwapOption<Ipv4Addr>>,
}

impl DockerRuntime {
    /// Does not dial yet: the engine may come later.
    ///
    /// # Errors
    /// [`InvalidHost`] when `host` is neither `unix:///path` nor `tcp://host:port`.
    pub fn new(host: &str) -> Result<Self, InvalidHost> {
        Self::with_limits(host, Limits::default())
    }

    /// With other time limits than the default ones.
    ///
    /// # Errors
    /// As [`DockerRuntime::new`].
    pub fn with_limits(host: &str, limits: Limits) -> Result<Self, InvalidHost> {
        Ok(Self {
            connection: Connection::new(host, limits)?,
            node_name: Arc::default(),
            devices: Arc::default(),
            resolver: Arc::default(),
        })
    }

    /// The node's name, for those who ask for it in their spec.
    #[must_use]
    pub fn on_node(self, name: &str) -> Self {
        Self { node_name: name.into(), ..self }
    }

    /// What to hand to an instance that has been given one of these.
    #[must_use]
    pub fn with_devices(self, devices: DevicePaths) -> Self {
        Self { devices: Arc::new(devices), ..self }
    }

    async fn inspect_raw(&self, id: &str) -> Result<Option<ContainerInspectResponse>, RuntimeError> {
        let answer =
            self.connection
                .call(self.connection.limits.read, |docker| async move {
                    docker.inspect_container(id, None).await
                })
                .await;
        match answer {
            Ok(container) => Ok(Some(container)),
            Err(error) if error.is(404) => Ok(None),
            Err(error) => Err(error.on_read(id)),
        }
    }

    /// The name is taken: by an earlier run of this very step, or by somebody else.
    async fn adopt(
        &self,
        owner: Owner,
        config: &ContainerConfig,
        name: &str,
    ) -> Result<String, RuntimeError> {
        let Some(container) = self.inspect_raw(name).await? else {
            return Err(RuntimeError::Unavailable(format!("{name} is being made or removed")));
        };
        let id = container.id.clone().unwrap_or_default();
        match view::view(owner, container) {
            Some(ours) if is_same_step(&ours, config) => Ok(ours.id),
            _ => Err(RuntimeError::Rejected(format!(
                "the name {name} is taken by container {}, which is not ours",
                id.get(..12).unwrap_or(&id)
            ))),
        }
    }

    /// Somebody's removal of it goes on; waits until it is done.
    async fn removed(&self, id: &str) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + self.connection.limits.change;
        while self.inspect_raw(id).await?.is_some() {
            if Instant::now() >= deadline {
                return Err(RuntimeError::Failed(format!("the removal of container {id} does not end")));
            }
            time::sleep(REMOVAL_POLL).await;
        }
        Ok(())
    }
}

impl ContainerRuntime for DockerRuntime {
    fn resolve_with(&self, server: Option<Ipv4Addr>) {
        self.resolver.store(server.map(Arc::new));
    }

    async fn version(&self) -> Result<String, RuntimeError> {
        let limit = self.connection.limits.read;
        let answer = self.connection.call(limit, |docker| async move { docker.version().await }).await;
        let version = answer.map_err(|error| error.on_read("version"))?;
        Ok(format!("docker {}", version.version.as_deref().unwrap_or("of an unknown version")))
    }

    /// One call for the list and one for each container: the list lacks exit codes and times.
    async fn list(&self, owner: Owner, only: Option<InstanceId>) -> Result<Vec<ContainerView>, RuntimeError> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([("label".to_owned(), labels::filter(owner, only))])),
            ..ListContainersOptions::default()
        };
        let limit = self.connection.limits.read;
        let answer = self
            .connection
            .call(limit, |docker| async move { docker.list_containers(Some(options)).await })
            .await;
        let found = answer.map_err(|error| error.on_read("list"))?;
        stream::iter(found.into_iter().filter_map(|container| container.id))
            .map(|id| async move { self.inspect(owner, &id).await })
            .buffer_unordered(INSPECTS_AT_ONCE)
            .try_filter_map(|view| async { Ok(view) })
            .try_collect()
            .await
    }

    async fn inspect(&self, owner: Owner, id: &str) -> Result<Option<ContainerView>, RuntimeError> {
        Ok(self.inspect_raw(id).await?.and_then(|container| view::view(owner, container)))
    }

    fn events(&self, owner: Owner) -> BoxStream<'static, RuntimeEvent> {
        events::events(self.connection.clone(), owner)
    }

    async fn has_image(&self, image: &str) -> Result<bool, RuntimeError> {
        let limit = self.connection.limits.read;
        let answer =
            self.connection.call(limit, |docker| async move { docker.inspect_image(image).await }).await;
        match answer {
            Ok(_) => Ok(true),
            Err(error) if error.is(404) => Ok(false),
            Err(error) => Err(error.on_read(image)),
        }
    }

    async fn pull(&self, image: &str) -> Result<(), RuntimeError> {
        pull::pull(&self.connection, image).await
    }

    async fn create(&self, owner: Owner, config: &ContainerConfig) -> Result<String, RuntimeError> {
        let name = container_name(&config.identity);
        let options =
            CreateContainerOptions { name: Some(name.clone()), ..CreateContainerOptions::default() };
        let filled = placeholders::filled(owner, &self.node_name, config);
        let body = body::body(owner, &filled, &self.devices, self.resolver.load().as_deref().copied());
        let limit = self.connection.limits.change;
        let answer = self
            .connection
            .call(limit, |docker| async move { docker.create_container(Some(options), body).await })
            .await;
        match answer {
            Ok(created) => Ok(created.id),
            Err(error) if error.is(409) => self.adopt(owner, config, &name).await,
            Err(error) => Err(error.on_create(&config.container.image)),
        }
    }

    /// A start that is rejected leaves no container: it would keep its name for nothing.
    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        let limit = self.connection.limits.start;
        let answer =
            self.connection
                .call(limit, |docker| async move {
                    docker.start_container(id, None::<StartContainerOptions>).await
                })
                .await;
        let Err(error) = answer else { return Ok(()) };
        let error = error.on_change(id);
        if let RuntimeError::Rejected(_) = &error
            && let Err(left) = self.remove(id).await
        {
            tracing::warn!(container = id, error = &left as &dyn std::error::Error, "left behind");
        }
        Err(error)
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let options = StopContainerOptions { t: Some(body::whole_seconds(grace)), signal: None };
        let limit = grace.saturating_add(self.connection.limits.change);
        let answer = self
            .connection
            .call(limit, |docker| async move { docker.stop_container(id, Some(options)).await })
            .await;
        match answer {
            Err(error) if !error.is(404) => Err(error.on_change(id)),
            _ => Ok(()),
        }
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let options = RemoveContainerOptions { v: true, force: true, ..RemoveContainerOptions::default() };
        let limit = self.connection.limits.change;
        let answer = self
            .connection
            .call(limit, |docker| async move { docker.remove_container(id, Some(options)).await })
            .await;
        match answer {
            Err(CallError::Refused { status: 409, message }) if message.contains("already in progress") => {
                self.removed(id).await
            }
            Err(error) if !error.is(404) => Err(error.on_change(id)),
            _ => Ok(()),
        }
    }

    async fn sample(&self, id: &str) -> Result<ContainerSample, RuntimeError> {
        let container = id.to_owned();
        match task::spawn_blocking(move || cgroup::sample(&container)).await {
            Ok(Some(sample)) => Ok(sample),
            Ok(None) | Err(_) => stats::sample(&self.connection, id).await,
        }
    }

    async fn prepare_exec(&self, id: &str, words: &[String]) -> Result<String, RuntimeError> {
        exec::prepare(&self.connection, id, words).await
    }

    async fn run_exec(&self, exec: &str) -> Result<ExecEnd, RuntimeError> {
        exec::run(&self.connection, exec).await
    }

    async fn exec_runs(&self, exec: &str) -> Result<bool, RuntimeError> {
        exec::runs(&self.connection, exec).await
    }

    fn logs(&self, id: &str, query: LogQuery) -> BoxStream<'static, Result<LogLine, RuntimeError>> {
        logs::logs(self.connection.clone(), id.to_owned(), query)
    }

    async fn exec(&self, id: &str, command: &ExecCommand) -> Result<Exec, RuntimeError> {
        command::exec(&self.connection, id, command).await
    }

    async fn resize_exec(&self, exec: &str, size: TerminalSize) -> Result<(), RuntimeError> {
        command::resize(&self.connection, exec, size).await
    }

    async fn exec_exit(&self, exec: &str) -> Result<i32, RuntimeError> {
        command::exit(&self.connection, exec).await
    }

    async fn end_exec(&self, exec: &str) -> Result<(), RuntimeError> {
        command::end(&self.connection, exec).await
    }
}

/// The generation may differ: a change that needs no new container leaves its label behind.
fn is_same_step(container: &ContainerView, config: &ContainerConfig) -> bool {
    (container.identity.instance, container.identity.attempt)
        == (config.identity.instance, config.identity.attempt)
}
