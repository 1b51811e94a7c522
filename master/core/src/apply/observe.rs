//! What agents report about their instances.
//!
//! Invariant: progress (and readiness within it) only grows and a terminal instance stays so; reports that are late,
//! repeated or not from the instance's node change nothing.

use std::cmp::Ordering;

use skein_common::{
    event::Severity,
    instance::{Desired, Instance, News, Observed, Phase, Progress, Slot},
};

use super::{
    Answer, Step,
    progress::{self, Input, Next},
};
use crate::command::{Outcome, Report};

const LOST_BY_NODE: &str = "the node no longer knows this instance";

pub(super) fn observe(step: &mut Step<'_>, reports: &[Report]) -> Answer {
    for report in reports {
        let Some(instance) = step.state.instances.get(&report.instance).cloned() else { continue };
        if instance.node != Some(report.node) {
            continue;
        }
        match &report.news {
            News::Observed(observed) => advance(step, &instance, observed),
            News::Gone => gone(step, &instance),
        }
    }
    Ok(Outcome::Done)
}

fn advance(step: &mut Step<'_>, before: &Instance, observed: &Observed) {
    if !is_news(before, observed) {
        return;
    }
    // An agent that lost its data begins to count anew; it is told what it had counted (`Known`).
    let mut observed = observed.clone();
    if observed.restarts.total < before.observed.restarts.total {
        observed.restarts.clone_from(&before.observed.restarts);
    }
    let ready = observed.is_ready();
    let same = before.observed.clock() == observed.clock();
    let since = if same { before.ready_since } else { Some(step.state.time) };
    let ready_since = since.filter(|_| ready);
    let instance = Instance { observed, ready_since, ..before.clone() };
    step.put_instance(instance.clone());
    settle(step, &instance);
    tell(step, before.observed.progress, &instance);
    tell_readiness(step, &before.observed, &instance);
}

/// From its first run on there may be data in its local volumes.
fn settle(step: &mut Step<'_>, instance: &Instance) {
    let (Some(node), Slot::Number(_)) = (instance.node, instance.slot) else { return };
    let key = (instance.service, instance.slot);
    let runs = instance.observed.progress.phase.is_running() && !instance.lost;
    if !runs || step.state.homes.get(&key) == Some(&node) || step.state.service(instance.service).is_none() {
        return;
    }
    if step.state.spec_of(instance).is_some_and(|spec| spec.has_local_volumes()) {
        step.state.homes.insert(key, node);
    }
}

/// Later progress, or more to say about the same (the agent's clock orders those).
fn is_news(instance: &Instance, reported: &Observed) -> bool {
    let known = &instance.observed;
    match progress::next(known.progress, instance.desired, Input::Reported(reported.progress)) {
        Next::Becomes(_) => return true,
        Next::Stays if known.progress == reported.progress => {}
        Next::Stays | Next::Forgotten => return false,
    }
    match known.readiness.cmp(&reported.readiness) {
        Ordering::Less => true,
        Ordering::Equal => known.at <= reported.at && Observed { at: known.at, ..reported.clone() } != *known,
        Ordering::Greater => false,
    }
}

fn gone(step: &mut Step<'_>, instance: &Instance) {
    let is_orphan = !step.state.services.contains_key(&instance.service);
    let desired = if is_orphan { Desired::Remove } else { instance.desired };
    let before = instance.observed.progress;
    let progress = match progress::next(before, desired, Input::Gone) {
        Next::Forgotten => return step.drop_instance(instance.id),
        Next::Stays => return,
        Next::Becomes(progress) => progress,
    };
    let wanted = instance.desired == Desired::Run;
    let message = if wanted { LOST_BY_NODE.to_owned() } else { instance.observed.message.clone() };
    let observed = Observed {
        progress,
        at: step.state.time,
        container_id: String::new(),
        message,
        ..instance.observed.clone()
    };
    let ended = Instance { observed, ..instance.clone() };
    step.put_instance(ended.clone());
    tell(step, before, &ended);
}

/// Events for what a person would want to know; what was asked for is not news.
fn tell(step: &mut Step<'_>, before: Progress, instance: &Instance) {
    let now = instance.observed.progress;
    if instance.desired != Desired::Run || before == now {
        return;
    }
    let (severity, reason, what) = match now.phase {
        Phase::Failed => (Severity::Warning, "InstanceFailed", "failed".to_owned()),
        Phase::Rejected => (Severity::Warning, "InstanceRejected", "could not start".to_owned()),
        Phase::Stopped => (Severity::Info, "InstanceCompleted", "ended".to_owned()),
        _ if now.attempt > before.attempt => {
            (Severity::Warning, "InstanceRestarted", format!("is restarted, attempt {}", now.attempt))
        }
        _ => return,
    };
    let node = instance.node.map(|node| step.state.node_name(node)).unwrap_or_default();
    let name = step.state.instance_name(instance);
    let message = format!("{name} on {node} {what}{}", cause(&instance.observed));
    step.instance_event(severity, reason, instance, message);
}

/// An attempt that was Ready and serves no more, or serves again.
fn tell_readiness(step: &mut Step<'_>, before: &Observed, instance: &Instance) {
    let now = &instance.observed;
    let same_phase = before.progress == now.progress && now.progress.phase == Phase::Ready;
    if instance.desired != Desired::Run || !same_phase || before.is_ready() == now.is_ready() {
        return;
    }
    let node = instance.node.map(|node| step.state.node_name(node)).unwrap_or_default();
    let name = step.state.instance_name(instance);
    let (severity, reason, message) = if now.is_ready() {
        (Severity::Info, "InstanceReady", format!("{name} on {node} is ready again"))
    } else {
        (Severity::Warning, "InstanceNotReady", format!("{name} on {node} is not ready{}", cause(now)))
    };
    step.instance_event(severity, reason, instance, message);
}

fn cause(observed: &Observed) -> String {
    match (observed.message.as_str(), observed.exit_code) {
        ("", None) => String::new(),
        ("", Some(code)) => format!(": exit code {code}"),
        (message, _) => format!(": {message}"),
    }
}
