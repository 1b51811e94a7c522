//! A cluster of real processes on this machine: masters, agents on one Docker daemon, a client.
//!
//! Invariant: everything lies in one temporary folder and carries one cluster id; at the end,
//! also after a panic, processes end first, then whatever containers are left are removed.
//! Deliberately not here: what a test expects of it.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use skein_proto::v1::{Instance, Liveness, Node};
use tempfile::TempDir;

use crate::{
    client::Client,
    docker::{Cleanup, Container, Docker},
    ports::Port,
    process::{self, Process},
    wait, watch,
};

const FORM_LIMIT: Duration = Duration::from_secs(20);

/// A program of the cluster.
#[derive(Debug)]
pub struct Master {
    pub process: Process,
    pub api: Port,
    pub cluster: Port,
}

/// Fields are dropped in this order.
#[derive(Debug)]
pub struct Deployment {
    pub agents: Vec<Process>,
    pub masters: Vec<Master>,
    cleanup: Option<Cleanup>,
    pub cluster_id: String,
    pub client: Arc<Client>,
    pub docker: Docker,
    folder: TempDir,
    finished: bool,
    has_names: bool,
}

/// What differs between deployments.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub master: Vec<String>,
    pub agent: Vec<String>,
    /// Services are reached by name: each agent has a name server at an address of its own.
    pub names: bool,
}

impl Deployment {
    /// Starts the processes and waits for a leader and all nodes.
    ///
    /// # Errors
    /// When it does not form; the logs are on standard error then.
    pub async fn start(masters: usize, agents: usize, flags: &Flags) -> Result<Self> {
        let docker = Docker::connect().await?;
        let folder = tempfile::Builder::new().prefix("skein-e2e-").tempdir()?;
        let masters = define_masters(masters, flags, folder.path())?;
        let addresses: Vec<_> = masters.iter().map(|master| master.api.address()).collect();
        let agents = (1..=agents)
            .map(|number| define_agent(number, &addresses, flags, folder.path()))
            .collect::<Result<_>>()?;
        let client = Arc::new(Client::new(&addresses));
        let mut this = Self {
            agents,
            masters,
            cleanup: None,
            cluster_id: String::new(),
            client,
            docker,
            folder,
            finished: false,
            has_names: flags.names,
        };
        this.form().await?;
        Ok(this)
    }

    async fn form(&mut self) -> Result<()> {
        for master in &mut self.masters {
            master.process.start()?;
        }
        self.leader().await?;
        let client = self.client.clone();
        self.cluster_id = wait::until("the cluster has an id", FORM_LIMIT, async || {
            let status = client.status(0).await.map_err(|status| status.to_string())?;
            wait::expect(!status.cluster_id.is_empty(), || format!("{status:?}"))?;
            Ok(status.cluster_id)
        })
        .await?;
        self.cleanup = Some(self.docker.cleanup(&self.cluster_id));
        for agent in &mut self.agents {
            agent.start()?;
        }
        self.all_nodes_ready().await
    }

    /// Where each node serves published ports.
    ///
    /// # Errors
    /// Never with masters.
    pub fn ingresses(&self) -> Result<Vec<String>> {
        let master = self.masters.first().context("a master")?.api.address();
        (1..=self.agents.len()).map(|number| ingress(&master, number)).collect()
    }

