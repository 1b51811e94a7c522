//! What a change of services would do to instances, on all of the cluster: a rehearsal, compared with
//! what is there.
//!
//! Invariant: nothing but words comes out; the decisions are the planner's. Rollouts are rehearsed
//! to their end, or to where they wait for a user.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use skein_common::{
    InstanceId, NodeId, ServiceId, Timestamp,
    instance::{Desired, Instance, Slot},
    rollout::RolloutPhase,
    service::ServiceSpec,
};

use super::rehearsal::Rehearsal;
use crate::{
    command::{CommandKind, Plan, Rejection},
    state::{ClusterState, Service},
};

/// Of a rollout that is rehearsed.
const HORIZON: Duration = Duration::from_secs(24 * 3_600);
const MOST_PASSES: usize = 20_000;

/// What happens to one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    pub service: ServiceId,
    pub service_name: String,
    /// Service and slot.
    pub name: String,
    pub what: What,
    pub from: Option<NodeId>,
    /// `None` = nowhere: it is gone, or pending.
    pub to: Option<NodeId>,
    /// Why it is pending, or gave way.
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Created,
    Replaced,
    /// It makes room for what is more important, and comes back where there is room.
    Preempted,
    Removed,
    /// It finds no node, or waits for something.
    Pending,
}

/// Instances of other services as they change too; a service that is not there is created.
///
/// # Errors
/// As the first of the commands would be rejected.
pub fn foresee(
    state: &ClusterState,
    specs: &[Arc<ServiceSpec>],
    remove: &[ServiceId],
    now: Timestamp,
) -> Result<Vec<Fate>, Rejection> {
    let mut rehearsal = Rehearsal::new(state, now);
    let mut planned = Vec::new();
    for (number, spec) in specs.iter().enumerate() {
        let known = state.service_by_name(&spec.name).map(|service| service.id);
        let id = known.unwrap_or_else(|| free_id(state, number));
        let spec = Arc::clone(spec);
        rehearsal.command(match known {
            Some(id) => CommandKind::UpdateService { id, expected: None, spec },
            None => CommandKind::CreateService { id, spec },
        })?;
        planned.push(id);
    }
    for id in remove {
        rehearsal.command(CommandKind::DeleteService { id: *id, expected: None })?;
    }
    let victims = play(&mut rehearsal, &planned);
    Ok(compare(state, &rehearsal.state, &planned, &victims))
}

/// Ids are drawn at random, so a low one is free but for odds of nothing.
fn free_id(state: &ClusterState, number: usize) -> ServiceId {
    let number = u64::try_from(number).unwrap_or(0);
    let ids = (1 + number * 1_000..u64::MAX).map(ServiceId::from_random);
    ids.into_iter().find(|id| state.service(*id).is_none()).unwrap_or(ServiceId::from_random(1))
}

/// Until all rests and no planned rollout goes on; who gave way meanwhile, and to whom.
fn play(rehearsal: &mut Rehearsal, planned: &[ServiceId]) -> BTreeMap<InstanceId, String> {
    let mut victims = BTreeMap::new();
    let end = rehearsal.state.time() + HORIZON;
    for _ in 0..MOST_PASSES {
        let pass = rehearsal.pass();
        victims.extend(giving_way(&pass.plan));
        if rehearsal.obey() || !pass.plan.is_empty() {
            continue;
        }
        let rolls =
            planned.iter().filter_map(|id| rehearsal.state.service(*id)).any(|service| rolls(service));
        match pass.wake_at.filter(|at| rolls && *at < end) {
            Some(at) => rehearsal.pass_time(at),
            None => break,
        }
    }
    victims
}

fn rolls(service: &Service) -> bool {
    service.rollout.as_ref().is_some_and(|rollout| rollout.phase == RolloutPhase::Running)
}

fn giving_way(plan: &Plan) -> impl Iterator<Item = (InstanceId, String)> + '_ {
    let stopped = plan.desire.iter().filter(|wish| wish.desired == Desired::Stop);
    stopped
        .filter(|wish| wish.reason.starts_with(super::GIVES_WAY))
        .map(|wish| (wish.instance, wish.reason.clone()))
}

type Slots<'a> = BTreeMap<(ServiceId, Slot), &'a Instance>;

/// Who holds each slot: the oldest that lives, for another may stand beside it.
fn holders(state: &ClusterState) -> Slots<'_> {
    let mut slots = Slots::new();
    let mut live: Vec<&Instance> = state.instances().filter(|i| i.is_live()).map(AsRef::as_ref).collect();
    live.sort_by_key(|instance| (instance.created_revision, instance.id));
    for instance in live {
        slots.entry((instance.service, instance.slot)).or_insert(instance);
    }
    slots
}

