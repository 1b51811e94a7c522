//! Scenarios of the planner on a small cluster whose agents obey.

use std::time::Duration;

use skein_common::{
    NodeId, ServiceId,
    constraint::Constraint,
    instance::{Desired, Instance, Phase, Slot},
    node::{Availability, Liveness},
    service::{Generation, RestartCondition, UpdateOrder},
};

use super::*;
use crate::{
    CommandKind,
    command::Wish,
    invariant,
    testing::{Cluster, GIB, global, node, replicated, reserving, spec, with_image},
};

fn sound(cluster: &Cluster) {
    assert_eq!(invariant::check(&cluster.state), []);
    assert_eq!(invariant::check_capacity(&cluster.state), []);
}

/// Settles and shows what lives.
fn settled(cluster: &mut Cluster, service: ServiceId) -> Vec<String> {
    cluster.settle();
    sound(cluster);
    cluster.picture(service)
}

fn in_slot(cluster: &Cluster, service: ServiceId, number: u32) -> Instance {
    let mut live = cluster.state.instances_in(service, Slot::Number(number)).filter(|i| i.is_live());
    Instance::clone(live.next().expect("a live instance"))
}

fn nodes_of(cluster: &Cluster, service: ServiceId) -> Vec<NodeId> {
    cluster.live(service).iter().filter_map(|instance| instance.node).collect()
}

fn not_ready(cluster: &Cluster, service: ServiceId) -> usize {
    cluster.live(service).iter().filter(|i| i.observed.progress.phase != Phase::Ready).count()
}

/// Settles one report round at a time and tells the least number of Ready instances seen.
fn least_ready(cluster: &mut Cluster, service: ServiceId) -> usize {
    let mut least = usize::MAX;
    loop {
        cluster.plan_out();
        sound(cluster);
        let live = cluster.live(service);
        least = least.min(live.iter().filter(|i| i.observed.progress.phase == Phase::Ready).count());
        if !cluster.obey() {
            return least;
        }
    }
}

#[test]
fn creates_and_places_in_one_plan() {
    let mut cluster = Cluster::new(3);
    let service = cluster.create(replicated("web", 3));
    let plan = cluster.plan().plan;
    assert_eq!(plan.create.len(), 3);
    assert!(plan.create.iter().all(|new| new.placed.is_some()));
    assert_eq!(settled(&mut cluster, service).len(), 3);
    let mut nodes = nodes_of(&cluster, service);
    nodes.dedup();
    assert_eq!(nodes.len(), 3, "spread");
}

#[test]
fn scales_as_asked() {
    for (given, when, then) in
        [(1, 4, vec![1, 2, 3, 4]), (4, 2, vec![1, 2]), (3, 0, vec![]), (0, 1, vec![1]), (2, 2, vec![1, 2])]
    {
        let mut cluster = Cluster::new(2);
        let service = cluster.create(replicated("web", given));
        cluster.settle();
        cluster.scale(service, when);
        cluster.settle();
        let slots: Vec<_> = cluster.live(service).iter().map(|i| i.slot).collect();
        assert_eq!(slots, then.into_iter().map(Slot::Number).collect::<Vec<_>>(), "{given} → {when}");
        assert_eq!(cluster.state.instances_of(service).count(), usize::try_from(when).unwrap());
        sound(&cluster);
    }
}

#[test]
fn scaling_down_spares_what_runs() {
    let mut cluster = Cluster::new(1);
    let service = cluster.create(replicated("web", 4));
    cluster.plan_out();
    for number in [1, 3, 4] {
        let id = in_slot(&cluster, service, number).id;
        cluster.report(id, Phase::Ready);
    }
    cluster.scale(service, 2);
    let slots = |cluster: &Cluster| cluster.live(service).iter().map(|i| i.slot).collect::<Vec<_>>();
    cluster.plan_out();
    assert_eq!(slots(&cluster), [Slot::Number(1), Slot::Number(3)]);
    cluster.scale(service, 3);
    cluster.settle();
    assert_eq!(slots(&cluster), [Slot::Number(1), Slot::Number(2), Slot::Number(3)]);
}

