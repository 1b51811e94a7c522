//! A container engine in memory, for tests and for agents by the thousand.
//!
//! Invariant: obeys the contract of [`ContainerRuntime`]: idempotent steps, one owner never sees
//! another's containers, events after each change. What goes wrong is said by [`Faults`].
//! Deliberately not here: processes; a container runs because it says so.

mod command;
mod engine;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream, stream::BoxStream};
use skein_common::{InstanceId, Timestamp};
use tokio::{
    sync::{broadcast, watch},
    time,
};
use tokio_stream::wrappers::BroadcastStream;

use self::{
    command::Execs,
    engine::{Engine, FakeContainer},
};
use super::{
    ContainerConfig, ContainerRuntime, ContainerSample, ContainerStatus, ContainerView, Exec, ExecCommand,
    ExecEnd, Health, LogLine, LogQuery, Owner, RuntimeError, RuntimeEvent, TerminalSize,
};
use crate::clock::Clock;

/// Events a slow listener may be behind before it has to list again.
const EVENTS: usize = 64;
/// What the fake says for SIGTERM.
const TERMINATED: i64 = 143;
/// What the fake says for SIGKILL.
const KILLED: i64 = 137;

/// What goes wrong, from now on. All of it is nothing by default.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    pub latency: Latency,
    /// No call is answered, for this reason.
    pub unavailable: Option<String>,
    /// No call ends.
    pub hang: bool,
    /// Pulls fail, for this reason.
    pub pull: Option<String>,
    /// Creates are rejected, for this reason.
    pub reject_create: Option<String>,
    /// Starts fail, for this reason.
    pub fail_start: Option<String>,
    /// Containers end by themselves after this long, with this exit code.
    pub exit_after: Option<(Duration, i64)>,
    /// Of containers that start; `None` = they have no health check.
    pub health: Option<Health>,
    /// Programs that are run in containers end so; `None` = with 0.
    pub exec: Option<ExecEnd>,
    /// They never end.
    pub exec_hangs: bool,
}

/// How long each step takes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Latency {
    pub list: Duration,
    pub pull: Duration,
    pub create: Duration,
    pub start: Duration,
    pub stop: Duration,
    pub remove: Duration,
}

/// How often each step was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calls {
    pub list: u64,
    pub inspect: u64,
    pub pull: u64,
    pub create: u64,
    pub start: u64,
    pub stop: u64,
    pub remove: u64,
}