    /// A file of `examples/` with this tag for its images, copied to where the cluster's files are.
    ///
    /// # Errors
    /// No such example.
    pub fn example(&self, name: &str, tag: &str) -> Result<String> {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
        let text = fs::read_to_string(&example).with_context(|| example.display().to_string())?;
        let file = self.folder().join(format!("{tag}-{}", name.replace('/', "-")));
        fs::write(&file, text.replace("${TAG:-v1}", tag))?;
        path(&file)
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The index of the leader, once a master that runs names one that runs.
    ///
    /// # Errors
    /// When there is none for too long.
    pub async fn leader(&mut self) -> Result<usize> {
        let (client, masters) = (self.client.clone(), &mut self.masters);
        wait::until("a leader", FORM_LIMIT, async || {
            let mut seen = Vec::new();
            for asked in 0..masters.len() {
                let Ok(status) = client.status(asked).await else { continue };
                let leads = masters.iter().position(|master| master.process.name() == status.leader);
                match leads {
                    Some(index) if masters[index].process.is_running() => return Ok(index),
                    _ => seen.push(format!("{} says {:?}", status.name, status.leader)),
                }
            }
            Err(format!("{seen:?}"))
        })
        .await
    }

    /// # Errors
    /// When they are not in time.
    pub async fn all_nodes_ready(&self) -> Result<()> {
        let wanted = self.agents.len();
        wait::until(&format!("{wanted} nodes ready"), FORM_LIMIT, async || {
            let nodes = self.client.nodes().await.map_err(|status| status.to_string())?;
            let ready = nodes.iter().filter(|node| node.liveness() == Liveness::Ready).count();
            wait::expect(ready == wanted, || show_nodes(&nodes))
        })
        .await
    }

    /// Waits until a service has exactly this many Ready instances and no others that are wanted.
    ///
    /// # Errors
    /// When it does not come to that.
    pub async fn ready(&self, service: &str, count: usize, limit: Duration) -> Result<Vec<Instance>> {
        ready(&self.client, service, count, limit).await
    }

    /// Runs `skein` with this cluster's masters; its standard output when it succeeds.
    ///
    /// # Errors
    /// When it fails, with what it wrote.
    pub async fn skein(&self, arguments: &[&str]) -> Result<String> {
        let masters = self.masters.iter().map(|master| master.api.address()).collect::<Vec<_>>().join(",");
        let environment = [("SKEIN_MASTERS", masters.as_str()), ("NO_COLOR", "1")];
        let output = process::run("skein", arguments, &environment, self.folder.path()).await?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("skein {}: {}\n{out}\n{err}", arguments.join(" "), output.status);
        }
        Ok(out.into_owned())
    }

    /// The cluster's running containers.
    ///
    /// # Errors
    /// When Docker does not answer.
    pub async fn containers(&self) -> Result<Vec<Container>> {
        self.docker.running(&self.cluster_id).await
    }

    /// Waits until nothing of the cluster is left on this machine, stopped containers neither.
    ///
    /// # Errors
    /// When something stays.
    pub async fn no_containers(&self, limit: Duration) -> Result<()> {
        wait::until("no container is left", limit, async || {
            let left =
                self.docker.of_cluster(&self.cluster_id).await.map_err(|error| format!("{error:#}"))?;
            let names: Vec<_> = left.iter().map(|container| &container.name).collect();
            wait::expect(left.is_empty(), || format!("{names:?}"))
        })
        .await
    }

    /// Every one of `before` still runs with the same process.
    ///
    /// # Errors
    /// Names those that do not.
    pub async fn check_untouched(&self, before: &[Container]) -> Result<()> {
        let now = self.containers().await?;
        let touched: Vec<_> = before
            .iter()
            .filter(|container| !now.iter().any(|later| container.is_untouched(later)))
            .map(|container| &container.name)
            .collect();
        if !touched.is_empty() {
            bail!("containers were touched: {touched:?}");
        }
        Ok(())
    }

    /// The end of a measurement: everything ends with the drop, and nothing is said about it.
    pub fn abandon(mut self) {
        self.finished = true;
    }

    /// All was well: the logs are of no interest.
    pub fn done(&mut self) {
        self.finished = true;
    }

    /// The last thing a test does: nothing labelled ours is left, the logs are clean, everything
    /// still runs that shall.
    ///
    /// # Errors
    /// Whatever is not so.
    pub async fn finish(mut self, allowed: &[&str]) -> Result<()> {
        let left = self.docker.of_cluster(&self.cluster_id).await?;
        if !left.is_empty() {
            bail!(
                "containers are left: {:?}",
                left.iter().map(|container| &container.name).collect::<Vec<_>>()
            );
        }
        let mut complaints = Vec::new();
        for process in self.agents.iter_mut().chain(self.masters.iter_mut().map(|master| &mut master.process))
        {
            if process.is_running() {
                let status = process.end().await?;
                if !status.success() {
                    complaints.push(format!("{} ended with {status} on SIGTERM", process.name()));
                }
            }
            complaints.extend(process.complaints(allowed));
        }
        for agent in self.agents.iter().filter(|_| self.has_names) {
            let folder = self.folder.path().join(agent.name());
            let arguments = ["uninstall", "--data-dir", &path(&folder)?];
            let output = process::run("skein-agent", &arguments, &[], self.folder.path()).await?;
            if !output.status.success() {
                complaints.push(format!("uninstall: {}", String::from_utf8_lossy(&output.stderr)));
            }
        }
        if !complaints.is_empty() {
            bail!("the logs complain:\n{}", complaints.join("\n"));
        }
        self.done();
        Ok(())
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        for process in self.agents.iter().chain(self.masters.iter().map(|master| &master.process)) {
            eprintln!("--- the end of {}'s log\n{}", process.name(), process.tail());
        }
        if std::env::var_os("SKEIN_TEST_KEEP").is_some() {
            self.folder.disable_cleanup(true);
            eprintln!("--- kept {}", self.folder.path().display());
        }
    }
}