#[test]
fn pending_says_why_and_is_placed_when_room_appears() {
    let mut cluster = Cluster::new(3);
    cluster.set_availability(cluster.node("n3"), Availability::Drained);
    let service = cluster.create(reserving(spec("big"), 0, 9 * GIB));
    cluster.plan_out();
    let pending = in_slot(&cluster, service, 1);
    assert_eq!(
        pending.explanation,
        "3 nodes: 2 insufficient memory, 1 drained; largest node has 8.0 GiB of memory"
    );
    let mut large = node("n4");
    large.capacity.memory_bytes = 16 * GIB;
    cluster.add_node(large);
    assert_eq!(settled(&mut cluster, service), ["big.1@n4 Ready"]);
    assert_eq!(in_slot(&cluster, service, 1).explanation, "");
}

#[test]
fn a_lost_node_is_replaced_in_the_same_plan() {
    let mut cluster = Cluster::new(2);
    let service = cluster.create(replicated("web", 2));
    cluster.settle();
    let node = cluster.node("n1");
    cluster.judge(node, Liveness::Down);
    let plan = cluster.plan().plan;
    assert!(matches!(&plan.desire[..], [Wish { desired: Desired::Remove, lost: true, .. }]));
    assert_eq!(plan.create.len(), 1);
    assert_eq!(plan.create[0].placed.as_ref().map(|(node, _)| *node), Some(cluster.node("n2")));
    assert_eq!(settled(&mut cluster, service), ["web.1@n2 Ready", "web.2@n2 Ready"]);

    // Its node comes back: what is superseded goes, what runs stays.
    assert_eq!(cluster.state.instances_of(service).count(), 3);
    cluster.judge(node, Liveness::Ready);
    assert_eq!(settled(&mut cluster, service), ["web.1@n2 Ready", "web.2@n2 Ready"]);
    assert_eq!(cluster.state.instances_of(service).count(), 2);
}

#[test]
fn an_unknown_node_keeps_its_instances_and_gets_none() {
    let mut cluster = Cluster::new(2);
    let service = cluster.create(replicated("web", 2));
    cluster.settle();
    cluster.judge(cluster.node("n1"), Liveness::Unknown);
    assert!(cluster.plan().plan.is_empty());
    cluster.scale(service, 3);
    cluster.plan_out();
    assert_eq!(in_slot(&cluster, service, 3).node, Some(cluster.node("n2")));
}

#[test]
fn how_an_end_is_answered() {
    use RestartCondition::{Any, None as Never, OnFailure};
    for (condition, phase, exit, replaced) in [
        (Any, Phase::Failed, Some(1), true),
        (OnFailure, Phase::Failed, Some(1), true),
        (OnFailure, Phase::Stopped, Some(0), false),
        (Never, Phase::Failed, Some(1), false),
        (Never, Phase::Stopped, Some(0), false),
        (Never, Phase::Rejected, None, true),
        (Any, Phase::Rejected, None, true),
    ] {
        let mut cluster = Cluster::new(2);
        let mut asked = spec("job");
        asked.restart.condition = condition;
        let service = cluster.create(asked);
        cluster.plan_out();
        let first = in_slot(&cluster, service, 1);
        cluster.report_exit(first.id, phase, exit, "");
        cluster.plan_out();
        let live = cluster.live(service);
        assert_eq!(live.len(), usize::from(replaced), "{condition:?} {phase} {exit:?}");
        sound(&cluster);
        // Ended as wished: scaling to the same count, or planning again, starts nothing.
        assert!(!cluster.step());
    }
}

