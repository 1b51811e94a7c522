//! A cluster id and a node id nobody else has, and the removal of all that was made under them.

use std::{
    future::Future,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
use skein_agent::runtime::{
    ContainerConfig, ContainerRuntime, ContainerStatus, ContainerView, Health, Identity, Owner,
    docker::DockerRuntime,
};
use skein_common::{
    ClusterId, InstanceId, NodeId, ServiceId,
    instance::PortBinding,
    service::{ContainerSpec, Generation, Protocol, ResourceRequirements},
};
use tokio::time::{Instant, sleep};

pub const IMAGE: &str = "skein-sample:latest";
/// Where the sample listens.
pub const PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);
/// Of the containers a test makes without the runtime.
pub const FOREIGN_LABEL: &str = "io.skein.test";

pub struct Sandbox {
    pub runtime: DockerRuntime,
    pub owner: Owner,
}

fn host() -> String {
    std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned())
}

pub async fn daemon() -> bollard::Docker {
    let docker = bollard::Docker::connect_with_host(&host()).expect("DOCKER_HOST");
    docker.negotiate_version().await.expect("no Docker daemon answers: run tests/setup.sh first")
}

impl Sandbox {
    pub async fn new() -> Self {
        let runtime = DockerRuntime::new(&host()).expect("DOCKER_HOST");
        runtime.version().await.expect("no Docker daemon answers: run tests/setup.sh first");
        let has_image = runtime.has_image(IMAGE).await.expect("an answer about the image");
        assert!(has_image, "image {IMAGE} is missing: run tests/setup.sh first");
        let cluster = ClusterId::from_random(rand::random());
        Self { runtime, owner: Owner { cluster, node: NodeId::from_random(rand::random()) } }
    }

    pub async fn create(&self, config: &ContainerConfig) -> String {
        self.runtime.create(self.owner, config).await.expect("created")
    }

    /// Created and started.
    pub async fn run(&self, config: &ContainerConfig) -> String {
        let id = self.create(config).await;
        self.runtime.start(&id).await.expect("started");
        id
    }

    pub async fn view(&self, id: &str) -> Option<ContainerView> {
        self.runtime.inspect(self.owner, id).await.expect("an answer")
    }

    pub async fn status(&self, id: &str) -> ContainerStatus {
        self.view(id).await.expect("it is there").status
    }

    /// Its end, once it has ended: `(exit code, killed for memory, message)`.
    pub async fn end(&self, id: &str) -> (i64, bool, String) {
        wait_for("the end of the container", || async {
            match self.status(id).await {
                ContainerStatus::Exited { exit_code, oom_killed, message, .. } => {
                    Some((exit_code, oom_killed, message))
                }
                _ => None,
            }
        })
        .await
    }

    pub async fn health(&self, id: &str) -> Option<Health> {
        match self.status(id).await {
            ContainerStatus::Running { health, .. } => Some(health),
            _ => None,
        }
    }
}

impl Drop for Sandbox {
    /// On a thread of its own: the test's runtime may be the one that panics.
    fn drop(&mut self) {
        let Owner { cluster, node } = self.owner;
        let done = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| runtime.block_on(clean(cluster, node)))
        })
        .join();
        if !matches!(done, Ok(Ok(()))) {
            eprintln!("containers of cluster {cluster} may be left behind");
        }
    }
}

async fn clean(cluster: ClusterId, node: NodeId) {
    let docker = daemon().await;
    for label in [format!("io.skein.node={node}"), format!("{FOREIGN_LABEL}={cluster}")] {
        let filters = std::collections::HashMap::from([("label", vec![label])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        for container in docker.list_containers(Some(options)).await.expect("a list") {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            let removed = docker.remove_container(&container.id.unwrap_or_default(), Some(options)).await;
            removed.unwrap_or_else(|error| eprintln!("not removed: {error}"));
        }
    }
}

/// A container of the sample that does nothing special; service `web`, slot 1, attempt 1.
pub fn sample() -> ContainerConfig {
    ContainerConfig {
        identity: Identity {
            instance: InstanceId::from_random(rand::random()),
            attempt: 1,
            service: ServiceId::from_random(rand::random()),
            service_name: "web".to_owned(),
            slot: 1,
            generation: Generation(1),
        },
        container: ContainerSpec { stop_grace: Duration::from_secs(10), ..ContainerSpec::new(IMAGE) },
        resources: ResourceRequirements::default(),
        ports: Vec::new(),
        files: Vec::new(),
        devices: Vec::new(),
    }
}

pub fn with_environment(mut config: ContainerConfig, variables: &[(&str, &str)]) -> ContainerConfig {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    config.container.environment.extend(variables);
    config
}

/// Publishes the sample's port; the second is the node's.
pub fn published(mut config: ContainerConfig) -> (ContainerConfig, u16) {
    let host_port = free_port();
    config.ports = vec![PortBinding { container_port: PORT, host_port, protocol: Protocol::Tcp }];
    (config, host_port)
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
    listener.local_addr().expect("its number").port()
}

/// Asks the sample behind a published port; `None` while it does not answer.
pub fn ask(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200 ").then_some(answer)
}

/// The answer, once there is one.
pub async fn answer(port: u16, path: &str) -> String {
    wait_for(path, || async { ask(port, path) }).await
}

pub async fn wait_for<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        sleep(POLL).await; // polls: `look`
    }
}