/// Cheap to clone: every clone is the same engine, and outlives the agents that use it.
#[derive(Debug, Clone)]
pub struct FakeRuntime {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    engine: Mutex<Engine>,
    execs: Execs,
    events: broadcast::Sender<(Owner, RuntimeEvent)>,
    /// Moves with every change; predicates of tests wait on it.
    changes: watch::Sender<u64>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeRuntime {
    /// Every image is here until it is removed. Needs a tokio runtime.
    #[must_use]
    pub fn new() -> Self {
        let shared = Shared {
            clock: Clock::start(),
            engine: Mutex::default(),
            execs: Execs::default(),
            events: broadcast::Sender::new(EVENTS),
            changes: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.shared.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// Changes what goes wrong. An engine that answers again says so to its listeners.
    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        let mut engine = self.engine();
        let was_away = engine.faults.unavailable.is_some();
        change(&mut engine.faults);
        let event = match (&engine.faults.unavailable, was_away) {
            (Some(reason), false) => Some(RuntimeEvent::Unavailable { reason: reason.clone() }),
            (None, true) => Some(RuntimeEvent::Reconnected),
            _ => None,
        };
        let owners = engine.owners();
        drop(engine);
        for (event, owner) in event.iter().flat_map(|event| owners.iter().map(move |owner| (event, owner))) {
            let _nobody_listens = self.shared.events.send((*owner, event.clone()));
        }
        self.changed();
    }

    pub fn remove_image(&self, image: &str) {
        self.engine().missing_images.insert(image.to_owned());
    }

    #[must_use]
    pub fn calls(&self) -> Calls {
        self.engine().calls
    }

    /// Everything there is, of every owner.
    #[must_use]
    pub fn containers(&self) -> Vec<ContainerView> {
        self.engine().containers().map(|container| container.view.clone()).collect()
    }

    /// Containers that run, of every owner.
    #[must_use]
    pub fn running(&self) -> usize {
        self.engine().running
    }

    /// Moves whenever anything changed; for `wait_for`.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// The running container of an instance ends. Answers whether there was one.
    pub fn exit(&self, instance: InstanceId, exit_code: i64) -> bool {
        let id = self.engine().running_container(instance);
        id.is_some_and(|id| self.end(&id, exit_code, ""))
    }

    /// The health check of an instance's running container says this.
    pub fn set_health(&self, instance: InstanceId, said: Health) -> bool {
        let Some(id) = self.engine().running_container(instance) else { return false };
        self.change(&id, |container| {
            if let ContainerStatus::Running { health, .. } = &mut container.view.status {
                *health = said;
            }
        })
    }

    /// Somebody removed all containers of an instance.
    pub fn vanish(&self, instance: InstanceId) {
        let ids: Vec<String> =
            self.containers().into_iter().filter(|c| c.identity.instance == instance).map(|c| c.id).collect();
        for id in ids {
            self.drop_container(&id);
        }
    }

    /// An instance's running container writes a line.
    pub fn say(&self, instance: InstanceId, line: &str) -> bool {
        let Some(id) = self.engine().running_container(instance) else { return false };
        let line = LogLine { stderr: false, at: self.now(), line: line.to_owned().into() };
        let mut engine = self.engine();
        let said = engine.get_mut(&id).map(|container| container.lines.push(line)).is_some();
        drop(engine);
        self.changed();
        said
    }

    /// Commands that run in containers, of every owner.
    #[must_use]
    pub fn commands(&self) -> usize {
        self.shared.execs.running()
    }

    /// Ends when this container does not run.
    async fn container_ended(&self, id: &str) {
        let mut changes = self.changes();
        let runs = || self.engine().get_mut(id).is_some_and(|one| one.view.status.is_running());
        let _engine_is_gone = changes.wait_for(|_| !runs()).await;
    }

    fn changed(&self) {
        self.shared.changes.send_modify(|changes| *changes += 1);
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut FakeContainer)) -> bool {
        let mut engine = self.engine();
        let Some((owner, instance)) = engine.change(id, change) else { return false };
        drop(engine);
        self.tell(owner, instance, id);
        true
    }

    fn drop_container(&self, id: &str) {
        let removed = self.engine().remove(id);
        if let Some(container) = removed {
            self.tell(container.owner, container.view.identity.instance, id);
        }
    }

    fn tell(&self, owner: Owner, instance: InstanceId, id: &str) {
        let event = RuntimeEvent::Changed { instance, container: id.to_owned() };
        let _nobody_listens = self.shared.events.send((owner, event));
        self.changed();
    }

    fn end(&self, id: &str, exit_code: i64, message: &str) -> bool {
        let finished_at = self.now();
        let message = message.to_owned();
        self.change(id, |container| {
            if container.view.status.is_running() {
                container.view.status =
                    ContainerStatus::Exited { exit_code, oom_killed: false, finished_at, message };
            }
        })
    }

    /// Every call begins here.
    async fn call(
        &self,
        latency: impl Fn(&Latency) -> Duration,
        count: impl Fn(&mut Calls),
    ) -> Result<(), RuntimeError> {
        let (wait, hang) = {
            let mut engine = self.engine();
            count(&mut engine.calls);
            (latency(&engine.faults.latency), engine.faults.hang)
        };
        if hang {
            std::future::pending::<()>().await;
        }
        if !wait.is_zero() {
            time::sleep(wait).await;
        }
        match &self.engine().faults.unavailable {
            Some(reason) => Err(RuntimeError::Unavailable(reason.clone())),
            None => Ok(()),
        }
    }

    fn exit_later(&self, id: &str, after: Duration, exit_code: i64) {
        let (shared, id) = (Arc::downgrade(&self.shared), id.to_owned());
        // Stands for the process in the container: it ends when it ends, or with the engine.
        tokio::spawn(async move {
            time::sleep(after).await;
            if let Some(shared) = shared.upgrade() {
                Self { shared }.end(&id, exit_code, "");
            }
        });
    }
}

impl ContainerRuntime for FakeRuntime {
    async fn version(&self) -> Result<String, RuntimeError> {
        Ok("fake 1".to_owned())
    }