#[test]
fn a_failing_slot_waits_longer_each_time_and_avoids_the_node() {
    let mut cluster = Cluster::new(3);
    let service = cluster.create(spec("web"));
    let mut last = None;
    for seconds in [10, 20, 40, 80, 160, 300, 300] {
        cluster.settle();
        let failed = in_slot(&cluster, service, 1);
        assert_ne!(failed.node, last, "another node after {seconds}");
        last = failed.node;
        cluster.report_exit(failed.id, Phase::Failed, Some(1), "");
        let planned = cluster.plan();
        assert_eq!(planned.wake_at, Some(cluster.now + Duration::from_secs(seconds)));
        cluster.plan_out();
        let waiting = in_slot(&cluster, service, 1);
        assert_eq!(waiting.node, None);
        assert!(waiting.explanation.starts_with("waits until 2023-"), "{}", waiting.explanation);
        assert!(waiting.explanation.ends_with("last: exit code 1"), "{}", waiting.explanation);
        cluster.pass(Duration::from_secs(seconds - 1));
        assert!(!cluster.step(), "not before its time");
        cluster.pass(Duration::from_secs(1));
    }
    cluster.settle();
    // Two ended records and the live one.
    assert_eq!(cluster.state.instances_of(service).count(), 3);
    cluster.pass(history::BACKOFF_TRUST);
    let trusted = in_slot(&cluster, service, 1);
    cluster.report_exit(trusted.id, Phase::Failed, Some(1), "");
    assert_eq!(cluster.plan().wake_at, Some(cluster.now + history::BACKOFF_START));
}

#[test]
fn the_first_rejection_is_answered_at_once_elsewhere() {
    let mut cluster = Cluster::new(2);
    let service = cluster.create(spec("web"));
    cluster.plan_out();
    let first = in_slot(&cluster, service, 1);
    cluster.report_exit(first.id, Phase::Rejected, None, "port is taken");
    cluster.plan_out();
    let second = in_slot(&cluster, service, 1);
    assert!(second.node.is_some());
    assert_ne!(second.node, first.node);
    cluster.report_exit(second.id, Phase::Rejected, None, "port is taken");
    cluster.plan_out();
    let third = in_slot(&cluster, service, 1);
    assert_eq!((third.node, third.failures), (None, 2));
}

#[test]
fn global_follows_its_nodes() {
    let mut cluster = Cluster::new(2);
    let mut asked = global("agent");
    asked.placement.constraints = vec!["node.labels.gpu != yes".parse::<Constraint>().unwrap()];
    let service = cluster.create(asked);
    assert_eq!(settled(&mut cluster, service).len(), 2);
    let mut labelled = node("n3");
    labelled.labels.insert("gpu".to_owned(), "yes".to_owned());
    cluster.add_node(labelled);
    cluster.add_node(node("n4"));
    let names = |pictures: Vec<String>| {
        let mut names: Vec<_> =
            pictures.iter().map(|p| p.split_once('@').unwrap().1.replace(" Ready", "")).collect();
        names.sort();
        names
    };
    assert_eq!(names(settled(&mut cluster, service)), ["n1", "n2", "n4"]);
    cluster.set_availability(cluster.node("n1"), Availability::Drained);
    assert_eq!(names(settled(&mut cluster, service)), ["n2", "n4"]);
    cluster.set_availability(cluster.node("n2"), Availability::Paused);
    assert_eq!(names(settled(&mut cluster, service)), ["n2", "n4"]);
    let labels = [("gpu".to_owned(), "yes".to_owned())].into();
    let id = cluster.node("n4");
    cluster.accept(CommandKind::UpdateNode {
        id,
        expected: None,
        availability: None,
        labels: Some(labels),
        drain_within: None,
    });
    assert_eq!(names(settled(&mut cluster, service)), ["n2"]);
    // Down: its slot is the node, so there is nothing to move; it goes on when the node is back.
    let before = cluster.live(service);
    cluster.judge(cluster.node("n2"), Liveness::Down);
    cluster.settle();
    assert_eq!(cluster.live(service), before);
}

