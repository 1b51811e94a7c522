//! The stream of events.

use std::time::Duration;

use bollard::query_parameters::KillContainerOptionsBuilder;
use futures_util::{StreamExt, stream::BoxStream};
use skein_agent::runtime::{ContainerRuntime, ContainerStatus, Health, RuntimeEvent};
use tokio::time::timeout;

use crate::{
    life::with_health,
    sandbox::{Sandbox, daemon, sample},
};

const PATIENCE: Duration = Duration::from_secs(30);

async fn next(events: &mut BoxStream<'static, RuntimeEvent>) -> RuntimeEvent {
    timeout(PATIENCE, events.next()).await.expect("an event in time").expect("no end")
}

#[tokio::test]
async fn a_kill_from_outside_is_seen_and_so_is_a_removal() {
    let sandbox = Sandbox::new().await;
    let mut events = sandbox.runtime.events(sandbox.owner);
    assert_eq!(next(&mut events).await, RuntimeEvent::Reconnected);

    // Somebody else's containers are not our business.
    let other = Sandbox::new().await;
    other.run(&sample()).await;

    let config = sample();
    let id = sandbox.run(&config).await;
    let changed = RuntimeEvent::Changed { instance: config.identity.instance, container: id.clone() };
    assert_eq!(next(&mut events).await, changed, "started");

    let docker = daemon().await;
    let options = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
    docker.kill_container(&id, Some(options)).await.expect("killed");
    assert_eq!(next(&mut events).await, changed, "died");
    let status = sandbox.status(&id).await;
    assert!(
        matches!(status, ContainerStatus::Exited { exit_code: 137, oom_killed: false, .. }),
        "{status:?}"
    );

    docker.remove_container(&id, None).await.expect("removed");
    assert_eq!(next(&mut events).await, changed, "destroyed");
    assert_eq!(sandbox.view(&id).await, None);
}

#[tokio::test]
async fn health_is_an_event_and_its_checks_are_none() {
    let sandbox = Sandbox::new().await;
    let mut events = sandbox.runtime.events(sandbox.owner);
    assert_eq!(next(&mut events).await, RuntimeEvent::Reconnected);
    let config = with_health(sample());
    let id = sandbox.run(&config).await;
    let changed = RuntimeEvent::Changed { instance: config.identity.instance, container: id.clone() };
    assert_eq!(next(&mut events).await, changed, "started");
    assert_eq!(next(&mut events).await, changed, "healthy");
    assert_eq!(sandbox.health(&id).await, Some(Health::Healthy), "the second event was the health");
}
