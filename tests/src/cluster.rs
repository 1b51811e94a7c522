//! A cluster in this process: real masters with real gRPC and real disks, real agents, and container
//! engines in memory.
//!
//! Invariant: every master and agent has a runtime of its own, so that [`Cluster::kill_master`] ends
//! it between two of its steps as `kill -9` would; an engine outlives its agent as Docker does.
//! Deliberately not here: processes (`deployment`), and what a test expects.

mod seat;

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use skein_agent::runtime::{ContainerStatus, ContainerView, fake::FakeRuntime};
use skein_proto::v1::{Instance, Liveness};
use tempfile::TempDir;
use tonic::Code;

use self::seat::{AgentSeat, MasterSeat};
use crate::{
    client::Client,
    deployment::{self, show_nodes},
    wait,
    watch::Watcher,
};

/// Silence after which a node is given up: short, and still long for two busy cores.
pub const NODE_DOWN_AFTER: Duration = Duration::from_secs(3);
pub const HEARTBEAT: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_secs(20);

/// A container of an engine in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub instance: String,
    pub running: bool,
    /// As the engine shows it: another after a restart.
    pub status: ContainerStatus,
}

/// A master that is about to be added.
#[derive(Debug, Clone)]
pub struct NewMaster {
    pub index: usize,
    pub name: String,
    pub api_address: String,
    pub cluster_address: String,
}

#[derive(Debug)]
pub struct Cluster {
    pub client: Arc<Client>,
    masters: Vec<MasterSeat>,
    agents: Vec<AgentSeat>,
    folder: TempDir,
}

