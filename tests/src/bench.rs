//! What Skein costs and how fast it is, beside others, printed as tables.
//!
//! Invariant: only real release binaries over loopback; figures are printed, never asserted, so no
//! test depends on the speed of a machine.

mod balance;
mod continuity;
pub mod etcd;
mod failover;
pub mod figure;
mod footprint;
mod hollow_scale;
mod instances;
pub mod load;
mod process_usage;
mod sight;
mod writes;

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use tonic::Code;

use self::figure::Table;
use crate::{deployment::Deployment, wait};

const REMOVAL_LIMIT: Duration = Duration::from_secs(300);

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bench {
    /// Committed writes beside etcd.
    Writes,
    /// Apply → running beside the bare engine; killed container → replaced.
    Instances,
    /// Leader's machine killed.
    Failover,
    /// Hollow agents by the thousand.
    Hollow,
    /// A large cluster filled at once, with hollow agents.
    Scale,
    /// Memory of idle processes.
    Memory,
    /// The balancer beside HAProxy and nginx, among uneven backends, and how soon it learns of a change.
    Balance,
    /// Requests lost over rollouts, scaling, a drain and dead masters.
    Continuity,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub rounds: usize,
    pub kills: usize,
    /// Of one round of load, and of one look at an idle process.
    pub load: Duration,
    /// Of the writes; `None` = as many as the table has.
    pub clients: Option<usize>,
    /// Few and many hollow agents.
    pub nodes: (usize, usize),
    pub instances: usize,
    /// Services, and instances of each, that fill the many hollow agents.
    pub fill: (usize, usize),
}

impl Plan {
    pub const FULL: Self = Self {
        rounds: 5,
        kills: 9,
        load: Duration::from_secs(4),
        clients: None,
        nodes: (1_000, 5_000),
        instances: 20_000,
        fill: (20, 5_000),
    };
    /// Whether it works at all.
    pub const QUICK: Self = Self {
        rounds: 1,
        kills: 2,
        load: Duration::from_secs(1),
        clients: None,
        nodes: (100, 300),
        instances: 2_000,
        fill: (4, 1_500),
    };
}

impl Bench {
    /// # Errors
    /// When what is to be measured does not work.
    pub async fn measure(self, plan: &Plan) -> Result<Vec<Table>> {
        let table = match self {
            Self::Writes => Box::pin(writes::measure(plan)).await,
            Self::Instances => Box::pin(instances::measure(plan)).await,
            Self::Failover => Box::pin(failover::measure(plan)).await,
            Self::Hollow => Box::pin(hollow_scale::measure(plan)).await,
            Self::Scale => Box::pin(hollow_scale::fill(plan)).await,
            Self::Memory => Box::pin(footprint::measure(plan)).await,
            Self::Continuity => Box::pin(continuity::measure(plan)).await,
            Self::Balance => return Box::pin(balance::measure(plan)).await,
        };
        Ok(vec![table?])
    }
}

/// Deletes a service and waits until nothing is left of it.
async fn remove(skein: &Deployment, name: &str) -> Result<()> {
    skein.client.delete(name).await?;
    wait::until(&format!("{name} is gone"), REMOVAL_LIMIT, async || {
        match skein.client.service(name).await {
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(status.to_string()),
            Ok(_) => return Err("it is there".to_owned()),
        }
        let left = skein.docker.of_cluster(&skein.cluster_id).await.map_err(|error| error.to_string())?;
        wait::expect(left.is_empty(), || format!("{} containers", left.len()))
    })
    .await
}
