//! How far a service is from what was asked for, in one line.
//!
//! Invariant: pure. Reached means: as many instances of the current generation as desired are
//! Ready, no older one is wanted, and none is still on its way out.

use std::collections::BTreeMap;

use skein_proto::v1::{Instance, JobPhase, JobRun, Phase, RolloutPhase, Service, service_spec::Mode};

use crate::output::{
    instance::{NOT_READY, is_over, is_ready, is_wanted, message, phase},
    text,
};

/// Explanations are cut to this, so that a line stays a line.
const LONGEST_REASON: usize = 160;

/// Where one goal stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub text: String,
    pub reached: bool,
    /// Reached, but only because nothing is planned.
    pub doubtful: bool,
    /// Why it will not be reached without a user's word, and what that could be.
    pub stuck: Option<String>,
}

impl Standing {
    const fn new(text: String, reached: bool) -> Self {
        Self { text, reached, doubtful: false, stuck: None }
    }
}

/// A service that shall run as its spec of a generation says.
pub fn of_running(name: &str, generation: u64, service: &Service, instances: &[&Instance]) -> Standing {
    let desired = desired(service);
    if let Some(schedule) = &service.schedule {
        let next = text::instant(schedule.next.as_ref()).map(text::second);
        let next = next.map_or_else(|| "suspended".to_owned(), |next| format!("next run at {next}"));
        return Standing::new(format!("{name} scheduled ({next})"), true);
    }
    if let Some(run) = &service.job {
        return of_job(name, service, run, instances);
    }
    // Newer than what is known of the service, or as good after going back.
    let current = |instance: &&&Instance| {
        instance.generation >= service.generation
            || service.current_generations.contains(&instance.generation)
    };
    let wanted: Vec<&Instance> = instances.iter().copied().filter(|i| is_wanted(i) && !i.lost).collect();
    let (new, old): (Vec<&Instance>, Vec<&Instance>) = wanted.iter().partition(current);
    let ready = new.iter().filter(|instance| is_ready(instance)).count();
    let ending = instances.iter().filter(|i| !is_wanted(i) && !is_over(i) && !i.lost).count();
    let mut parts = parts(&new);
    if !old.is_empty() {
        parts.push(format!("{} to be replaced", old.len()));
    }
    if ending > 0 {
        parts.push(format!("{ending} stopping"));
    }
    let missing = usize::try_from(desired).unwrap_or(usize::MAX).saturating_sub(wanted.len());
    if missing > 0 {
        let why = service.status.as_ref().map(|status| status.message.as_str()).unwrap_or_default();
        parts.push(with_reason(&format!("{missing} to come"), why));
    }
    let stuck = stuck(name, generation, service).or_else(|| waits_in_vain(name, service, instances));
    parts.extend(rollout(service));
    let reached =
        stuck.is_none() && parts.is_empty() && ready == new.len() && u32::try_from(ready) == Ok(desired);
    let detail = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    let text = format!("{name} {ready}/{desired} ready{detail}");
    Standing { doubtful: desired == 0 && is_global(service), stuck, ..Standing::new(text, reached) }
}

/// What is to be said of a rollout that is under way.
pub fn rollout(service: &Service) -> Option<String> {
    let rollout = service.rollout.as_ref()?;
    let what = if rollout.is_rollback { "going back" } else { "rollout" };
    let text = match rollout.phase() {
        RolloutPhase::Completed | RolloutPhase::Unspecified => return None,
        RolloutPhase::Running => format!("{what} under way"),
        RolloutPhase::AwaitingPromotion => format!("{what} waits to be promoted"),
        RolloutPhase::Paused => format!("{what} paused"),
    };
    Some(with_reason(&text, &rollout.reason))
}

/// Why nothing more will happen, and the next command to type.
fn stuck(name: &str, generation: u64, service: &Service) -> Option<String> {
    let rollout = service.rollout.as_ref()?;
    match rollout.phase() {
        RolloutPhase::AwaitingPromotion => Some(format!(
            "{name}: the canaries are ready and wait\n\
             next: skein service promote {name}, or skein service rollback {name}"
        )),
        RolloutPhase::Paused => Some(format!(
            "{}\nnext: skein service ps {name}, then skein service resume {name} or skein service rollback {name}",
            with_reason(&format!("{name}: the rollout is paused"), &rollout.reason)
        )),
        RolloutPhase::Completed if rollout.is_rollback && service.generation > generation => Some(format!(
            "{}\nnext: skein events --subject {name}",
            with_reason(&format!("{name}: the rollout failed and went back"), &rollout.reason)
        )),
        _ => None,
    }
}

