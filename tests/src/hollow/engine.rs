//! An engine that has done everything the moment it is asked.

use std::collections::BTreeMap;

use skein_agent_core::{Action, ContainerStatus, Finished, Health, Look, SeenContainer, Sequence, Success};
use skein_common::{InstanceId, Timestamp};

#[derive(Debug, Default)]
pub(super) struct HollowEngine {
    containers: BTreeMap<InstanceId, Vec<SeenContainer>>,
    drawn: u64,
}

impl HollowEngine {
    fn draw(&mut self) -> Sequence {
        self.drawn += 1;
        Sequence(self.drawn)
    }

    /// Everything there is.
    pub(super) fn list(&mut self) -> Look {
        let containers = self.containers.values().flatten().cloned().collect();
        Look { at: self.draw(), only: None, containers }
    }

    pub(super) fn perform(&mut self, action: Action, now: Timestamp) -> Finished {
        let mut success = Success::Done;
        match &action {
            Action::Pull { .. } => {}
            Action::Create { assignment, attempt } => {
                let (instance, attempt) = (assignment.instance, *attempt);
                let id = format!("{instance}-{attempt}");
                let status = ContainerStatus::Created;
                let container = SeenContainer { id: id.clone(), instance, attempt, status, address: None };
                self.containers.entry(instance).or_default().push(container);
                success = Success::Created(id);
            }
            Action::Start { instance, container } => {
                let status = ContainerStatus::Running { health: Health::Unchecked, started_at: now };
                self.set(*instance, container, status);
            }
            Action::Stop { instance, container, .. } => {
                let message = String::new();
                let status =
                    ContainerStatus::Exited { exit_code: 0, oom_killed: false, finished_at: now, message };
                self.set(*instance, container, status);
            }
            Action::Remove { instance, container } => {
                if let Some(own) = self.containers.get_mut(instance) {
                    own.retain(|each| each.id != *container);
                }
                self.containers.retain(|_, own| !own.is_empty());
            }
        }
        let at = self.draw();
        let look = action.instance().map(|instance| {
            let containers = self.containers.get(&instance).cloned().unwrap_or_default();
            Look { at: self.draw(), only: Some(instance), containers }
        });
        Finished { action, at, outcome: Ok(success), look }
    }

    fn set(&mut self, instance: InstanceId, id: &str, status: ContainerStatus) {
        let own = self.containers.get_mut(&instance);
        if let Some(container) = own.and_then(|own| own.iter_mut().find(|each| each.id == id)) {
            container.status = status;
        }
    }
}