/// Waits until a service has exactly this many Ready instances and no others that are wanted.
///
/// # Errors
/// When it does not come to that.
pub async fn ready(client: &Client, service: &str, count: usize, limit: Duration) -> Result<Vec<Instance>> {
    wait::until(&format!("{count} instances of {service} ready"), limit, async || {
        let instances = client.instances(service).await.map_err(|status| status.to_string())?;
        let wanted =
            instances.iter().filter(|instance| instance.desired() == skein_proto::v1::Desired::Run).count();
        let ready: Vec<_> = instances.iter().filter(|instance| watch::is_ready(instance)).cloned().collect();
        wait::expect(ready.len() == count && wanted == count, || show_instances(&instances))?;
        Ok(ready)
    })
    .await
}

/// One line per instance, for failures.
#[must_use]
pub fn show_instances(instances: &[Instance]) -> String {
    instances
        .iter()
        .map(|instance| {
            let observed = instance.observed.clone().unwrap_or_default();
            format!(
                "\n  {} {} on {:?}: {:?}, attempt {} {:?}{} {} {}",
                instance.id,
                instance.name,
                instance.node_name,
                instance.desired(),
                observed.attempt,
                observed.phase(),
                if instance.lost { ", lost" } else { "" },
                observed.message,
                instance.explanation
            )
        })
        .collect()
}

/// One line per node, for failures.
#[must_use]
pub fn show_nodes(nodes: &[Node]) -> String {
    nodes
        .iter()
        .map(|node| {
            let name =
                node.description.as_ref().map(|description| description.name.clone()).unwrap_or_default();
            format!("\n  {name}: {:?} {:?} {}", node.liveness(), node.availability(), node.liveness_reason)
        })
        .collect()
}

fn define_masters(count: usize, flags: &Flags, folder: &Path) -> Result<Vec<Master>> {
    let mut named = Vec::new();
    for number in 1..=count {
        named.push((format!("m{number}"), Port::reserve()?, Port::reserve()?));
    }
    let initial =
        named.iter().map(|(name, _, cluster)| format!("{name}={cluster}")).collect::<Vec<_>>().join(",");
    named
        .into_iter()
        .map(|(name, api, cluster)| {
            let mut arguments = words(&["run", "--name", &name]);
            arguments.extend(words(&["--data-dir", &path(&folder.join(&name))?]));
            arguments.extend(words(&[
                "--api-address",
                &api.address(),
                "--cluster-address",
                &cluster.address(),
            ]));
            arguments.extend(words(&["--initial-masters", &initial]));
            arguments.extend(flags.master.iter().cloned());
            Ok(Master { process: Process::new(&name, "skein-master", arguments, folder)?, api, cluster })
        })
        .collect()
}

fn define_agent(number: usize, masters: &[String], flags: &Flags, folder: &Path) -> Result<Process> {
    let name = &format!("n{number}");
    let mut arguments = words(&["run", "--name", name, "--masters", &masters.join(",")]);
    arguments.extend(words(&["--data-dir", &path(&folder.join(name))?, "--advertise-address", "127.0.0.1"]));
    arguments.extend(words(&["--ingress-address", &ingress(&masters[0], number)?]));
    let server = if flags.names { name_server(&masters[0], number)? } else { "off".to_owned() };
    arguments.extend(words(&["--dns-address", &server]));
    arguments.extend(words(&["--label", &format!("name={name}")]));
    arguments.extend(flags.agent.iter().cloned());
    Process::new(name, "skein-agent", arguments, folder)
}

/// An address of this machine that is this agent's alone: made of the port of its first master.
fn ingress(master: &str, number: usize) -> Result<String> {
    let port: u16 = master.rsplit(':').next().context("an address")?.parse()?;
    Ok(format!("127.{}.{}.{number}", 1 + (port >> 8) % 254, port & 255))
}

/// Another one, which containers can reach.
fn name_server(master: &str, number: usize) -> Result<String> {
    let address = ingress(master, number)?;
    Ok(address.replacen("127.", "10.", 1))
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn path(path: &Path) -> Result<String> {
    path.to_str().map(ToOwned::to_owned).context("a path in UTF-8")
}
