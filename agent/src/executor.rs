//! Carries out what the core decided: steps of the engine and looks at it.
//!
//! Invariant: every call ends, with the engine's answer or with the time limit's; each draws its
//! place in the sequence when it happens. Steps that cost the machine most (making and starting
//! containers is bound by the CPU) run at most [`HEAVY_AT_ONCE`] at a time, so that fifty
//! instances do not make each other late.
//! Deliberately not here: what to do (`agent/core`), retries (there too).

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use skein_agent_core::{Action, Finished, Glance, Look, RuntimeError, SeenContainer, Sequence, Success};
use skein_common::{InstanceId, assignment::Assignment};
use tokio::{sync::Semaphore, time};

use crate::files::Files;
use crate::runtime::{ContainerConfig, ContainerRuntime, ContainerView, Identity, Owner};

/// Creates and starts at once: eight-way was fastest against Docker on two cores.
const HEAVY_AT_ONCE: usize = 8;
const PULLS_AT_ONCE: usize = 3;
const REMOVALS_AT_ONCE: usize = 4;
const LOOKS_AT_ONCE: usize = 8;
/// A stop waits for its process, so all go on together, or the last would wait for the first;
/// each holds a connection, of which a process commonly may have 1,024.
const STOPS_AT_ONCE: usize = 256;
/// A runtime bounds its calls itself; these catch one that does not.
const STEP_LIMIT: Duration = Duration::from_secs(120);
const LOOK_LIMIT: Duration = Duration::from_secs(60);
/// A pull that makes progress may take long.
const PULL_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// Cheap to clone; one per cluster membership, because the owner is in it.
pub(crate) struct Executor<R> {
    runtime: Arc<R>,
    owner: Owner,
    files: Files,
    shared: Arc<Shared>,
}

struct Shared {
    sequence: AtomicU64,
    heavy: Semaphore,
    pulls: Semaphore,
    removals: Semaphore,
    stops: Semaphore,
    looks: Semaphore,
}

/// A step and what was seen right after it.
pub(crate) struct Done {
    pub(crate) glance: Option<Glance>,
    pub(crate) finished: Finished,
}

impl<R> Clone for Executor<R> {
    fn clone(&self) -> Self {
        Self {
            runtime: Arc::clone(&self.runtime),
            owner: self.owner,
            files: self.files.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<R: ContainerRuntime> Executor<R> {
    pub(crate) fn new(runtime: Arc<R>, owner: Owner, files: Files) -> Self {
        let shared = Shared {
            sequence: AtomicU64::new(1),
            heavy: Semaphore::new(HEAVY_AT_ONCE),
            pulls: Semaphore::new(PULLS_AT_ONCE),
            removals: Semaphore::new(REMOVALS_AT_ONCE),
            stops: Semaphore::new(STOPS_AT_ONCE),
            looks: Semaphore::new(LOOKS_AT_ONCE),
        };
        Self { runtime, owner, files, shared: Arc::new(shared) }
    }

    pub(crate) fn draw(&self) -> Sequence {
        Sequence(self.shared.sequence.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) async fn carry_out(self, action: Action) -> Done {
        let outcome = self.perform(&action).await;
        let at = self.draw();
        let glance = match (&action, &outcome) {
            (Action::Start { instance, container } | Action::Stop { instance, container, .. }, Ok(_)) => {
                self.inspect(*instance, container).await.ok()
            }
            _ => None,
        };
        Done { glance, finished: Finished { action, at, outcome, look: None } }
    }

    async fn perform(&self, action: &Action) -> Result<Success, RuntimeError> {
        let Shared { heavy, pulls, removals, stops, .. } = &*self.shared;
        let done = match action {
            Action::Pull { image } => {
                let _permit = pulls.acquire().await;
                limited(PULL_LIMIT, self.runtime.pull(image)).await
            }
            Action::Create { assignment, attempt } => {
                let files = self.files.of(assignment.instance, &assignment.container.configs).await?;
                let config = ContainerConfig { files, ..config(assignment, *attempt) };
                let _permit = heavy.acquire().await;
                return limited(STEP_LIMIT, self.runtime.create(self.owner, &config))
                    .await
                    .map(Success::Created);
            }
            Action::Start { container, .. } => {
                let _permit = heavy.acquire().await;
                limited(STEP_LIMIT, self.runtime.start(container)).await
            }
            Action::Stop { container, grace, .. } => {
                let _permit = stops.acquire().await;
                limited(grace.saturating_add(STEP_LIMIT), self.runtime.stop(container, *grace)).await
            }
            Action::Remove { container, .. } => {
                let _permit = removals.acquire().await;
                limited(STEP_LIMIT, self.runtime.remove(container)).await
            }
        };
        done.map(|()| Success::Done)
    }

    /// One container.
    pub(crate) async fn inspect(
        &self,
        instance: InstanceId,
        container: &str,
    ) -> Result<Glance, RuntimeError> {
        let _permit = self.shared.looks.acquire().await;
        let at = self.draw();
        let view = limited(LOOK_LIMIT, self.runtime.inspect(self.owner, container)).await?;
        Ok(Glance { at, instance, container: container.to_owned(), found: view.map(seen) })
    }

    /// All containers.
    pub(crate) async fn list(&self) -> Result<Look, RuntimeError> {
        let at = self.draw();
        let views = limited(LOOK_LIMIT, self.runtime.list(self.owner, None)).await?;
        Ok(Look { at, only: None, containers: views.into_iter().map(seen).collect() })
    }
}

async fn limited<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, RuntimeError>>,
) -> Result<T, RuntimeError> {
    let late = |_| RuntimeError::Unavailable(format!("no answer within {limit:?}"));
    time::timeout(limit, call).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
}

fn seen(view: ContainerView) -> SeenContainer {
    let ContainerView { id, identity, status, address } = view;
    SeenContainer { id, instance: identity.instance, attempt: identity.attempt, status, address }
}

fn config(assignment: &Assignment, attempt: u32) -> ContainerConfig {
    ContainerConfig {
        identity: Identity {
            instance: assignment.instance,
            attempt,
            service: assignment.service,
            service_name: assignment.service_name.clone(),
            slot: assignment.slot,
            generation: assignment.generation,
        },
        container: assignment.container.clone(),
        resources: assignment.resources,
        ports: assignment.ports.clone(),
        files: Vec::new(),
        devices: assignment.devices.clone(),
    }
}