impl Cluster {
    /// Waits for a leader and all nodes.
    ///
    /// # Errors
    /// When it does not form.
    pub async fn start(masters: usize, agents: usize) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("skein-it-").tempdir()?;
        let masters = seat::masters(masters, folder.path())?;
        let client = Arc::new(Client::new(masters.iter().map(|master| master.api.address())));
        let mut cluster = Self { client, masters, agents: Vec::new(), folder };
        for index in 0..cluster.masters.len() {
            cluster.start_master(index).await?;
        }
        cluster.leader().await?;
        for _ in 0..agents {
            cluster.seat_agent(&[]).await?;
        }
        cluster.nodes_ready().await?;
        Ok(cluster)
    }

    // --- masters

    /// # Errors
    /// When there is none for too long, among those that run.
    pub async fn leader(&self) -> Result<usize> {
        wait::until("a leader that says so itself", LIMIT, async || {
            let mut seen = Vec::new();
            for (index, master) in self.masters.iter().enumerate().filter(|(_, master)| master.is_running()) {
                match self.client.status(index).await {
                    Ok(status) if status.leader == master.name => return Ok(index),
                    Ok(status) => seen.push(format!("{}: {:?} leads", master.name, status.leader)),
                    Err(status) => seen.push(format!("{}: {status}", master.name)),
                }
            }
            Err(format!("{seen:?}"))
        })
        .await
    }

    /// One that runs and does not lead.
    ///
    /// # Errors
    /// When there is no leader, or nobody else.
    pub async fn follower(&self) -> Result<usize> {
        let leader = self.leader().await?;
        (0..self.masters.len())
            .find(|index| *index != leader && self.masters[*index].is_running())
            .context("a follower")
    }

    #[must_use]
    pub fn master_name(&self, index: usize) -> String {
        self.masters[index].name.clone()
    }

    /// A client of this master alone, over a connection of its own.
    #[must_use]
    pub fn client_of(&self, index: usize) -> Client {
        Client::new([self.masters[index].api.address()])
    }

    /// As `kill -9`: nothing is said, nothing is finished.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill_master(&mut self, index: usize) -> Result<()> {
        self.masters[index].kill()
    }

    /// # Errors
    /// When it does not start, with its reason.
    pub async fn start_master(&mut self, index: usize) -> Result<()> {
        let master = &mut self.masters[index];
        // The one that was killed may hold its folder for another moment.
        let what = format!("{} starts", master.name);
        wait::until(&what, LIMIT, async || master.start().await.map_err(|error| format!("{error:#}"))).await
    }

    /// A master that knows nobody: started, not yet a member.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_master(&mut self) -> Result<NewMaster> {
        let index = self.masters.len();
        let master = seat::lone_master(&format!("m{}", index + 1), self.folder.path())?;
        let new = NewMaster {
            index,
            name: master.name.clone(),
            api_address: master.api.address(),
            cluster_address: master.cluster.address(),
        };
        self.masters.push(master);
        self.start_master(index).await?;
        self.client = Arc::new(Client::new(self.masters.iter().map(|master| master.api.address())));
        Ok(new)
    }

    /// Waits until this master has applied what the leader has.
    ///
    /// # Errors
    /// When it does not.
    pub async fn caught_up(&self, index: usize) -> Result<()> {
        let leader = self.leader().await?;
        let wanted = self.client.status(leader).await?.applied_index;
        wait::until(&format!("{} has caught up", self.masters[index].name), LIMIT, async || {
            let status = self.client.status(index).await.map_err(|status| status.to_string())?;
            wait::expect(status.applied_index >= wanted, || format!("{} of {wanted}", status.applied_index))
        })
        .await
    }

    // --- agents

    /// One more node with these labels.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_agent(&mut self, labels: &[(&str, &str)]) -> Result<()> {
        self.seat_agent(labels).await?;
        self.nodes_ready().await
    }

    async fn seat_agent(&mut self, labels: &[(&str, &str)]) -> Result<()> {
        let name = format!("n{}", self.agents.len() + 1);
        let addresses = self.masters.iter().map(|master| master.api.address()).collect();
        let mut agent = AgentSeat::new(&name, addresses, labels, self.folder.path());
        agent.start().await?;
        self.agents.push(agent);
        Ok(())
    }

    /// As `kill -9`; its containers run on.
    ///
    /// # Errors
    /// When there is no such agent or it does not run.
    pub async fn stop_agent(&mut self, name: &str) -> Result<()> {
        self.agent_mut(name)?.kill()
    }

    /// Whatever a stopped agent knew of its instances is gone; who it is stays.
    ///
    /// # Errors
    /// When there is no such agent, or it has not written anything.
    pub fn forget_instances(&mut self, name: &str) -> Result<()> {
        self.agent_mut(name)?.remove_checkpoint()
    }

    /// # Errors
    /// When there is no such agent or it does not start.
    pub async fn start_agent(&mut self, name: &str) -> Result<()> {
        self.agent_mut(name)?.start().await
    }

    /// All that do not run, at once.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn start_agents(&mut self) -> Result<()> {
        let away = self.agents.iter_mut().filter(|agent| !agent.is_running());
        futures_util::future::try_join_all(away.map(AgentSeat::start)).await.map(drop)
    }

    fn agent_mut(&mut self, name: &str) -> Result<&mut AgentSeat> {
        self.agents.iter_mut().find(|agent| agent.name == name).with_context(|| format!("no agent {name}"))
    }

    /// The engine of a node.
    ///
    /// # Errors
    /// When there is no such agent.
    pub fn engine(&self, name: &str) -> Result<&FakeRuntime> {
        let agent = self.agents.iter().find(|agent| agent.name == name);
        agent.map(|agent| &agent.engine).with_context(|| format!("no agent {name}"))
    }

    /// Waits until every agent that runs is a Ready node.
    ///
    /// # Errors
    /// When they are not in time.
    pub async fn nodes_ready(&self) -> Result<()> {
        let wanted = self.agents.iter().filter(|agent| agent.is_running()).count();
        wait::until(&format!("{wanted} nodes ready"), LIMIT, async || {
            let nodes = self.client.nodes().await.map_err(|status| status.to_string())?;
            let ready = nodes.iter().filter(|node| node.liveness() == Liveness::Ready).count();
            wait::expect(ready == wanted, || show_nodes(&nodes))
        })
        .await
    }

    // --- services and containers

    /// # Errors
    /// When it does not come to exactly this many.
    pub async fn ready(&self, service: &str, count: usize) -> Result<Vec<Instance>> {
        deployment::ready(&self.client, service, count, LIMIT).await
    }

    /// Waits until the service is forgotten.
    ///
    /// # Errors
    /// When it is not.
    pub async fn gone(&self, service: &str) -> Result<()> {
        wait::until(&format!("{service} is forgotten"), LIMIT, async || {
            match self.client.service(service).await {
                Err(status) if status.code() == Code::NotFound => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// A watcher of a service's instances (empty = all), beginning at a follower or the leader.
    #[must_use]
    pub fn watch(&self, service: &str) -> Watcher {
        Watcher::start(self.client.clone(), self.masters.len(), 0, service)
    }

    /// # Errors
    /// When there is no such node.
    pub async fn containers_of(&self, node: &str) -> Result<Vec<Container>> {
        Ok(self.engine(node)?.containers().into_iter().map(container).collect())
    }

    /// Containers of all nodes, in order of id.
    ///
    /// # Errors
    /// Never; for symmetry with Docker.
    pub async fn all_containers(&self) -> Result<Vec<Container>> {
        let mut all: Vec<_> =
            self.agents.iter().flat_map(|agent| agent.engine.containers()).map(container).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    /// Waits until exactly this many run.
    ///
    /// # Errors
    /// When they do not.
    pub async fn containers_running(&self, count: usize) -> Result<()> {
        wait::until(&format!("{count} containers run"), LIMIT, async || {
            let running = self.agents.iter().map(|agent| agent.engine.running()).sum::<usize>();
            wait::expect(running == count, || format!("{running}"))
        })
        .await
    }

    /// Waits until none is left, running or not.
    ///
    /// # Errors
    /// When one is.
    pub async fn no_containers(&self) -> Result<()> {
        wait::until("no container is left", LIMIT, async || {
            let left = self.all_containers().await.map_err(|error| error.to_string())?;
            wait::expect(left.is_empty(), || format!("{left:?}"))
        })
        .await
    }

    /// The process in an instance's container ends.
    ///
    /// # Errors
    /// When none runs.
    pub async fn end_container(&self, instance: &Instance, exit_code: i64) -> Result<()> {
        let id = instance.id.parse().context("an instance id")?;
        if !self.engine(&instance.node_name)?.exit(id, exit_code) {
            bail!("{} has no running container on {}", instance.name, instance.node_name);
        }
        Ok(())
    }

    /// The last thing a test does: everybody ends when asked to.
    ///
    /// # Errors
    /// Who does not.
    pub async fn stop(mut self) -> Result<()> {
        for agent in &mut self.agents {
            agent.end().await?;
        }
        for master in &mut self.masters {
            master.end().await?;
        }
        Ok(())
    }
}

fn container(view: ContainerView) -> Container {
    Container {
        id: view.id,
        instance: view.identity.instance.to_string(),
        running: matches!(view.status, ContainerStatus::Running { .. }),
        status: view.status,
    }
}