    async fn list(&self, owner: Owner, only: Option<InstanceId>) -> Result<Vec<ContainerView>, RuntimeError> {
        self.call(|latency| latency.list, |calls| calls.list += 1).await?;
        Ok(self.engine().list(owner, only))
    }

    async fn inspect(&self, owner: Owner, id: &str) -> Result<Option<ContainerView>, RuntimeError> {
        self.call(|_| Duration::ZERO, |calls| calls.inspect += 1).await?;
        let mut engine = self.engine();
        let found = engine.get_mut(id).filter(|container| container.owner == owner);
        Ok(found.map(|container| container.view.clone()))
    }

    fn events(&self, owner: Owner) -> BoxStream<'static, RuntimeEvent> {
        let first = {
            let mut engine = self.engine();
            engine.listen(owner);
            match &engine.faults.unavailable {
                Some(reason) => RuntimeEvent::Unavailable { reason: reason.clone() },
                None => RuntimeEvent::Reconnected,
            }
        };
        let events = BroadcastStream::new(self.shared.events.subscribe());
        let ours = events.filter_map(move |event| async move {
            match event {
                Ok((of, event)) => (of == owner).then_some(event),
                Err(_lagged) => Some(RuntimeEvent::Reconnected),
            }
        });
        stream::once(async { first }).chain(ours).chain(stream::pending()).boxed()
    }

    async fn has_image(&self, image: &str) -> Result<bool, RuntimeError> {
        self.call(|_| Duration::ZERO, |_| {}).await?;
        Ok(!self.engine().missing_images.contains(image))
    }

    async fn pull(&self, image: &str) -> Result<(), RuntimeError> {
        self.call(|latency| latency.pull, |calls| calls.pull += 1).await?;
        let mut engine = self.engine();
        match engine.faults.pull.clone() {
            Some(reason) => Err(RuntimeError::Image { image: image.to_owned(), reason }),
            None => {
                engine.missing_images.remove(image);
                Ok(())
            }
        }
    }

