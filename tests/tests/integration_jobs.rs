//! Jobs on three real masters and in-memory runtimes: the leader is killed around the times a schedule is
//! due, and each of them is run exactly once; services start in their order.
//!
//! Invariant tested: a failover neither forgets a run nor does it twice.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};
use skein_proto::v1::{
    self, Dependency, DependencyCondition, JobPhase, Schedule, ScheduleControl, Service, ServiceSpec,
};
use skein_tests::{cluster::Cluster, spec::service, wait};
use tonic::Code;

const LIMIT: Duration = Duration::from_secs(30);
/// Between two due times: longer than an election takes.
const EVERY: u64 = 4;
const KILLS: u64 = 12;

fn scheduled(name: &str, cron: &str) -> ServiceSpec {
    let schedule = Schedule {
        cron: cron.to_owned(),
        keep_completed: Some(100),
        keep_failed: Some(100),
        ..Default::default()
    };
    ServiceSpec { schedule: Some(schedule), ..service(name).job(1, 0).build() }
}

async fn runs(cluster: &Cluster, job: &str) -> Result<Vec<Service>, String> {
    cluster.client.runs(job).await.map_err(|status| status.to_string())
}

fn due(run: &Service) -> u64 {
    run.scheduled_for.and_then(|at| u64::try_from(at.seconds).ok()).unwrap_or_default()
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn is_completed(run: &Service) -> bool {
    run.job.as_ref().is_some_and(|job| job.phase() == JobPhase::Completed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_due_time_is_run_once_although_leaders_die() -> Result<()> {
    let mut cluster = Cluster::start(3, 1).await?;
    cluster.engine("n1")?.set_faults(|faults| faults.exit_after = Some((Duration::from_millis(50), 0)));
    let began = now_ms();
    cluster.client.apply(scheduled("tick", &format!("*/{EVERY} * * * * *"))).await?;
    for kill in 0..KILLS {
        // From a little before a due time to a little after it.
        let next = (now_ms() / (EVERY * 1000) + 1) * EVERY * 1000;
        let at = next - 100 + kill * 25;
        wait::let_pass(Duration::from_millis(at.saturating_sub(now_ms()))).await;
        let leader = cluster.leader().await?;
        cluster.kill_master(leader).await?;
        cluster.leader().await?;
        cluster.start_master(leader).await?;
    }
    let last = now_ms() / 1000 / EVERY * EVERY;
    let first = (began / 1000 / EVERY + 1) * EVERY;
    let expected: Vec<u64> = (first..=last).step_by(usize::try_from(EVERY)?).collect();
    ensure!(expected.len() as u64 >= KILLS, "{} due times", expected.len());
    let seen = wait::until("every due time was run", LIMIT, async || {
        let runs = runs(&cluster, "tick").await?;
        let of_interest: Vec<_> = runs.iter().filter(|run| due(run) <= last).collect();
        let times: BTreeSet<u64> = of_interest.iter().map(|run| due(run)).collect();
        let missing: Vec<_> = expected.iter().filter(|time| !times.contains(time)).collect();
        let done = of_interest.iter().all(|run| is_completed(run));
        wait::expect(missing.is_empty() && done, || format!("{} runs, missing {missing:?}", runs.len()))?;
        Ok(of_interest.iter().map(|run| due(run)).collect::<Vec<_>>())
    })
    .await?;
    // The very time at which it was created belongs to nobody.
    let seen: Vec<_> = seen.into_iter().filter(|time| *time >= first).collect();
    ensure!(seen == expected, "{seen:?} instead of {expected:?}");
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_by_hand() -> Result<()> {
    let cluster = Cluster::start(3, 1).await?;
    cluster.engine("n1")?.set_faults(|faults| faults.exit_after = Some((Duration::from_millis(50), 0)));
    let client = cluster.client.clone();
    for (cron, zone, field) in
        [("61 * * * *", "", "spec.schedule.cron"), ("@daily", "Europe/Nowhere", "spec.schedule.time_zone")]
    {
        let mut spec = scheduled("backup", cron);
        spec.schedule.as_mut().unwrap().time_zone = zone.to_owned();
        let refused = client.apply(spec).await.expect_err("no schedule");
        ensure!(refused.code() == Code::InvalidArgument && refused.message().contains(field), "{refused}");
    }
    let made = client.apply(scheduled("backup", "0 0 1 1 *")).await?;
    ensure!(made.job.is_none() && made.schedule.is_some_and(|schedule| schedule.next.is_some()), "{made:?}");
    let mut services = client.services(0);
    let request = v1::RunJobRequest {
        service: "backup".to_owned(),
        request_id: "once".to_owned(),
        ..Default::default()
    };
    let run = services.run_job(request.clone()).await?.into_inner().run.unwrap();
    let again = services.run_job(request).await?.into_inner().run.unwrap();
    ensure!(run.id == again.id && run.owner_id == made.id, "{run:?} {again:?}");
    let kept = wait::until("the run has completed", LIMIT, async || {
        let runs = runs(&cluster, "backup").await?;
        wait::expect(runs.len() == 1 && runs.iter().all(is_completed), || format!("{runs:?}"))?;
        Ok(runs)
    })
    .await?;
    ensure!(cluster.client.instances(&kept[0].id).await?.len() == 1, "its record is kept, and so its log");
    let control = v1::ControlScheduleRequest {
        service: "backup".to_owned(),
        control: ScheduleControl::Suspend.into(),
        ..Default::default()
    };
    let suspended = services.control_schedule(control).await?.into_inner().service.unwrap();
    ensure!(suspended.spec.and_then(|spec| spec.schedule).is_some_and(|schedule| schedule.suspend));
    ensure!(suspended.schedule.is_some_and(|schedule| schedule.next.is_none()));
    let changed = client.apply(ServiceSpec { schedule: None, ..kept[0].spec.clone().unwrap() });
    let name = kept[0].spec.clone().unwrap().name;
    let mut spec = service(&name).job(1, 0).build();
    spec.labels.insert("a".to_owned(), "b".to_owned());
    ensure!(changed.await.is_err() || client.apply(spec).await.is_err(), "a run is not changed");
    client.delete("backup").await?;
    cluster.gone("backup").await?;
    ensure!(client.service(&name).await.is_err(), "its runs went with it");
    cluster.no_containers().await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_start_in_their_order() -> Result<()> {
    let cluster = Cluster::start(3, 2).await?;
    let client = cluster.client.clone();
    let on = |name: &str, condition: DependencyCondition| Dependency {
        service: name.to_owned(),
        condition: condition.into(),
    };
    let mut web = service("web").replicas(2).build();
    web.depends_on = vec![on("migrate", DependencyCondition::CompletedSuccessfully)];
    client.apply(web.clone()).await?;
    let waiting = wait::until("it waits", LIMIT, async || {
        let service = client.service("web").await.map_err(|status| status.to_string())?;
        let said = service.status.clone().unwrap_or_default().message;
        wait::expect(said.contains("waits for migrate, which does not exist"), || format!("{service:?}"))?;
        Ok(service)
    })
    .await?;
    ensure!(waiting.waits_for_dependencies);
    let mut circle = service("migrate").job(1, 0).build();
    circle.depends_on = vec![on("web", DependencyCondition::Started)];
    let refused = client.apply(circle).await.expect_err("a circle");
    ensure!(refused.code() == Code::InvalidArgument, "{refused}");
    ensure!(refused.message().contains("spec.depends_on[0].service"), "{refused}");
    client.apply(service("migrate").job(1, 0)).await?;
    let running = cluster.ready("migrate", 1).await?;
    ensure!(client.instances("web").await?.iter().all(|instance| instance.node_id.is_empty()));
    cluster.end_container(&running[0], 0).await?;
    cluster.ready("web", 2).await?;
    cluster.stop().await
}
