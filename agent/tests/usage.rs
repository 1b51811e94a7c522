//! The usage sampler over the engine in memory, on paused time.

#![allow(clippy::expect_used)] // the allowance for tests does not reach their helper functions

use std::{sync::Arc, time::Duration};

use skein_agent::{
    runtime::{ContainerConfig, ContainerRuntime, Identity, Owner, fake::FakeRuntime},
    usage::{HostSampler, RunningContainer, UsageReport, UsageSampler},
};
use skein_common::{
    ClusterId, InstanceId, NodeId, ServiceId,
    service::{ContainerSpec, Generation, ResourceRequirements},
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

const INTERVAL: Duration = Duration::from_secs(10);

struct Bench {
    fake: FakeRuntime,
    running: watch::Sender<Arc<[RunningContainer]>>,
    reports: watch::Receiver<UsageReport>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Bench {
    fn start() -> Self {
        let fake = FakeRuntime::new();
        let running = watch::Sender::new(Arc::from([]));
        let host = HostSampler::new(std::env::temp_dir());
        let (sampler, reports) =
            UsageSampler::new(Arc::new(fake.clone()), running.subscribe(), host, INTERVAL);
        let stop = CancellationToken::new();
        let task = tokio::spawn(sampler.run(stop.clone()));
        Self { fake, running, reports, stop, task }
    }

    async fn run(&self, number: u64) -> RunningContainer {
        let owner = Owner { cluster: ClusterId::from_random(1), node: NodeId::from_random(1) };
        let config = config(number);
        let container = self.fake.create(owner, &config).await.expect("created");
        self.fake.start(&container).await.expect("started");
        RunningContainer { instance: config.identity.instance, container }
    }

    fn publish(&self, containers: &[RunningContainer]) {
        self.running.send_replace(containers.into());
    }

    async fn next(&mut self) -> UsageReport {
        self.reports.changed().await.expect("the sampler runs");
        self.reports.borrow_and_update().clone()
    }
}

fn config(number: u64) -> ContainerConfig {
    ContainerConfig {
        identity: Identity {
            instance: InstanceId::from_random(number),
            attempt: 1,
            service: ServiceId::from_random(1),
            service_name: "web".to_owned(),
            slot: 1,
            generation: Generation(1),
        },
        container: ContainerSpec { stop_grace: Duration::from_secs(10), ..ContainerSpec::new("web") },
        resources: ResourceRequirements::default(),
        ports: Vec::new(),
        files: Vec::new(),
        devices: Vec::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn what_runs_is_in_the_report_and_what_ended_is_not() {
    let mut bench = Bench::start();
    let began = Instant::now();
    let first = bench.next().await;
    assert!(first.host.at.unix_ms() > 0 && first.host.memory_total_bytes > 0, "{first:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "the first round comes soon");

    let (one, two) = (bench.run(1).await, bench.run(2).await);
    bench.publish(&[two.clone(), one.clone()]);
    // Each got its first sample when it appeared: one round is enough.
    let report = bench.next().await;
    let seen: Vec<_> = report.instances.iter().map(|usage| usage.instance).collect();
    assert_eq!(seen, [one.instance, two.instance]);
    assert!(report.instances.iter().all(|usage| (9..=10).contains(&usage.cpu_millis)), "{report:?}");
    assert!(report.instances.iter().all(|usage| usage.memory_bytes == 8 << 20));

    bench.fake.stop(&two.container, Duration::ZERO).await.expect("stopped");
    let report = bench.next().await;
    assert_eq!(report.instances.len(), 1, "{report:?}");
    bench.publish(&[]);
    assert_eq!(bench.next().await.instances, []);
}

#[tokio::test(start_paused = true)]
async fn rounds_keep_their_interval() {
    let mut bench = Bench::start();
    bench.next().await;
    for _ in 0..20 {
        let before = Instant::now();
        bench.next().await;
        let passed = before.elapsed();
        assert!(passed >= INTERVAL.mul_f64(0.89) && passed <= INTERVAL.mul_f64(1.11), "{passed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_costs_the_containers_not_the_host() {
    let mut bench = Bench::start();
    let container = bench.run(1).await;
    bench.publish(&[container]);
    bench.next().await;
    bench.fake.set_faults(|faults| faults.hang = true);
    let before = bench.reports.borrow().host.at;
    let report = bench.next().await;
    assert_eq!(report.instances, []);
    assert!(report.host.at >= before);
    bench.fake.set_faults(|faults| faults.hang = false);
    bench.next().await;
    assert_eq!(bench.next().await.instances.len(), 1, "and comes back");
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_told_and_when_nobody_knows_what_runs() {
    let bench = Bench::start();
    bench.stop.cancel();
    bench.task.await.expect("ended");

    let bench = Bench::start();
    drop(bench.running);
    bench.task.await.expect("ended");
}