fn compare(
    before: &ClusterState,
    after: &ClusterState,
    planned: &[ServiceId],
    victims: &BTreeMap<InstanceId, String>,
) -> Vec<Fate> {
    let (was, is) = (holders(before), holders(after));
    let mut fates = Vec::new();
    for (key, now) in &is {
        let earlier = was.get(key).copied();
        let same = earlier.is_some_and(|earlier| earlier.id == now.id);
        let from = earlier.and_then(|earlier| earlier.node);
        let gave_way = earlier.and_then(|earlier| victims.get(&earlier.id));
        // What waits as it did before is told of the planned services only.
        let what = match now.node {
            None if gave_way.is_some() => What::Preempted,
            None if same && !planned.contains(&now.service) => continue,
            None => What::Pending,
            Some(_) if same && from.is_some() => continue,
            Some(_) if gave_way.is_some() => What::Preempted,
            Some(_) if from.is_some() => What::Replaced,
            Some(_) => What::Created,
        };
        let reason = match (gave_way, now.node) {
            (Some(way), None) => format!("{way}; {}", now.explanation),
            (Some(way), Some(_)) => way.clone(),
            (None, None) => now.explanation.clone(),
            (None, Some(_)) => String::new(),
        };
        fates.push(fate(after, now, what, from, now.node, reason));
    }
    let gone = was.iter().filter(|(key, _)| !is.contains_key(key));
    // A job's slot that is done lives no more.
    let gone = gone.filter(|(_, i)| before.spec_of(i).is_none_or(|spec| !spec.mode.is_job()));
    fates.extend(gone.map(|(_, one)| fate(before, one, What::Removed, one.node, None, String::new())));
    fates.extend(completed(before, after, planned));
    fates.sort_by(|a, b| (a.what, &a.service_name, a.service).cmp(&(b.what, &b.service_name, b.service)));
    fates
}

/// Instances of planned jobs, which have come and gone in the rehearsal.
fn completed(before: &ClusterState, after: &ClusterState, planned: &[ServiceId]) -> Vec<Fate> {
    let mut fates = Vec::new();
    for service in planned {
        let new = after.instances_of(*service).filter(|i| before.instance(i.id).is_none() && !i.is_live());
        let jobs = new.filter(|i| after.spec_of(i).is_some_and(|spec| spec.mode.is_job()));
        fates.extend(jobs.map(|i| fate(after, i, What::Created, None, i.node, String::new())));
    }
    fates
}

fn fate(
    state: &ClusterState,
    instance: &Instance,
    what: What,
    from: Option<NodeId>,
    to: Option<NodeId>,
    reason: String,
) -> Fate {
    let service_name = state.spec_of(instance).map(|spec| spec.name.clone()).unwrap_or_default();
    let name = state.instance_name(instance);
    Fate { service: instance.service, service_name, name, what, from, to, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, GIB, replicated, reserving, with_image};

    fn told(cluster: &Cluster, specs: &[ServiceSpec], remove: &[ServiceId]) -> Vec<String> {
        let specs: Vec<_> = specs.iter().cloned().map(Arc::new).collect();
        let fates = foresee(&cluster.state, &specs, remove, cluster.now).expect("accepted");
        let node = |node: Option<NodeId>| node.map_or("-".to_owned(), |node| cluster.state.node_name(node));
        let told = fates.into_iter().map(|fate| {
            let (from, to) = (node(fate.from), node(fate.to));
            format!("{:?} {} {from} {to} {}", fate.what, fate.name, fate.reason).trim_end().to_owned()
        });
        told.collect()
    }

    #[test]
    fn a_new_service_and_what_finds_no_room() {
        let cluster = Cluster::new(2);
        let spec = reserving(replicated("web", 3), 0, 5 * GIB);
        let told = told(&cluster, &[spec], &[]);
        let created = told.iter().filter(|line| line.starts_with("Created web.")).count();
        assert_eq!((created, told.len()), (2, 3), "{told:?}");
        assert_eq!(told[2], "Pending web.3 - - 2 nodes: 2 insufficient memory");
    }

    #[test]
    fn a_rollout_is_followed_to_its_end() {
        let mut cluster = Cluster::new(2);
        let service = cluster.create(replicated("web", 3));
        cluster.create(replicated("api", 1));
        cluster.settle();
        let same = told(&cluster, &[replicated("web", 3)], &[]);
        assert_eq!(same, Vec::<String>::new());
        let new = with_image(replicated("web", 2), "skein-sample:2");
        let told_now = told(&cluster, &[new], &[]);
        let replaced = told_now.iter().filter(|line| line.starts_with("Replaced web.")).count();
        assert_eq!((replaced, told_now.len()), (2, 3), "{told_now:?}");
        assert!(told_now.iter().any(|line| line.starts_with("Removed web.3")), "{told_now:?}");
        // And it was only foreseen.
        assert_eq!(cluster.live(service).len(), 3);
        let removed = told(&cluster, &[], &[service]);
        assert_eq!(removed.iter().filter(|line| line.starts_with("Removed web.")).count(), 3);
    }

    #[test]
    fn who_gives_way_is_named() {
        let mut cluster = Cluster::new(1);
        cluster.create(reserving(replicated("low", 1), 0, 6 * GIB));
        cluster.settle();
        let mut spec = reserving(replicated("web", 1), 0, 6 * GIB);
        spec.placement.priority = 90;
        let told = told(&cluster, &[spec], &[]);
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(told[0], "Created web.1 - n1");
        assert!(told[1].starts_with("Preempted low.1 n1 - gives way to web of priority 90; "), "{told:?}");
    }

    #[test]
    fn what_would_be_rejected_is() {
        let mut cluster = Cluster::new(1);
        cluster.create(replicated("web", 1));
        let other = Arc::new(crate::testing::global("web"));
        assert!(foresee(&cluster.state, &[other], &[], cluster.now).is_err());
    }
}
