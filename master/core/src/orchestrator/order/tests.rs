//! Order: who waits for whom, and that it is only for the beginning.

use std::sync::Arc;

use skein_common::{
    InstanceId, ServiceId,
    instance::Phase,
    node::Liveness,
    service::{Dependency, DependencyCondition, Mode, RestartCondition, ServiceSpec},
};

use crate::{
    CommandKind, Rejection, invariant,
    testing::{Cluster, replicated, spec, with_image},
};

fn after(mut spec: ServiceSpec, others: &[(&str, DependencyCondition)]) -> ServiceSpec {
    let dependency = |(service, condition): &(&str, DependencyCondition)| Dependency {
        service: (*service).to_owned(),
        condition: *condition,
    };
    spec.depends_on = others.iter().map(dependency).collect();
    spec
}

fn job(name: &str) -> ServiceSpec {
    let mut spec = ServiceSpec { mode: Mode::Job { completions: 1, parallelism: 0 }, ..spec(name) };
    spec.restart.condition = RestartCondition::OnFailure;
    spec
}

fn reasons(cluster: &Cluster, service: ServiceId) -> Vec<String> {
    cluster.live(service).iter().map(|instance| instance.explanation.clone()).collect()
}

fn report(cluster: &mut Cluster, service: ServiceId, phase: Phase, exit_code: Option<i64>) {
    let all: Vec<InstanceId> = cluster.live(service).iter().map(|instance| instance.id).collect();
    all.into_iter().for_each(|id| cluster.report_exit(id, phase, exit_code, ""));
    cluster.plan_out();
    assert_eq!(invariant::check(&cluster.state), []);
}

fn is_placed(cluster: &Cluster, service: ServiceId) -> bool {
    let live = cluster.live(service);
    !live.is_empty() && live.iter().all(|instance| instance.node.is_some())
}

use DependencyCondition::{CompletedSuccessfully, Healthy, Started};

#[test]
fn the_first_instances_wait() {
    let mut cluster = Cluster::new(2);
    let web =
        cluster.create(after(replicated("web", 2), &[("db", Healthy), ("migrate", CompletedSuccessfully)]));
    let app = cluster.create(after(replicated("app", 1), &[("db", Started)]));
    cluster.plan_out();
    let both = "waits for db, which does not exist and migrate, which does not exist";
    assert_eq!(reasons(&cluster, web), [both, both]);
    let db = cluster.create(replicated("db", 1));
    let migrate = cluster.create(after(job("migrate"), &[("db", Healthy)]));
    cluster.plan_out();
    assert_eq!(reasons(&cluster, app), ["waits for db to start"]);
    assert_eq!(reasons(&cluster, migrate), ["waits for db to be healthy"]);
    report(&mut cluster, db, Phase::Running, None);
    assert!(is_placed(&cluster, app), "{:?}", reasons(&cluster, app));
    assert!(!is_placed(&cluster, migrate));
    report(&mut cluster, db, Phase::Ready, None);
    assert!(is_placed(&cluster, migrate));
    let one = "waits for migrate to complete";
    assert_eq!(reasons(&cluster, web), [one, one]);
    report(&mut cluster, migrate, Phase::Stopped, Some(0));
    assert!(is_placed(&cluster, web));
    assert!(!cluster.state.service(web).is_some_and(|service| service.waits));
}

#[test]
fn only_the_beginning_waits() {
    let mut cluster = Cluster::new(2);
    let db = cluster.create(replicated("db", 1));
    let web = cluster.create(after(replicated("web", 2), &[("db", Healthy)]));
    cluster.settle();
    assert!(is_placed(&cluster, web));
    // Both lose their node; db has nowhere to go for now, web comes back at once.
    cluster.accept(CommandKind::DeleteService { id: db, expected: None });
    cluster.judge(cluster.node("n1"), Liveness::Down);
    cluster.scale(web, 4);
    cluster.plan_out();
    assert!(is_placed(&cluster, web), "{:?}", reasons(&cluster, web));
}

/// The way of a deployment: the job that changes the tables runs anew, and the new web waits for it while the
/// old one goes on.
#[test]
fn each_generation_waits_anew() {
    let mut cluster = Cluster::new(2);
    let migrate = cluster.create(job("migrate"));
    let web = cluster.create(after(replicated("web", 2), &[("migrate", CompletedSuccessfully)]));
    cluster.settle();
    report(&mut cluster, migrate, Phase::Stopped, Some(0));
    cluster.settle();
    cluster.update(migrate, with_image(job("migrate"), "skein-sample:2"));
    let waits = |name| after(replicated("web", 2), &[(name, CompletedSuccessfully)]);
    cluster.update(web, with_image(waits("migrate"), "skein-sample:2"));
    cluster.settle();
    let generations = |cluster: &Cluster| -> Vec<_> {
        cluster.live(web).iter().map(|i| (i.generation.0, i.observed.progress.phase)).collect()
    };
    assert_eq!(generations(&cluster), [(1, Phase::Ready), (1, Phase::Ready)]);
    report(&mut cluster, migrate, Phase::Stopped, Some(0));
    cluster.settle();
    assert_eq!(generations(&cluster), [(2, Phase::Ready), (2, Phase::Ready)]);
    // Going back waits for nothing.
    cluster.update(migrate, with_image(job("migrate"), "skein-sample:3"));
    cluster.update(web, with_image(waits("migrate"), "skein-sample:3"));
    cluster.settle();
    let control = skein_common::rollout::RolloutControl::Undo { to: None };
    cluster.accept(CommandKind::ControlRollout { id: web, expected: None, control });
    assert!(!cluster.state.service(web).is_some_and(|service| service.waits));
}

#[test]
fn circles_are_refused() {
    let mut cluster = Cluster::new(1);
    cluster.create(after(spec("a"), &[("b", Started)]));
    cluster.create(after(spec("b"), &[("c", Started)]));
    let id = ServiceId::from_random(77);
    for (name, on) in [("c", "a"), ("c", "b")] {
        let kind = CommandKind::CreateService { id, spec: Arc::new(after(spec(name), &[(on, Started)])) };
        let outcome = cluster.apply(kind).outcome;
        let Err(Rejection::Invalid { violations }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(violations[0].field, "spec.depends_on[0].service");
        assert!(violations[0].description.contains("each would wait for the other"));
    }
    let kind = CommandKind::CreateService { id, spec: Arc::new(after(spec("c"), &[("c", Started)])) };
    assert!(matches!(cluster.apply(kind).outcome, Err(Rejection::Invalid { .. })));
    cluster.create(after(spec("c"), &[("d", Started)]));
}

#[test]
fn a_deadline_begins_with_the_release() {
    let mut cluster = Cluster::new(1);
    let db = cluster.create(replicated("db", 1));
    let mut spec = after(job("sum"), &[("db", Healthy)]);
    spec.job.active_deadline = Some(std::time::Duration::from_secs(10));
    let sum = cluster.create(spec);
    cluster.plan_out();
    cluster.pass(std::time::Duration::from_secs(60));
    cluster.plan_out();
    assert_eq!(reasons(&cluster, sum), ["waits for db to be healthy"]);
    report(&mut cluster, db, Phase::Ready, None);
    let started = cluster.state.service(sum).and_then(|s| s.job.clone()).map(|run| run.started_at);
    assert_eq!(started, Some(cluster.now));
    assert!(is_placed(&cluster, sum));
}