#[test]
fn an_update_replaces_one_at_a_time() {
    let mut cluster = Cluster::new(3);
    let service = cluster.create(replicated("web", 5));
    cluster.settle();
    cluster.update(service, with_image(replicated("web", 5), "skein-sample:2"));
    assert_eq!(least_ready(&mut cluster, service), 4);
    assert!(cluster.live(service).iter().all(|i| i.generation == Generation(2)));
    sound(&cluster);
}

#[test]
fn an_update_waits_for_its_new_instances() {
    let mut cluster = Cluster::new(2);
    let service = cluster.create(replicated("web", 3));
    cluster.settle();
    cluster.update(service, with_image(replicated("web", 3), "broken"));
    cluster.plan_out();
    let old = cluster.state.instances_of(service).find(|i| i.desired == Desired::Stop).unwrap().id;
    cluster.report(old, Phase::Stopped);
    cluster.plan_out();
    let new = cluster.live(service).into_iter().find(|i| i.generation == Generation(2)).unwrap();
    cluster.report(new.id, Phase::Running);
    assert!(!cluster.step(), "it is not Ready yet");
    cluster.report_exit(new.id, Phase::Failed, Some(1), "");
    cluster.plan_out();
    assert_eq!(not_ready(&cluster, service), 1, "the others serve");
    // A third version heals: the broken one goes first, without its back-off.
    cluster.update(service, with_image(replicated("web", 3), "fixed"));
    assert_eq!(least_ready(&mut cluster, service), 2);
    assert!(cluster.live(service).iter().all(|i| i.generation == Generation(3)));
}

#[test]
fn what_is_pending_follows_an_update_at_once() {
    let mut cluster = Cluster::new(1);
    let service = cluster.create(reserving(replicated("web", 3), 0, 100 * GIB));
    cluster.plan_out();
    cluster.update(service, replicated("web", 3));
    cluster.plan_out();
    let live = cluster.live(service);
    assert!(live.iter().all(|i| i.generation == Generation(2) && i.node.is_some()));
    assert_eq!(cluster.state.instances_of(service).count(), 3);
}

#[test]
fn labels_and_replicas_change_in_place() {
    let mut cluster = Cluster::new(1);
    let service = cluster.create(replicated("web", 2));
    cluster.settle();
    let before = cluster.live(service);
    let mut labelled = replicated("web", 2);
    labelled.labels.insert("a".to_owned(), "b".to_owned());
    cluster.update(service, labelled);
    assert!(!cluster.step());
    assert_eq!(cluster.live(service), before);
}

/// Instances of n1 that shall run on.
fn on_first(cluster: &Cluster) -> usize {
    cluster.state.instances_on(cluster.node("n1")).filter(|i| i.is_live()).count()
}

#[test]
fn a_drain_that_has_had_its_time_stops_what_is_left() {
    for order in [UpdateOrder::StopFirst, UpdateOrder::StartFirst] {
        let mut cluster = Cluster::new(2);
        let mut web = replicated("web", 4);
        web.update.order = order;
        cluster.create(web);
        cluster.settle();
        assert_eq!(on_first(&cluster), 2);
        // Successors find no node.
        cluster.set_availability(cluster.node("n2"), Availability::Paused);
        let id = cluster.node("n1");
        let availability = Some(Availability::Drained);
        let drain_within = Some(Duration::from_secs(60));
        cluster.accept(CommandKind::UpdateNode {
            id,
            expected: None,
            availability,
            labels: None,
            drain_within,
        });
        let by = cluster.state.node(id).unwrap().drain_by.unwrap();
        assert_eq!(by, cluster.now + Duration::from_secs(60));
        cluster.settle();
        assert_eq!(on_first(&cluster), if order == UpdateOrder::StopFirst { 1 } else { 2 }, "{order:?}");
        assert!(cluster.plan().wake_at.is_some_and(|at| at <= by), "{order:?}: looked at again in time");
        cluster.pass(Duration::from_secs(60));
        cluster.settle();
        assert_eq!(on_first(&cluster), 0, "{order:?}");
        cluster.set_availability(id, Availability::Active);
        assert_eq!(cluster.state.node(id).unwrap().drain_by, None);
    }
}

