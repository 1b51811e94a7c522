//! Hollow agents by the thousand: how long many instances take, and what idle agents cost the leader.
//!
//! Invariant: masters are real processes, agents real streams; only the engines are hollow.

use std::time::Duration;

use anyhow::{Context as _, Result};
use skein_proto::v1::{ListNodesRequest, Liveness, node_service_client::NodeServiceClient};
use tokio::time::{self, Instant};

use super::{
    Plan,
    figure::{Figure, Table, Target, Unit},
    process_usage,
    sight::Sight,
};
use crate::{
    deployment::{Deployment, Flags},
    process::Process,
    spec, wait,
};

const LIMIT: Duration = Duration::from_secs(300);
const PAGE: u32 = 1_000;
/// Registration and the first heartbeats are over after this.
const SETTLE: Duration = Duration::from_secs(10);

/// # Errors
/// When the cluster does not come to that.
pub async fn measure(plan: &Plan) -> Result<Table> {
    let mut skein = Deployment::start(3, 0, &Flags::default()).await?;
    let (few, many) = plan.nodes;
    let mut table = Table::new("Hollow agents", "");
    let first = flock(&skein, 0, few)?;
    let nodes = nodes_ready(&skein, few).await?;
    let mut joined = Figure::new(Unit::Seconds);
    joined.add_time(nodes);
    table.add(format!("{few} agents started → all nodes Ready"), joined, None, None);
    idle(&mut skein, plan, few, &mut table).await?;

    let mut running = Figure::new(Unit::Seconds);
    for round in 0..plan.rounds {
        running.add_time(apply(&skein, &format!("bench-{round}"), plan.instances).await?);
    }
    let what = format!("{} instances on {few} nodes: apply → running", plan.instances);
    table.add(what, running, None, Some(Target::AtMost(10.0)));

    let second = flock(&skein, few, many - few)?;
    nodes_ready(&skein, many).await?;
    idle(&mut skein, plan, many, &mut table).await?;
    drop((first, second));
    skein.abandon();
    Ok(table)
}

/// All of a large cluster at once: from the first apply until everything runs.
///
/// # Errors
/// When the cluster does not come to that.
pub async fn fill(plan: &Plan) -> Result<Table> {
    let mut skein = Deployment::start(3, 0, &Flags::default()).await?;
    let (_, nodes) = plan.nodes;
    let (services, each) = plan.fill;
    let mut table = Table::new("A large cluster, filled at once", "");
    // Two processes, so that neither holds more streams than one may.
    let flocks = (flock(&skein, 0, nodes / 2)?, flock(&skein, nodes / 2, nodes - nodes / 2)?);
    nodes_ready(&skein, nodes).await?;
    time::sleep(SETTLE).await; // polls: nothing, registrations are over
    let mut sight = Sight::open(skein.client.master(0)).await?;
    let names: Vec<String> = (0..services).map(|number| format!("fill-{number}")).collect();
    let replicas = u32::try_from(each)?;
    let begin = Instant::now();
    for name in &names {
        skein.client.apply(spec::service(name).replicas(replicas)).await?;
    }
    sight.until(LIMIT, |ready| names.iter().all(|name| ready.count(name) == each)).await?;
    let mut running = Figure::new(Unit::Seconds);
    running.add_time(begin.elapsed());
    let what = format!("{} instances of {services} services on {nodes} nodes", services * each);
    table.add(format!("{what}: apply → running"), running, None, Some(Target::AtMost(30.0)));
    let leader = skein.leader().await?;
    let mut memory = Figure::new(Unit::Megabytes);
    memory.add(process_usage::memory(skein.masters[leader].process.pid().context("the leader runs")?)?);
    table.add("leader's memory then", memory, None, None);
    drop(flocks);
    skein.abandon();
    Ok(table)
}

/// Agents with these numbers, in one process.
fn flock(skein: &Deployment, first: usize, count: usize) -> Result<Process> {
    let masters: Vec<_> = skein.masters.iter().map(|master| master.api.address()).collect();
    let arguments =
        [format!("--masters={}", masters.join(",")), format!("--first={first}"), format!("--agents={count}")];
    let mut process = Process::new(&format!("hollow-{first}"), "hollow", arguments.to_vec(), skein.folder())?;
    process.start()?;
    Ok(process)
}

async fn nodes_ready(skein: &Deployment, wanted: usize) -> Result<Duration> {
    let begin = Instant::now();
    wait::until(&format!("{wanted} nodes ready"), LIMIT, async || {
        let ready = ready_nodes(skein).await.map_err(|error| format!("{error:#}"))?;
        wait::expect(ready == wanted, || format!("{ready}"))
    })
    .await?;
    Ok(begin.elapsed())
}

async fn ready_nodes(skein: &Deployment) -> Result<usize> {
    let mut request = ListNodesRequest { page_size: PAGE, ..ListNodesRequest::default() };
    let mut ready = 0;
    loop {
        let page = skein
            .client
            .call(async |channel| NodeServiceClient::new(channel).list_nodes(request.clone()).await)
            .await?;
        ready += page.nodes.iter().filter(|node| node.liveness() == Liveness::Ready).count();
        if page.next_page_token.is_empty() {
            return Ok(ready);
        }
        request.page_token = page.next_page_token;
    }
}

async fn idle(skein: &mut Deployment, plan: &Plan, nodes: usize, table: &mut Table) -> Result<()> {
    time::sleep(SETTLE).await; // polls: nothing, what follows is to be idle
    let (mut cpu, mut memory) = (Figure::new(Unit::Percent), Figure::new(Unit::Megabytes));
    for _ in 0..plan.rounds {
        let leader = skein.leader().await?;
        let pid = skein.masters[leader].process.pid().context("the leader runs")?;
        cpu.add(process_usage::cpu(pid, plan.load).await?);
        memory.add(process_usage::memory(pid)?);
    }
    table.add(format!("{nodes} idle agents: leader's CPU"), cpu, None, None);
    table.add(format!("{nodes} idle agents: leader's memory"), memory, None, None);
    Ok(())
}

async fn apply(skein: &Deployment, name: &str, count: usize) -> Result<Duration> {
    let mut sight = Sight::open(skein.client.master(0)).await?;
    let replicas = u32::try_from(count)?;
    let begin = Instant::now();
    skein.client.apply(spec::service(name).replicas(replicas)).await?;
    sight.until(LIMIT, |ready| ready.count(name) == count).await?;
    let time = begin.elapsed();
    super::remove(skein, name).await?;
    Ok(time)
}