/// What it waits for has failed, and nothing but a user's word changes that.
fn waits_in_vain(name: &str, service: &Service, instances: &[&Instance]) -> Option<String> {
    let explained = instances.iter().filter(|_| service.waits_for_dependencies).map(|i| &i.explanation);
    let reason = explained.into_iter().find(|text| text.ends_with("which has failed"))?;
    Some(format!("{name} {reason}\nnext: skein job ls, then skein logs JOB"))
}

/// A job is there when it has completed.
fn of_job(name: &str, service: &Service, run: &JobRun, instances: &[&Instance]) -> Standing {
    let completed = service.status.as_ref().map_or(0, |status| status.completed);
    let wanted = desired(service);
    match run.phase() {
        JobPhase::Completed => Standing::new(format!("{name} {completed}/{wanted} completed"), true),
        JobPhase::Failed => {
            let text = format!("{name} failed: {}", run.reason);
            let stuck = Some(format!("{text}\nnext: skein service ps {name}, then skein logs {name}"));
            Standing { stuck, ..Standing::new(text, false) }
        }
        JobPhase::Running | JobPhase::Unspecified => {
            let alive: Vec<_> = instances.iter().copied().filter(|i| is_wanted(i) && !is_over(i)).collect();
            let parts = parts(&alive);
            let detail = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
            Standing::new(format!("{name} {completed}/{wanted} completed{detail}"), false)
        }
    }
}

fn is_global(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| matches!(spec.mode, Some(Mode::Global(_))))
}

fn desired(service: &Service) -> u32 {
    let counted = service.status.as_ref().map_or(0, |status| status.desired);
    match service.spec.as_ref().and_then(|spec| spec.mode.as_ref()) {
        Some(Mode::Global(_) | Mode::GlobalJob(_)) => counted,
        Some(Mode::Job(mode)) => mode.completions.unwrap_or(1),
        Some(Mode::Replicated(mode)) => mode.replicas.unwrap_or(1),
        None => 1,
    }
}

/// Everything that is not Ready, grouped by what keeps it, in order of life.
fn parts(instances: &[&Instance]) -> Vec<String> {
    let mut groups = BTreeMap::<(i32, String), usize>::new();
    for instance in instances.iter().filter(|instance| !is_ready(instance)) {
        *groups.entry((phase(instance).into(), message(instance))).or_default() += 1;
    }
    let part = |((number, reason), count): ((i32, String), usize)| {
        let phase = Phase::try_from(number).unwrap_or_default();
        let word = match phase {
            Phase::Ready => NOT_READY.to_owned(),
            phase => text::enum_word(phase.as_str_name(), "PHASE_"),
        };
        with_reason(&format!("{count} {word}"), &reason)
    };
    groups.into_iter().map(part).collect()
}

fn with_reason(what: &str, reason: &str) -> String {
    if reason.is_empty() {
        return what.to_owned();
    }
    format!("{what}: {}", crate::terminal::shorten(&crate::terminal::printable(reason), LONGEST_REASON))
}

/// A service that shall be gone.
pub fn of_removed(name: &str, service: Option<&Service>, instances: &[&Instance]) -> Standing {
    let left = instances.iter().filter(|instance| !is_over(instance) && !instance.lost).count();
    match (service, left) {
        (None, _) => Standing::new(format!("{name} removed"), true),
        (Some(_), 0) => Standing::new(format!("{name} stopped, being forgotten"), false),
        (Some(_), left) => Standing::new(format!("{name} stopping ({left} left)"), false),
    }
}

/// A node that shall run nothing.
pub fn of_drained(name: &str, instances: &[&Instance]) -> Standing {
    let left: Vec<&str> = instances
        .iter()
        .filter(|instance| !is_over(instance))
        .map(|instance| instance.name.as_str())
        .collect();
    if left.is_empty() {
        return Standing::new(format!("{name} drained"), true);
    }
    let shown = left.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    let more = if left.len() > 5 { ", ..." } else { "" };
    Standing::new(format!("{name} draining ({} left: {shown}{more})", left.len()), false)
}

#[cfg(test)]
mod tests {
    use skein_proto::v1::{Desired, Observed, ReplicatedMode, Rollout, ServiceSpec, ServiceStatus};

    use super::*;

