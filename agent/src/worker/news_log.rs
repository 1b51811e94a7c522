//! What a user would recognise, in the log: instances that became ready, restart, or ended.
//!
//! Invariant: each is said once; steps between are not said.

use std::collections::BTreeMap;

use skein_agent_core::NodeState;
use skein_common::{
    InstanceId,
    instance::{News, Observed, Phase, Progress},
};

#[derive(Debug, Default)]
pub(super) struct NewsLog {
    /// What was said last of each: attempt, phase, whether it serves, message.
    said: BTreeMap<InstanceId, (u32, Phase, bool, String)>,
}

impl NewsLog {
    /// What the checkpoint tells was said by the agent before.
    pub(super) fn remember(&mut self, state: &NodeState) {
        for instance in state.held() {
            if let Some(News::Observed(observed)) = state.news(instance) {
                let Progress { attempt, phase } = observed.progress;
                let serves = observed.is_ready();
                self.said.insert(instance, (attempt, phase, serves, observed.message));
            }
        }
        if !self.said.is_empty() {
            tracing::info!(instances = self.said.len(), "going on with what the checkpoint holds");
        }
    }

    pub(super) fn note(&mut self, state: &NodeState, changed: &[InstanceId]) {
        for instance in changed {
            match state.news(*instance) {
                Some(News::Observed(observed)) => self.observe(state, *instance, observed),
                Some(News::Gone) | None => {
                    if self.said.remove(instance).is_some() {
                        tracing::info!(%instance, "removed");
                    }
                }
            }
        }
    }

    fn observe(&mut self, state: &NodeState, instance: InstanceId, observed: Observed) {
        let phase = observed.progress.phase;
        let attempt = observed.progress.attempt;
        let before = self.said.get(&instance);
        let is_restart = before.is_none_or(|(known, ..)| *known < attempt);
        let what = match phase {
            Phase::Ready if !observed.is_ready() => "not ready",
            Phase::Ready => "ready",
            Phase::Stopped => "stopped",
            Phase::Failed => "failed",
            Phase::Rejected => "rejected",
            Phase::Pulling if !observed.message.is_empty() => "waiting for its image",
            _ if attempt > 1 && is_restart => "restarting",
            _ => return,
        };
        let says = (attempt, phase, observed.is_ready(), observed.message);
        if before == Some(&says) {
            return;
        }
        let service = state.assignments().get(instance).map(|assignment| assignment.service_name.as_str());
        let cause = Some(says.3.as_str()).filter(|cause| !cause.is_empty());
        tracing::info!(%instance, service, attempt, cause, "{what}");
        self.said.insert(instance, says);
    }
}