    async fn create(&self, owner: Owner, config: &ContainerConfig) -> Result<String, RuntimeError> {
        self.call(|latency| latency.create, |calls| calls.create += 1).await?;
        let mut engine = self.engine();
        let image = &config.container.image;
        if let Some(reason) = &engine.faults.reject_create {
            return Err(RuntimeError::Rejected(reason.clone()));
        }
        if engine.missing_images.contains(image) {
            return Err(RuntimeError::Image { image: image.clone(), reason: "no such image".to_owned() });
        }
        let id = engine.create(owner, config);
        drop(engine);
        self.changed();
        Ok(id)
    }

    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        self.call(|latency| latency.start, |calls| calls.start += 1).await?;
        let faults = self.engine().faults.clone();
        if let Some(reason) = faults.fail_start {
            return Err(RuntimeError::Failed(reason));
        }
        let (health, started_at) = (faults.health.unwrap_or(Health::Unchecked), self.now());
        let found = self.change(id, |container| {
            if !container.view.status.is_running() {
                container.view.status = ContainerStatus::Running { health, started_at };
            }
        });
        if !found {
            return Err(RuntimeError::NotFound(id.to_owned()));
        }
        if let Some((after, exit_code)) = faults.exit_after {
            self.exit_later(id, after, exit_code);
        }
        Ok(())
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        self.call(|latency| latency.stop.min(grace), |calls| calls.stop += 1).await?;
        let was_killed = self.engine().faults.latency.stop > grace;
        self.end(id, if was_killed { KILLED } else { TERMINATED }, "");
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        self.call(|latency| latency.remove, |calls| calls.remove += 1).await?;
        self.drop_container(id);
        Ok(())
    }

    async fn sample(&self, id: &str) -> Result<ContainerSample, RuntimeError> {
        self.call(|_| Duration::ZERO, |_| {}).await?;
        let at = self.now();
        let mut engine = self.engine();
        let container = engine.get_mut(id).ok_or_else(|| RuntimeError::NotFound(id.to_owned()))?;
        let ContainerStatus::Running { started_at, .. } = container.view.status else {
            return Err(RuntimeError::NotFound(id.to_owned()));
        };
        // A hundredth of a core, and 8 MiB.
        Ok(ContainerSample {
            at,
            cpu: at.since(started_at) / 100,
            memory_bytes: 8 << 20,
            network_receive_bytes: 0,
            network_transmit_bytes: 0,
        })
    }

    async fn prepare_exec(&self, id: &str, _words: &[String]) -> Result<String, RuntimeError> {
        self.call(|latency| latency.start, |_| ()).await?;
        let runs =
            self.engine().containers().any(|known| known.view.id == id && known.view.status.is_running());
        if runs { Ok(id.to_owned()) } else { Err(RuntimeError::NotFound(id.to_owned())) }
    }

    async fn run_exec(&self, _exec: &str) -> Result<ExecEnd, RuntimeError> {
        if self.engine().faults.exec_hangs {
            std::future::pending::<()>().await;
        }
        self.call(|latency| latency.start, |_| ()).await?;
        let end = self.engine().faults.exec.clone();
        Ok(end.unwrap_or_else(|| ExecEnd { exit_code: 0, output: String::new() }))
    }

    async fn exec_runs(&self, _exec: &str) -> Result<bool, RuntimeError> {
        Ok(self.engine().faults.exec_hangs)
    }

    fn logs(&self, id: &str, query: LogQuery) -> BoxStream<'static, Result<LogLine, RuntimeError>> {
        let Some(written) = self.engine().get_mut(id).map(|container| container.lines.len()) else {
            let error = RuntimeError::NotFound(id.to_owned());
            return stream::once(async { Err(error) }).boxed();
        };
        let tail = query.tail.and_then(|tail| usize::try_from(tail).ok()).unwrap_or(usize::MAX);
        let first = written.saturating_sub(tail);
        let reader = (self.clone(), self.changes(), id.to_owned(), first);
        let lines = stream::unfold(reader, move |(fake, mut changes, id, next)| async move {
            loop {
                changes.borrow_and_update();
                let (line, runs) = {
                    let mut engine = fake.engine();
                    let container = engine.get_mut(&id)?;
                    (container.lines.get(next).cloned(), container.view.status.is_running())
                };
                if let Some(line) = line {
                    return Some((Ok(line), (fake, changes, id, next + 1)));
                }
                if !query.follow || !runs {
                    return None;
                }
                changes.changed().await.ok()?;
            }
        });
        let since = query.since.unwrap_or_default();
        let wanted =
            move |line: &Result<LogLine, RuntimeError>| line.as_ref().map_or(true, |l| l.at >= since);
        lines.filter(move |line| std::future::ready(wanted(line))).boxed()
    }

    async fn exec(&self, id: &str, command: &ExecCommand) -> Result<Exec, RuntimeError> {
        self.call(|_| Duration::ZERO, |_| {}).await?;
        let runs = self.engine().get_mut(id).map(|container| container.view.status.is_running());
        match runs {
            Some(true) => Ok(self.shared.execs.start(self, id, command)),
            Some(false) => Err(RuntimeError::Failed(format!("container {id} is not running"))),
            None => Err(RuntimeError::NotFound(id.to_owned())),
        }
    }

    async fn resize_exec(&self, exec: &str, size: TerminalSize) -> Result<(), RuntimeError> {
        self.shared.execs.resize(exec, size)
    }

    async fn exec_exit(&self, exec: &str) -> Result<i32, RuntimeError> {
        self.shared.execs.exit(exec).await
    }

    async fn end_exec(&self, exec: &str) -> Result<(), RuntimeError> {
        self.shared.execs.end(exec)
    }
}