#[test]
fn a_drain_moves_one_at_a_time() {
    let mut cluster = Cluster::new(2);
    let service = cluster.create(replicated("web", 4));
    let single = cluster.create(spec("single"));
    cluster.settle();
    let node = cluster.node("n1");
    cluster.set_availability(node, Availability::Drained);
    assert_eq!(least_ready(&mut cluster, service), 3);
    assert!(cluster.state.instances_on(node).all(|i| !i.is_live()));
    assert_eq!(cluster.live(single).len(), 1);
    assert!(cluster.state.instances_of(service).any(|i| i.explanation == "node n1 is drained"));
}

#[test]
fn a_successor_waits_until_its_predecessor_has_stopped() {
    let mut cluster = Cluster::new(1);
    let service = cluster.create(spec("web"));
    cluster.settle();
    let old = in_slot(&cluster, service, 1);
    cluster.update(service, with_image(spec("web"), "skein-sample:2"));
    cluster.plan_out();
    let new = in_slot(&cluster, service, 1);
    assert_eq!((new.node, new.explanation.as_str()), (None, "waits until its predecessor has stopped"));
    cluster.report(old.id, Phase::Stopping);
    assert!(!cluster.step());
    cluster.report(old.id, Phase::Stopped);
    cluster.plan_out();
    assert_eq!(in_slot(&cluster, service, 1).node, old.node);
}

#[test]
fn deletion_ends_everything_then_the_service() {
    let mut cluster = Cluster::new(2);
    let service = cluster.create(replicated("web", 3));
    let pending = cluster.create(reserving(spec("big"), 0, 100 * GIB));
    cluster.settle();
    for id in [service, pending] {
        cluster.accept(CommandKind::DeleteService { id, expected: None });
    }
    cluster.plan_out();
    assert!(cluster.state.service(pending).is_none(), "nothing ran");
    assert!(cluster.state.service(service).is_some_and(|s| s.deleting));
    cluster.settle();
    assert_eq!(cluster.state.services().count(), 0);
    assert_eq!(cluster.state.instance_count(), 0);
    sound(&cluster);
}

#[test]
fn a_node_that_is_down_does_not_hold_up_a_deletion() {
    let mut cluster = Cluster::new(2);
    let service = cluster.create(replicated("web", 2));
    let everywhere = cluster.create(global("agent"));
    cluster.settle();
    let node = cluster.node("n1");
    cluster.judge(node, Liveness::Down);
    for id in [service, everywhere] {
        cluster.accept(CommandKind::DeleteService { id, expected: None });
    }
    cluster.settle();
    sound(&cluster);
    assert_eq!(cluster.state.services().count(), 0);
    assert_eq!(cluster.state.instances_on(node).filter(|i| i.lost).count(), 2);
    // The name is free, and the node cleans up when it returns.
    cluster.create(spec("web"));
    cluster.judge(node, Liveness::Ready);
    cluster.settle();
    assert!(cluster.state.instances().all(|i| !i.lost));
    sound(&cluster);
}

#[test]
fn a_removed_node_gives_its_slots_free() {
    let mut cluster = Cluster::new(2);
    let service = cluster.create(replicated("web", 2));
    let everywhere = cluster.create(global("agent"));
    cluster.settle();
    let id = cluster.node("n1");
    cluster.accept(CommandKind::DeleteNode { id, expected: None, force: true });
    assert_eq!(settled(&mut cluster, service), ["web.1@n2 Ready", "web.2@n2 Ready"]);
    assert_eq!(cluster.picture(everywhere), ["agent.n2 Ready"].map(|_| "agent.n2@n2 Ready"));
}

#[test]
fn a_large_plan_comes_in_parts() {
    let mut cluster = Cluster::new(10);
    let replicas = u32::try_from(MAX_PARTS).unwrap() + 10;
    let service = cluster.create(replicated("web", replicas));
    let planned = cluster.plan();
    assert_eq!(planned.plan.create.len(), MAX_PARTS);
    assert_eq!(planned.wake_at, Some(cluster.now));
    cluster.plan_out();
    assert_eq!(cluster.live(service).len(), MAX_PARTS + 10);
    sound(&cluster);
}

