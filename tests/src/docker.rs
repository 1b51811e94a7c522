//! What Docker itself says about the containers of one cluster, beside what the cluster says.
//!
//! Invariant: only containers that carry the label of the given cluster, or that a test made
//! itself here, are ever killed or removed; [`Docker::cleanup`] does so when it is dropped, also
//! after a panic.
//! Deliberately not here: how agents use Docker (`agent/src/runtime/docker.rs`).

use std::{collections::HashMap, thread};

use anyhow::{Context as _, Result};
use bollard::{
    models::{ContainerCreateBody, ContainerInspectResponse},
    query_parameters::{
        CreateContainerOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
        RemoveContainerOptionsBuilder,
    },
};

const CLUSTER: &str = "io.skein.cluster";

/// One container as Docker shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub labels: std::collections::BTreeMap<String, String>,
    pub running: bool,
    /// Docker's text; equal means never restarted in between.
    pub started_at: String,
    pub pid: i64,
}

impl Container {
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// Same container, same process.
    #[must_use]
    pub fn is_untouched(&self, later: &Self) -> bool {
        self.id == later.id && self.started_at == later.started_at && self.pid == later.pid && later.running
    }
}

/// The daemon of this machine.
#[derive(Debug, Clone)]
pub struct Docker(bollard::Docker);

impl Docker {
    /// # Errors
    /// When no daemon answers.
    pub async fn connect() -> Result<Self> {
        let docker = bollard::Docker::connect_with_defaults().context("DOCKER_HOST")?;
        docker.negotiate_version().await.map(Self).context("no Docker daemon answers: run `make setup` first")
    }

    /// Containers with these labels, also those that ended, in order of id.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn with_labels(&self, labels: &[(&str, &str)]) -> Result<Vec<Container>> {
        let labels = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let mut found = Vec::new();
        for summary in self.0.list_containers(Some(options)).await.context("list containers")? {
            found.extend(self.inspect(&summary.id.unwrap_or_default()).await?);
        }
        found.sort();
        Ok(found)
    }

    /// All containers of a cluster.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn of_cluster(&self, cluster: &str) -> Result<Vec<Container>> {
        self.with_labels(&[(CLUSTER, cluster)]).await
    }

    /// Those of them that run.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn running(&self, cluster: &str) -> Result<Vec<Container>> {
        let mut all = self.of_cluster(cluster).await?;
        all.retain(|container| container.running);
        Ok(all)
    }

    /// One container; `None` when it is gone.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn inspect(&self, id: &str) -> Result<Option<Container>> {
        match self.0.inspect_container(id, None).await {
            Ok(seen) => Ok(Some(view(seen))),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("inspect {id}")),
        }
    }

    /// `docker kill`: SIGKILL to the container's process. One that ended already is left as it is.
    ///
    /// # Errors
    /// When Docker refuses.
    pub async fn kill(&self, id: &str) -> Result<()> {
        let options = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
        match self.0.kill_container(id, Some(options)).await {
            Err(error) if !is_not_found(&error) && !is_conflict(&error) => {
                Err(error).with_context(|| format!("kill {id}"))
            }
            _ => Ok(()),
        }
    }

    /// `docker rm -f`, with its anonymous volumes.
    ///
    /// # Errors
    /// When Docker refuses.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.0.remove_container(id, Some(options)).await {
            Err(error) if !is_not_found(&error) && !is_conflict(&error) => {
                Err(error).with_context(|| format!("remove {id}"))
            }
            _ => Ok(()),
        }
    }

    /// A running container that is none of the cluster's business.
    ///
    /// # Errors
    /// When Docker refuses.
    pub async fn run_foreign(&self, name: &str, image: &str, labels: &[(&str, &str)]) -> Result<Foreign> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            labels: Some(
                labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ),
            ..ContainerCreateBody::default()
        };
        let created =
            self.0.create_container(Some(options), body).await.context("create a foreign container")?;
        let foreign = Foreign { _cleanup: Cleanup::Container(created.id.clone()), id: created.id };
        self.0.start_container(&foreign.id, None).await.context("start a foreign container")?;
        Ok(foreign)
    }

    /// Removes whatever is left of the cluster when the answer is dropped.
    #[must_use]
    pub fn cleanup(&self, cluster: &str) -> Cleanup {
        Cleanup::Cluster(cluster.to_owned())
    }
}

/// A container that a test made itself; removed with its drop.
#[derive(Debug)]
pub struct Foreign {
    pub id: String,
    _cleanup: Cleanup,
}

/// Containers that end with the test.
#[derive(Debug)]
pub enum Cleanup {
    Cluster(String),
    Container(String),
}

impl Cleanup {
    async fn run(&self) -> Result<()> {
        let docker = Docker::connect().await?;
        match self {
            Self::Container(id) => docker.remove(id).await,
            Self::Cluster(cluster) => {
                for container in docker.of_cluster(cluster).await? {
                    docker.remove(&container.id).await?;
                }
                Ok(())
            }
        }
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        // A drop cannot wait on the test's own runtime.
        let outcome = thread::scope(|scope| {
            let work = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(self.run())
            };
            scope.spawn(work).join()
        });
        if !matches!(outcome, Ok(Ok(()))) {
            eprintln!("docker: {self:?} not removed: {outcome:?}");
        }
    }
}

fn view(seen: ContainerInspectResponse) -> Container {
    let state = seen.state.unwrap_or_default();
    Container {
        id: seen.id.unwrap_or_default(),
        name: seen.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        labels: seen.config.and_then(|config| config.labels).unwrap_or_default().into_iter().collect(),
        running: state.running.unwrap_or_default(),
        started_at: state.started_at.unwrap_or_default(),
        pid: state.pid.unwrap_or_default(),
    }
}

fn status(error: &bollard::errors::Error) -> u16 {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => *status_code,
        _ => 0,
    }
}

fn is_not_found(error: &bollard::errors::Error) -> bool {
    status(error) == 404
}

/// Not running, or being removed already.
fn is_conflict(error: &bollard::errors::Error) -> bool {
    status(error) == 409
}
