//! What is broken, and the memory of what may have changed because of it.
//!
//! Invariant: a container of `still` that is expected and not there as it was is a breach; only a
//! container killed here is taken off the expectations.
//! Deliberately not here: when faults stop.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use rand::{RngExt as _, rngs::StdRng};

use super::{BUSY, STILL};
use crate::{deployment::Deployment, docker::Container, wait};

const SERVICE_NAME: &str = "io.skein.service-name";
const INSTANCE: &str = "io.skein.instance";
/// A killed program stays away for up to this long: less than a node needs to be given up.
const LONGEST_ABSENCE_MS: u64 = 3_000;
const LONGEST_PAUSE_MS: u64 = 5_000;

pub struct Faults {
    random: StdRng,
    /// Containers of `still` by instance, as they must stay.
    expected: BTreeMap<String, Container>,
}

impl Faults {
    pub async fn new(random: StdRng, cluster: &Deployment) -> Result<Self> {
        let expected = running(cluster, STILL).await?.into_iter().map(|c| (c.label(INSTANCE).to_owned(), c));
        Ok(Self { random, expected: expected.collect() })
    }

    /// One fault and its repair, and a while in which the cluster lives on. Says what was done.
    pub async fn strike(&mut self, cluster: &mut Deployment) -> Result<String> {
        let done = match self.random.random_range(0..12) {
            0..=2 => self.kill_leader(cluster).await?,
            3 => self.kill_master(cluster).await?,
            4 => self.kill_all_masters(cluster).await?,
            5 | 6 => self.kill_agent(cluster).await?,
            7 => self.kill_agent_and_leader(cluster).await?,
            8 | 9 => self.kill_container(cluster, STILL).await?,
            _ => self.kill_container(cluster, BUSY).await?,
        };
        self.pass(LONGEST_PAUSE_MS).await;
        Ok(done)
    }

    async fn pass(&mut self, longest_ms: u64) {
        let time = Duration::from_millis(self.random.random_range(0..longest_ms));
        wait::let_pass(time).await;
    }

    async fn kill_leader(&mut self, cluster: &mut Deployment) -> Result<String> {
        let leader = cluster.leader().await?;
        cluster.masters[leader].process.kill()?;
        self.pass(LONGEST_ABSENCE_MS).await;
        cluster.masters[leader].process.start()?;
        Ok(format!("leader: {}", cluster.masters[leader].process.name()))
    }

    async fn kill_master(&mut self, cluster: &mut Deployment) -> Result<String> {
        let index = self.random.random_range(0..cluster.masters.len());
        let master = &mut cluster.masters[index].process;
        master.kill()?;
        self.pass(LONGEST_ABSENCE_MS).await;
        master.start()?;
        Ok(format!("master: {}", master.name()))
    }

    async fn kill_all_masters(&mut self, cluster: &mut Deployment) -> Result<String> {
        for master in &mut cluster.masters {
            master.process.kill()?;
        }
        self.pass(LONGEST_ABSENCE_MS).await;
        for master in &mut cluster.masters {
            master.process.start()?;
        }
        Ok("all masters".to_owned())
    }

    async fn kill_agent(&mut self, cluster: &mut Deployment) -> Result<String> {
        let index = self.random.random_range(0..cluster.agents.len());
        cluster.agents[index].kill()?;
        self.pass(LONGEST_ABSENCE_MS).await;
        cluster.agents[index].start()?;
        Ok(format!("agent: {}", cluster.agents[index].name()))
    }

    async fn kill_agent_and_leader(&mut self, cluster: &mut Deployment) -> Result<String> {
        let leader = cluster.leader().await?;
        let index = self.random.random_range(0..cluster.agents.len());
        cluster.masters[leader].process.kill()?;
        cluster.agents[index].kill()?;
        self.pass(LONGEST_ABSENCE_MS).await;
        cluster.agents[index].start()?;
        cluster.masters[leader].process.start()?;
        Ok(format!(
            "agent and leader: {}, {}",
            cluster.agents[index].name(),
            cluster.masters[leader].process.name()
        ))
    }

    async fn kill_container(&mut self, cluster: &Deployment, service: &str) -> Result<String> {
        let candidates = running(cluster, service).await?;
        if candidates.is_empty() {
            return Ok(format!("container: none of {service} runs"));
        }
        let victim = &candidates[self.random.random_range(0..candidates.len())];
        self.expected.remove(victim.label(INSTANCE));
        cluster.docker.kill(&victim.id).await?;
        Ok(format!("container: {}", victim.name))
    }

    /// Breaches; what replaced a killed container is expected from now on.
    pub async fn check_still(&mut self, cluster: &Deployment) -> Result<Vec<String>> {
        let now: BTreeMap<_, _> = running(cluster, STILL)
            .await?
            .into_iter()
            .map(|container| (container.label(INSTANCE).to_owned(), container))
            .collect();
        let breaches = self
            .expected
            .values()
            .filter(|before| !now.values().any(|after| before.is_untouched(after)))
            .map(|before| format!("{} was touched by the control plane", before.name))
            .collect();
        // A breach is reported once.
        self.expected = now;
        Ok(breaches)
    }

    /// Whatever does not run is started.
    pub async fn restart_all(&mut self, cluster: &mut Deployment) -> Result<()> {
        let masters = cluster.masters.iter_mut().map(|master| &mut master.process);
        for process in masters.chain(&mut cluster.agents) {
            if !process.is_running() {
                process.start()?;
            }
        }
        cluster.leader().await.map(drop)
    }
}

pub async fn running(cluster: &Deployment, service: &str) -> Result<Vec<Container>> {
    let mut all = cluster.containers().await?;
    all.retain(|container| container.label(SERVICE_NAME) == service);
    Ok(all)
}
