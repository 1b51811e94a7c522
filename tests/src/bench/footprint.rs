//! Memory of an idle master and an idle agent.
//!
//! Invariant: the binaries beside this one; that they are stripped and optimised is the build's.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time;

use super::{
    Plan,
    figure::{Figure, Table, Target, Unit},
    process_usage,
};
use crate::deployment::{Deployment, Flags};

/// What starting needs is given back by then.
const SETTLE: Duration = Duration::from_secs(10);

/// # Errors
/// When the cluster does not form.
pub async fn measure(plan: &Plan) -> Result<Table> {
    let mut skein = Deployment::start(3, 1, &Flags::default()).await?;
    let mut figures = [Unit::Megabytes; 3].map(Figure::new);
    for _ in 0..plan.rounds {
        time::sleep(SETTLE / 5).await; // polls: nothing, measures what idle processes hold
        let leads = skein.leader().await?;
        for (index, master) in skein.masters.iter().enumerate() {
            let memory = process_usage::memory(master.process.pid().context("the master runs")?)?;
            figures[usize::from(index != leads)].add(memory);
        }
        figures[2].add(process_usage::memory(skein.agents[0].pid().context("the agent runs")?)?);
    }
    let [leader, followers, agent] = figures;
    let mut table = Table::new("Memory (PSS) of idle processes", "");
    table.add("master that leads", leader, None, Some(Target::AtMost(15.0)));
    table.add("master that follows", followers, None, Some(Target::AtMost(15.0)));
    table.add("agent", agent, None, Some(Target::AtMost(10.0)));
    skein.abandon();
    Ok(table)
}