#[test]
fn a_narrow_scope_decides_the_same() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(replicated("web", 2));
    cluster.plan_out();
    let db = cluster.create(spec("db"));
    let scope = Scope::Only { services: [db].into(), pending: false };
    let narrow = cluster.clone().plan_for(&scope);
    assert_eq!(narrow, cluster.clone().plan());
    let applied = cluster.accept(CommandKind::Plan(narrow.plan));
    assert_eq!(Scope::of(&applied.changes), scope);
    let gone = in_slot(&cluster, web, 1);
    cluster.report(gone.id, Phase::Failed);
    assert!(Scope::of(&[]).is_nothing());
}

#[test]
fn an_old_plan_breaks_nothing() {
    let mut cluster = Cluster::new(2);
    let service = cluster.create(reserving(replicated("web", 2), 4_000, 0));
    let plan = cluster.plan().plan;
    cluster.accept(CommandKind::Plan(plan.clone()));
    let before = cluster.state.clone();
    let mut copy = plan;
    for new in &mut copy.create {
        new.id = InstanceId::from_random(new.id.get() ^ 1);
    }
    let applied = cluster.accept(CommandKind::Plan(copy));
    assert_eq!(applied.changes, [], "the slots are taken");
    assert_eq!(cluster.state.instances_of(service).count(), before.instances_of(service).count());
    sound(&cluster);
}

#[test]
fn the_more_important_are_served_first_and_get_room() {
    let important = |name: &str, replicas, gib, priority| {
        let mut spec = reserving(replicated(name, replicas), 0, gib * GIB);
        spec.placement.priority = priority;
        spec
    };
    let mut cluster = Cluster::new(1);
    // Who comes first matters less than who is more important.
    let low = cluster.create(important("low", 1, 6, 10));
    let high = cluster.create(important("high", 1, 6, 60));
    assert_eq!(settled(&mut cluster, high), ["high.1@n1 Ready"]);
    assert_eq!(cluster.picture(low), ["low.1@nowhere Pending"]);
    // Nobody gives way for less than the gap.
    let next = cluster.create(important("next", 1, 6, 69));
    assert_eq!(settled(&mut cluster, next), ["next.1@nowhere Pending"]);
    let top = cluster.create(important("top", 1, 4, 70));
    assert_eq!(settled(&mut cluster, top), ["top.1@n1 Ready"]);
    assert_eq!(cluster.picture(high), ["high.1@nowhere Pending"]);
    let told =
        cluster.state.events().filter(|event| event.message.contains("gives way to top of priority 70"));
    assert_eq!(told.count(), 1);
    sound(&cluster);
}

#[test]
fn nobody_slips_into_room_that_is_being_made() {
    let important = |name: &str, replicas, gib, priority| {
        let mut spec = reserving(replicated(name, replicas), 0, gib * GIB);
        spec.placement.priority = priority;
        spec.disruption = Some(skein_common::service::Disruption::MaxUnavailable(3));
        spec
    };
    let mut cluster = Cluster::new(1);
    let low = cluster.create(important("low", 3, 2, 10));
    cluster.settle();
    let top = cluster.create(important("top", 1, 7, 90));
    cluster.plan_out();
    let leaving: Vec<_> =
        cluster.state.instances_of(low).filter(|i| i.desired == Desired::Stop).map(|i| i.id).collect();
    assert_eq!(leaving.len(), 3);
    // One has stopped: its successor would fit, and has to wait.
    cluster.report(leaving[0], Phase::Stopped);
    cluster.plan_out();
    assert_eq!(cluster.state.instances_of(low).filter(|i| i.is_live() && i.node.is_some()).count(), 0);
    assert_eq!(settled(&mut cluster, top), ["top.1@n1 Ready"]);
    sound(&cluster);
}
