//! What the agent adds to the engine's own time, in one run: an assignment on the stream → Ready
//! on the stream, beside create + start alone; and a killed container → its replacement.
//!
//! A measurement, not a check: figures of a shared machine mean something only side by side.

use std::{process::Command, time::Instant};

use skein_agent::runtime::{ContainerConfig, ContainerRuntime, Identity, Owner, docker::DockerRuntime};
use skein_common::instance::{Desired, Phase};

use super::scripted::{Master, agent_on, assignment, cluster, id};

const HOST: &str = "unix:///var/run/docker.sock";
const IMAGE: &str = "skein-sample:v1";
const ROUNDS: u64 = 15;

#[tokio::test]
#[ignore = "measures; needs Docker and the sample image"]
async fn apply_to_running_beside_bare_docker() {
    let runtime = DockerRuntime::new(HOST).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut master = Master::start().await;
    let agent = agent_on(&[&master], folder.path(), runtime.clone()).await;
    let owner = Owner { cluster: cluster(), node: agent.node() };
    let mut session = master.welcomed(1).await;
    let (mut bare, mut whole, mut replaced) = (Vec::new(), Vec::new(), Vec::new());
    session.set(Vec::new()).await;
    for round in 1..=ROUNDS {
        bare.push(bare_start(&runtime, owner, round).await);

        let mut wanted = assignment(round, Desired::Run);
        wanted.container.image = IMAGE.to_owned();
        let began = Instant::now();
        session.delta(session.generation(), wanted.clone()).await;
        session.wait_told(id(round), 1, Phase::Ready).await;
        whole.push(began.elapsed().as_secs_f64() * 1e3);

        let container = container_of(&agent, round);
        let began = Instant::now();
        assert!(Command::new("docker").args(["kill", &container]).output().unwrap().status.success());
        session.wait_told(id(round), 2, Phase::Ready).await;
        replaced.push(began.elapsed().as_secs_f64() * 1e3);

        wanted.desired = Desired::Remove;
        session.delta(session.generation(), wanted).await;
        session.wait_gone(id(round)).await;
    }
    for (what, mut figures) in
        [("create + start", bare), ("assignment → Ready", whole), ("docker kill → Ready", replaced)]
    {
        figures.sort_by(f64::total_cmp);
        let (least, most) = (figures[0], figures[figures.len() - 1]);
        println!("{what:22} {:6.1} ms ({least:.1}–{most:.1})", figures[figures.len() / 2]);
    }
    agent.stop().await;
}

/// A container like the instance's, unknown to the agent until it is gone again.
async fn bare_start(runtime: &DockerRuntime, owner: Owner, round: u64) -> f64 {
    let wanted = assignment(round + 1000, Desired::Run);
    let identity = Identity {
        instance: wanted.instance,
        attempt: 1,
        service: wanted.service,
        service_name: "bare".to_owned(),
        slot: wanted.slot,
        generation: wanted.generation,
    };
    let mut container = wanted.container;
    container.image = IMAGE.to_owned();
    let (resources, ports, files) = (wanted.resources, Vec::new(), Vec::new());
    let devices = Vec::new();
    let config = ContainerConfig { identity, container, resources, ports, devices, files };
    // Another node's, so that the agent does not see it.
    let owner = Owner { node: skein_common::NodeId::from_random(4242), ..owner };
    let began = Instant::now();
    let id = runtime.create(owner, &config).await.unwrap();
    runtime.start(&id).await.unwrap();
    let took = began.elapsed().as_secs_f64() * 1e3;
    runtime.remove(&id).await.unwrap();
    took
}

fn container_of(agent: &skein_agent::agent::AgentHandle, number: u64) -> String {
    match agent.holdings().borrow().news.get(&id(number)) {
        Some(skein_common::instance::News::Observed(observed)) => observed.container_id.clone(),
        other => panic!("{other:?}"),
    }
}