    fn service(replicas: u32, generation: u64) -> Service {
        Service {
            generation,
            spec: Some(ServiceSpec {
                mode: Some(Mode::Replicated(ReplicatedMode { replicas: Some(replicas) })),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn instance(generation: u64, desired: Desired, phase: Phase, explanation: &str) -> Instance {
        Instance {
            generation,
            desired: desired.into(),
            observed: Some(Observed { attempt: 1, phase: phase.into(), ..Default::default() }),
            explanation: explanation.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn says_what_is_missing() {
        use Desired::{Remove, Run, Stop};
        use Phase::{Failed, Pending, Pulling, Ready, Stopped, Stopping};
        let run = |phase| instance(1, Run, phase, "");
        let pending = || instance(1, Run, Pending, "3 nodes: 2 insufficient memory, 1 drained");
        let mut lost = instance(1, Stop, Ready, "");
        lost.lost = true;
        for (replicas, instances, text, reached) in [
            (2, vec![run(Ready), run(Ready)], "web 2/2 ready", true),
            (0, vec![], "web 0/0 ready", true),
            (2, vec![], "web 0/2 ready (2 to come)", false),
            (
                5,
                vec![run(Ready), run(Ready), run(Ready), run(Pulling), pending()],
                "web 3/5 ready (1 pending: 3 nodes: 2 insufficient memory, 1 drained, 1 pulling)",
                false,
            ),
            (1, vec![run(Ready), instance(1, Remove, Stopping, "")], "web 1/1 ready (1 stopping)", false),
            (1, vec![run(Ready), instance(1, Stop, Stopped, "")], "web 1/1 ready", true),
            (1, vec![run(Ready), lost], "web 1/1 ready", true),
            (1, vec![run(Ready), run(Ready)], "web 2/1 ready", false),
            (1, vec![run(Failed)], "web 0/1 ready (1 failed)", false),
        ] {
            let all: Vec<&Instance> = instances.iter().collect();
            let standing = of_running("web", 1, &service(replicas, 1), &all);
            assert_eq!((standing.text.as_str(), standing.reached), (text, reached));
        }
        let old = [instance(1, Run, Ready, ""), instance(2, Run, Ready, "")];
        let standing = of_running("web", 2, &service(2, 2), &old.iter().collect::<Vec<_>>());
        assert_eq!(standing.text, "web 1/2 ready (1 to be replaced)");
        assert!(!standing.reached);
    }

    #[test]
    fn a_global_service_counts_what_the_cluster_counts() {
        let mut global = service(0, 1);
        global.spec.as_mut().unwrap().mode = Some(Mode::Global(Default::default()));
        assert!(of_running("web", 1, &global, &[]).doubtful);
        global.status = Some(ServiceStatus { desired: 2, ..Default::default() });
        let ready = instance(1, Desired::Run, Phase::Ready, "");
        assert!(!of_running("web", 1, &global, &[&ready]).reached);
        assert!(of_running("web", 1, &global, &[&ready, &ready]).reached);
    }

    #[test]
    fn a_rollout_is_told_and_may_need_a_word() {
        let ready = |generation| instance(generation, Desired::Run, Phase::Ready, "");
        let look = |phase: RolloutPhase, is_rollback, reason: &str, instances: &[Instance]| {
            let mut service = service(2, 3);
            service.current_generations = vec![3, 1];
            let reason = reason.to_owned();
            service.rollout = Some(Rollout {
                generation: 3,
                phase: phase.into(),
                is_rollback,
                reason,
                ..Default::default()
            });
            of_running("web", 2, &service, &instances.iter().collect::<Vec<_>>())
        };
        let standing = look(RolloutPhase::Running, false, "", &[ready(3), ready(2)]);
        assert_eq!(standing.text, "web 1/2 ready (1 to be replaced, rollout under way)");
        assert_eq!((standing.reached, standing.stuck), (false, None));
        let standing = look(RolloutPhase::Paused, false, "web.1 failed", &[ready(3), ready(2)]);
        assert_eq!(standing.text, "web 1/2 ready (1 to be replaced, rollout paused: web.1 failed)");
        assert!(standing.stuck.unwrap().contains("skein service resume web"));
        let standing = look(RolloutPhase::AwaitingPromotion, false, "", &[ready(3), ready(2)]);
        assert!(standing.stuck.unwrap().contains("skein service promote web"));
        // Instances of an earlier generation that runs the same count.
        let standing = look(RolloutPhase::Completed, false, "", &[ready(3), ready(1)]);
        assert_eq!((standing.text.as_str(), standing.reached), ("web 2/2 ready", true));
        let standing = look(RolloutPhase::Completed, true, "it failed", &[ready(3), ready(1)]);
        assert!(!standing.reached && standing.stuck.unwrap().contains("went back: it failed"));
        let standing = look(RolloutPhase::Running, false, "", &[ready(3), ready(1)]);
        assert!(!standing.reached, "it is still being watched");
    }

    #[test]
    fn removing_and_draining() {
        let service = service(1, 1);
        let stopping = instance(1, Desired::Remove, Phase::Stopping, "");
        assert_eq!(of_removed("web", Some(&service), &[&stopping]).text, "web stopping (1 left)");
        assert!(of_removed("web", None, &[]).reached);
        assert!(!of_drained("n1", &[&stopping]).reached);
        assert!(of_drained("n1", &[&instance(1, Desired::Stop, Phase::Stopped, "")]).reached);
    }
}
