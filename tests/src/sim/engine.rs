//! A container engine as a model: its containers outlive the agent, and it can be slow, refuse,
//! or not answer.
//!
//! Invariant: a container changes only through [`Engine::perform`], [`Engine::exit`] and
//! [`Engine::power_cut`]; names are unique, so a repeated `Create` finds its first container.
//! Deliberately not here: how long a step takes (`node`).

use std::collections::{BTreeMap, BTreeSet};

use skein_agent_core::{Action, ContainerStatus, Health, RuntimeError, SeenContainer, Success};
use skein_common::{InstanceId, Timestamp};

use super::dice::Dice;

/// Needs a pull before its first use on a node.
pub const REMOTE_IMAGE: &str = "remote:1";
/// No registry has it.
pub const ABSENT_IMAGE: &str = "absent:1";
/// Its process fails soon after it began.
pub const CRASHING_IMAGE: &str = "crashing:1";
/// Has a health check, which takes a while to pass.
pub const CHECKED_IMAGE: &str = "checked:1";

#[derive(Debug, Default)]
pub struct Engine {
    pub containers: BTreeMap<String, SeenContainer>,
    pulled: BTreeSet<String>,
    /// Containers with a health check.
    checked: BTreeSet<String>,
    /// Containers that fail.
    crashing: BTreeSet<String>,
    created: u64,
    pub unavailable: bool,
    /// Of 100 steps, how many fail.
    pub failing: u64,
    /// No pull succeeds.
    pub registry_away: bool,
    pub slow: bool,
}

impl Engine {
    /// # Errors
    /// As a real engine's.
    pub fn perform(
        &mut self,
        action: &Action,
        now: Timestamp,
        dice: &mut Dice,
    ) -> Result<Success, RuntimeError> {
        if self.unavailable {
            return Err(RuntimeError::Unavailable("connection refused".to_owned()));
        }
        if let Action::Start { container, .. } = action
            && self.containers.get(container).is_some_and(|known| known.status.is_running())
        {
            // There is nothing to do that could fail (Docker: 304).
            return Ok(Success::Done);
        }
        if self.failing > 0 && dice.percent(self.failing) {
            return Err(refusal(action, dice));
        }
        match action {
            Action::Pull { image } => self.pull(image),
            Action::Create { assignment, attempt } => {
                self.create(assignment.instance, *attempt, &assignment.container.image)
            }
            Action::Start { container, .. } => self.start(container, now),
            Action::Stop { container, .. } => {
                self.exit(container, 143, now);
                Ok(Success::Done)
            }
            Action::Remove { container, .. } => {
                self.containers.remove(container);
                Ok(Success::Done)
            }
        }
    }

    fn pull(&mut self, image: &str) -> Result<Success, RuntimeError> {
        if self.registry_away || image == ABSENT_IMAGE {
            let (image, reason) = (image.to_owned(), "the registry does not answer".to_owned());
            return Err(RuntimeError::Image { image, reason });
        }
        self.pulled.insert(image.to_owned());
        Ok(Success::Done)
    }

    fn create(&mut self, instance: InstanceId, attempt: u32, image: &str) -> Result<Success, RuntimeError> {
        if matches!(image, REMOTE_IMAGE | ABSENT_IMAGE) && !self.pulled.contains(image) {
            let (image, reason) = (image.to_owned(), "no such image".to_owned());
            return Err(RuntimeError::Image { image, reason });
        }
        let known =
            self.containers.values().find(|known| (known.instance, known.attempt) == (instance, attempt));
        if let Some(known) = known {
            return Ok(Success::Created(known.id.clone()));
        }
        self.created += 1;
        let id = format!("{instance}-{attempt}-{}", self.created);
        if image == CHECKED_IMAGE {
            self.checked.insert(id.clone());
        }
        if image == CRASHING_IMAGE {
            self.crashing.insert(id.clone());
        }
        let status = ContainerStatus::Created;
        self.containers
            .insert(id.clone(), SeenContainer { id: id.clone(), instance, attempt, status, address: None });
        Ok(Success::Created(id))
    }

    fn start(&mut self, id: &str, now: Timestamp) -> Result<Success, RuntimeError> {
        let health = if self.has_check(id) { Health::Starting } else { Health::Unchecked };
        let container = self.containers.get_mut(id).ok_or_else(|| RuntimeError::NotFound(id.to_owned()))?;
        if !container.status.is_running() {
            container.status = ContainerStatus::Running { health, started_at: now };
        }
        Ok(Success::Done)
    }

    #[must_use]
    pub fn has_check(&self, id: &str) -> bool {
        self.checked.contains(id)
    }

    #[must_use]
    pub fn is_crashing(&self, id: &str) -> bool {
        self.crashing.contains(id)
    }

    /// Ends a running container.
    pub fn exit(&mut self, id: &str, exit_code: i64, now: Timestamp) {
        if let Some(container) = self.containers.get_mut(id).filter(|container| container.status.is_running())
        {
            container.status = ContainerStatus::Exited {
                exit_code,
                oom_killed: false,
                finished_at: now,
                message: String::new(),
            };
        }
    }

    /// Every process of the machine ends.
    pub fn power_cut(&mut self, now: Timestamp) {
        let all: Vec<String> = self.containers.keys().cloned().collect();
        all.iter().for_each(|id| self.exit(id, 255, now));
    }

    #[must_use]
    pub fn list(&self, only: Option<InstanceId>) -> Vec<SeenContainer> {
        self.containers
            .values()
            .filter(|each| only.is_none_or(|only| each.instance == only))
            .cloned()
            .collect()
    }

    pub fn running(&self) -> impl Iterator<Item = &SeenContainer> {
        self.containers.values().filter(|container| container.status.is_running())
    }

    /// The health check of a container was carried out.
    pub fn check_health(&mut self, id: &str, health: Health) {
        if let Some(ContainerStatus::Running { health: known, .. }) =
            self.containers.get_mut(id).map(|container| &mut container.status)
        {
            *known = health;
        }
    }
}

fn refusal(action: &Action, dice: &mut Dice) -> RuntimeError {
    let rejected = || RuntimeError::Rejected("port is already allocated".to_owned());
    let failed = || RuntimeError::Failed("the engine had an accident".to_owned());
    match action {
        Action::Create { .. } | Action::Start { .. } if dice.percent(20) => rejected(),
        Action::Pull { .. } | Action::Create { .. } | Action::Start { .. } => failed(),
        Action::Stop { .. } | Action::Remove { .. } => failed(),
    }
}
