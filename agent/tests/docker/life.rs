//! The steps of a container's life, each of them twice, and the ways it ends.

use std::time::Duration;

use skein_agent::runtime::{ContainerRuntime, ContainerStatus, Health, RuntimeError, container_name};
use skein_common::Resources;

use crate::sandbox::{PORT, Sandbox, answer, ask, published, sample, with_environment};

#[tokio::test]
async fn a_full_life() {
    let sandbox = Sandbox::new().await;
    let (runtime, owner) = (&sandbox.runtime, sandbox.owner);
    let (config, port) = published(sample());

    let id = sandbox.create(&config).await;
    let view = sandbox.view(&id).await.expect("made");
    assert_eq!(
        (view.id, view.identity, view.status),
        (id.clone(), config.identity.clone(), ContainerStatus::Created)
    );

    runtime.start(&id).await.expect("started");
    let status = sandbox.status(&id).await;
    assert!(matches!(status, ContainerStatus::Running { health: Health::Unchecked, .. }), "{status:?}");
    let page = answer(port, "/").await;
    assert!(page.contains("\"hostname\":\"web-1\""), "{page}");

    let listed = runtime.list(owner, None).await.expect("a list");
    assert_eq!(listed.iter().map(|view| &view.id).collect::<Vec<_>>(), [&id]);
    assert_eq!(sandbox.view(&container_name(&config.identity)).await.map(|view| view.id), Some(id.clone()));

    runtime.stop(&id, Duration::from_secs(10)).await.expect("stopped");
    assert_eq!(sandbox.end(&id).await, (0, false, String::new()));
    runtime.remove(&id).await.expect("removed");
    assert_eq!(sandbox.view(&id).await, None);
    assert!(runtime.list(owner, None).await.expect("a list").is_empty());
}

#[tokio::test]
async fn every_step_may_be_repeated() {
    let sandbox = Sandbox::new().await;
    let runtime = &sandbox.runtime;
    let mut config = sample();
    let id = sandbox.create(&config).await;
    // A change that needs no new container.
    config.identity.generation.0 += 1;
    assert_eq!(sandbox.create(&config).await, id);
    runtime.start(&id).await.expect("started");
    let before = sandbox.status(&id).await;
    runtime.start(&id).await.expect("starting what runs is no error");
    assert_eq!(sandbox.create(&config).await, id);
    assert_eq!(sandbox.status(&id).await, before, "not restarted");

    for _ in 0..2 {
        runtime.stop(&id, Duration::from_secs(10)).await.expect("stopped");
    }
    for _ in 0..2 {
        runtime.remove(&id).await.expect("removed");
    }
    runtime.stop(&id, Duration::from_secs(1)).await.expect("stopping what is gone is no error");
    assert_eq!(runtime.start(&id).await, Err(RuntimeError::NotFound(id)));
}

#[tokio::test]
async fn a_running_container_is_removed_with_its_process() {
    let sandbox = Sandbox::new().await;
    let (config, port) = published(sample());
    let id = sandbox.run(&config).await;
    answer(port, "/").await;
    sandbox.runtime.remove(&id).await.expect("removed");
    assert_eq!((sandbox.view(&id).await, ask(port, "/")), (None, None));
}

#[tokio::test]
async fn one_instance_can_be_listed() {
    let sandbox = Sandbox::new().await;
    let (first, second) = (sample(), sample());
    let (_, id) = (sandbox.create(&first).await, sandbox.create(&second).await);
    let only = Some(second.identity.instance);
    let listed = sandbox.runtime.list(sandbox.owner, only).await.expect("a list");
    assert_eq!(listed.iter().map(|view| &view.id).collect::<Vec<_>>(), [&id]);
}

#[tokio::test]
async fn the_grace_is_kept_and_then_it_is_killed() {
    let sandbox = Sandbox::new().await;
    let (config, port) = published(with_environment(sample(), &[("SAMPLE_IGNORE_TERM", "1")]));
    let id = sandbox.run(&config).await;
    answer(port, "/").await;
    let begun = tokio::time::Instant::now();
    sandbox.runtime.stop(&id, Duration::from_millis(900)).await.expect("stopped");
    assert!(begun.elapsed() >= Duration::from_millis(900), "killed after {:?}", begun.elapsed());
    assert_eq!(sandbox.end(&id).await, (137, false, String::new()));
}

#[tokio::test]
async fn exit_codes_arrive() {
    let sandbox = Sandbox::new().await;
    for code in ["0", "7", "255"] {
        let id = sandbox
            .run(&with_environment(sample(), &[("SAMPLE_EXIT_AFTER_MS", "1"), ("SAMPLE_EXIT_CODE", code)]))
            .await;
        let (exit_code, oom_killed, message) = sandbox.end(&id).await;
        assert_eq!((exit_code.to_string().as_str(), oom_killed, message.as_str()), (code, false, ""));
    }
}

#[tokio::test]
async fn too_much_memory_is_told_from_a_kill() {
    let sandbox = Sandbox::new().await;
    let (mut config, port) = published(sample());
    config.resources.limit = Resources { cpu_millis: 0, memory_bytes: 32 << 20 };
    let id = sandbox.run(&config).await;
    answer(port, "/").await;
    assert_eq!(ask(port, "/fill?mib=128"), None);
    assert_eq!(sandbox.end(&id).await, (137, true, String::new()));
}

#[tokio::test]
async fn a_program_that_is_not_there_fails_with_its_reason() {
    let sandbox = Sandbox::new().await;
    let mut config = sample();
    config.container.entrypoint = vec!["/no/such/program".to_owned()];
    let id = sandbox.create(&config).await;
    let error = sandbox.runtime.start(&id).await.expect_err("nothing to start");
    assert!(matches!(&error, RuntimeError::Failed(why) if why.contains("/no/such/program")), "{error}");
    // An agent that dies right here finds out why when it comes back.
    let (exit_code, _, message) = sandbox.end(&id).await;
    assert!(exit_code == 127 && message.contains("/no/such/program"), "{exit_code} {message}");
}

#[tokio::test]
async fn health_follows_the_check() {
    let sandbox = Sandbox::new().await;
    let (config, port) = published(with_health(sample()));
    let id = sandbox.run(&config).await;
    assert_eq!(sandbox.health(&id).await, Some(Health::Starting));
    let healthy = crate::sandbox::wait_for("health", || async {
        (sandbox.health(&id).await? == Health::Healthy).then_some(())
    });
    healthy.await;
    answer(port, "/health?set=fail").await;
    let output = crate::sandbox::wait_for("illness", || async {
        match sandbox.health(&id).await? {
            Health::Unhealthy { output } => Some(output),
            _ => None,
        }
    })
    .await;
    assert!(output.contains("503"), "{output}");
}

/// Asks the sample's `/healthz` five times a second; two failures make it ill.
pub fn with_health(
    mut config: skein_agent::runtime::ContainerConfig,
) -> skein_agent::runtime::ContainerConfig {
    use skein_common::service::{HealthTest, Healthcheck};
    config.container.healthcheck = Some(Healthcheck {
        test: HealthTest::Exec(vec!["/skein-sample".to_owned(), "--healthcheck".to_owned()]),
        interval: Duration::from_millis(200),
        timeout: Duration::from_secs(5),
        retries: 2,
        start_period: Duration::ZERO,
        start_interval: Duration::ZERO,
    });
    with_environment(config, &[("PORT", &PORT.to_string())])
}
