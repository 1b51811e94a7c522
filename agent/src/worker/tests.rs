//! The worker against the engine in memory, under a clock that the test moves.

use std::{path::Path, time::Duration};

use skein_common::{
    NodeId, ServiceId,
    assignment::{Assignment, AssignmentContent, Known},
    instance::{Desired, News, Phase},
    service::{ContainerSpec, Generation, ResourceRequirements, RestartPolicy},
};
use tokio::task::JoinHandle;

use super::*;
use crate::{
    checkpoint::{self, Loaded},
    runtime::fake::{FakeRuntime, Faults},
    session::Connection,
};

const SOON: Duration = Duration::from_secs(3600);

fn cluster() -> ClusterId {
    ClusterId::from_random(1)
}

fn id(number: u64) -> InstanceId {
    InstanceId::from_random(number)
}

fn assignment(number: u64, desired: Desired) -> Assignment {
    Assignment {
        instance: id(number),
        service: ServiceId::from_random(9),
        service_name: "web".to_owned(),
        slot: 1,
        generation: Generation(1),
        desired,
        container: ContainerSpec { stop_grace: Duration::from_secs(2), ..ContainerSpec::new("web:1") },
        resources: ResourceRequirements::default(),
        restart: RestartPolicy::default(),
        ports: Vec::new(),
        devices: Vec::new(),
        attempt: 1,
        known: Known::default(),
    }
}

struct Running {
    handle: WorkerHandle,
    stop: CancellationToken,
    task: JoinHandle<()>,
    generation: u64,
}

impl Running {
    fn start(engine: &FakeRuntime, identity: Identity, checkpoint: Option<Checkpoint>) -> Self {
        let files = Files::new(None, identity.node, watch::channel(Connection::default()).1);
        let (worker, handle) = Worker::new(Arc::new(engine.clone()), identity, checkpoint, files);
        let stop = CancellationToken::new();
        let task = tokio::spawn(worker.run(stop.clone()));
        Self { handle, stop, task, generation: 0 }
    }

    async fn joined(engine: &FakeRuntime) -> Self {
        let running = Self::start(engine, Identity::in_memory(NodeId::from_random(3)), None);
        running.handle.join(cluster(), 5).await.unwrap();
        running
    }

    async fn set(&mut self, assignments: Vec<Assignment>) {
        self.generation += 1;
        let content = AssignmentContent::Full(assignments);
        let update = AssignmentUpdate { term: 5, generation: self.generation, content };
        assert_eq!(self.handle.assign(update).await, Some(Verdict::Accepted));
    }

    async fn wait(&self, what: impl Fn(&Holdings) -> bool) -> Holdings {
        let mut holdings = self.handle.holdings();
        let found = time::timeout(SOON, holdings.wait_for(|holdings| what(holdings))).await;
        match found {
            Ok(found) => found.unwrap().clone(),
            Err(_) => panic!("never came; held: {:?}", self.handle.holdings().borrow().news),
        }
    }

    async fn wait_progress(&self, number: u64, attempt: u32, phase: Phase) {
        self.wait(|holdings| progress(holdings, number) == Some((attempt, phase))).await;
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn progress(holdings: &Holdings, number: u64) -> Option<(u32, Phase)> {
    match holdings.news.get(&id(number))? {
        News::Observed(observed) => Some((observed.progress.attempt, observed.progress.phase)),
        News::Gone => None,
    }
}

fn is_gone(holdings: &Holdings, number: u64) -> bool {
    holdings.news.get(&id(number)) == Some(&News::Gone)
}

#[tokio::test(start_paused = true)]
async fn what_is_assigned_runs_without_time_passing() {
    let engine = FakeRuntime::new();
    let mut running = Running::joined(&engine).await;
    let began = Instant::now();
    running.set((1..=50).map(|number| assignment(number, Desired::Run)).collect()).await;
    running.wait(|holdings| (1..=50).all(|n| progress(holdings, n) == Some((1, Phase::Ready)))).await;
    assert_eq!(began.elapsed(), Duration::ZERO, "no timer is in the way");
    let calls = engine.calls();
    assert_eq!((calls.create, calls.start, calls.pull), (50, 50, 0));
    running.set(Vec::new()).await;
    running.wait(|holdings| holdings.news.is_empty()).await;
    assert_eq!(engine.containers(), []);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_is_replaced_at_once() {
    let engine = FakeRuntime::new();
    let mut running = Running::joined(&engine).await;
    running.set(vec![assignment(1, Desired::Run)]).await;
    running.wait_progress(1, 1, Phase::Ready).await;
    let began = Instant::now();
    assert!(engine.exit(id(1), 137));
    running.wait_progress(1, 2, Phase::Ready).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(engine.exit(id(1), 137));
    running.wait_progress(1, 3, Phase::Ready).await;
    assert!(began.elapsed() >= Duration::from_millis(750), "and then backs off");
    engine.vanish(id(1));
    running.wait_progress(1, 4, Phase::Ready).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_or_is_away_costs_nothing_but_time() {
    for away in [
        |faults: &mut Faults| faults.hang = true,
        |faults: &mut Faults| faults.unavailable = Some("connection refused".to_owned()),
    ] {
        let engine = FakeRuntime::new();
        let mut running = Running::joined(&engine).await;
        running.set(vec![assignment(1, Desired::Run)]).await;
        running.wait_progress(1, 1, Phase::Ready).await;
        engine.set_faults(away);
        running.set(vec![assignment(1, Desired::Run), assignment(2, Desired::Run)]).await;
        running.wait(|holdings| progress(holdings, 2).is_some()).await;
        time::advance(Duration::from_secs(300)).await;
        engine.set_faults(|faults| *faults = Faults::default());
        running.wait_progress(2, 1, Phase::Ready).await;
        running.wait_progress(1, 1, Phase::Ready).await;
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_fails_says_why_and_goes_on() {
    let engine = FakeRuntime::new();
    engine.remove_image("web:1");
    engine.set_faults(|faults| faults.pull = Some("no such host".to_owned()));
    let mut running = Running::joined(&engine).await;
    running.set(vec![assignment(1, Desired::Run)]).await;
    running
        .wait(|holdings| match holdings.news.get(&id(1)) {
            Some(News::Observed(observed)) => {
                observed.progress.phase == Phase::Pulling && observed.message.contains("no such host")
            }
            _ => false,
        })
        .await;
    engine.set_faults(|faults| faults.pull = None);
    running.wait_progress(1, 1, Phase::Ready).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_removal_is_told_when_nothing_is_left() {
    let engine = FakeRuntime::new();
    let mut running = Running::joined(&engine).await;
    running.set(vec![assignment(1, Desired::Run)]).await;
    running.wait_progress(1, 1, Phase::Ready).await;
    running.set(vec![assignment(1, Desired::Stop)]).await;
    running.wait_progress(1, 1, Phase::Stopped).await;
    assert_eq!(engine.containers().len(), 1);
    running.set(vec![assignment(1, Desired::Remove)]).await;
    running.wait(|holdings| is_gone(holdings, 1)).await;
    assert_eq!(engine.containers(), []);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn other_masters_are_not_obeyed() {
    let engine = FakeRuntime::new();
    let running = Running::joined(&engine).await;
    let lower = running.handle.join(cluster(), 4).await;
    assert!(matches!(lower, Err(JoinError::LowerTerm { obeyed: 5, offered: 4 })));
    let other = running.handle.join(ClusterId::from_random(2), 9).await;
    assert!(matches!(other, Err(JoinError::OtherCluster { .. })));
    assert_eq!(running.handle.term(), 5);
    running.end().await;
}

fn checkpoint_of(folder: &Path) -> Checkpoint {
    match checkpoint::load(folder).unwrap() {
        Loaded::Found(checkpoint) => *checkpoint,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_restarted_agent_adopts_and_restarts_without_masters() {
    let folder = tempfile::tempdir().unwrap();
    let engine = FakeRuntime::new();
    let mut first = Running::start(&engine, Identity::open(folder.path(), 3).unwrap(), None);
    first.handle.join(cluster(), 5).await.unwrap();
    assert_eq!(checkpoint_of(folder.path()).assignments.term(), 5, "on disk before it is obeyed");
    first.set(vec![assignment(1, Desired::Run), assignment(2, Desired::Stop)]).await;
    first.wait_progress(1, 1, Phase::Ready).await;
    first.wait_progress(2, 1, Phase::Stopped).await;
    let known = checkpoint_of(folder.path());
    assert!(known.records[&id(2)].phase().is_terminal(), "an end is on disk before it is told");
    first.end().await;
    assert_eq!(engine.running(), 1, "the agent's end is not the containers' end");

    let calls = engine.calls();
    let checkpoint = checkpoint_of(folder.path());
    let second = Running::start(&engine, Identity::open(folder.path(), 4).unwrap(), Some(checkpoint));
    second.wait_progress(1, 1, Phase::Ready).await;
    assert!(second.handle.holdings().borrow().complete);
    engine.exit(id(1), 1);
    second.wait_progress(1, 2, Phase::Ready).await;
    assert_eq!(engine.calls().create, calls.create + 1);
    assert_eq!(second.handle.term(), 5);
    second.end().await;
}

#[tokio::test]
async fn without_a_checkpoint_nothing_is_told_before_the_engine_was_listed() {
    let folder = tempfile::tempdir().unwrap();
    let engine = FakeRuntime::new();
    let mut first = Running::start(&engine, Identity::open(folder.path(), 3).unwrap(), None);
    first.handle.join(cluster(), 5).await.unwrap();
    first.set(vec![assignment(1, Desired::Run)]).await;
    first.wait_progress(1, 1, Phase::Ready).await;
    first.end().await;

    engine.set_faults(|faults| faults.unavailable = Some("starting".to_owned()));
    let second = Running::start(&engine, Identity::open(folder.path(), 3).unwrap(), None);
    assert!(!second.handle.holdings().borrow().complete);
    engine.set_faults(|faults| faults.unavailable = None);
    let held = second.wait(|holdings| holdings.complete).await;
    assert_eq!(progress(&held, 1), Some((1, Phase::Running)), "adopted; it may have probes");
    assert_eq!(engine.running(), 1);
    second.end().await;
}

#[tokio::test]
async fn a_disk_that_fails_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let engine = FakeRuntime::new();
    let mut running = Running::start(&engine, Identity::open(folder.path(), 3).unwrap(), None);
    running.handle.join(cluster(), 5).await.unwrap();
    running.set(vec![assignment(1, Desired::Run), assignment(2, Desired::Run)]).await;
    running.wait_progress(1, 1, Phase::Ready).await;
    std::fs::remove_dir_all(folder.path()).unwrap();
    running.set(vec![assignment(1, Desired::Stop), assignment(2, Desired::Run)]).await;
    running.wait_progress(1, 1, Phase::Stopped).await;
    running.set(vec![assignment(1, Desired::Stop), assignment(2, Desired::Stop)]).await;
    running.wait_progress(2, 1, Phase::Stopped).await;
    running.handle.join(cluster(), 6).await.unwrap();
    running.end().await;
}

/// An agent that lost it would run the earlier attempt, and the masters have that one ended.
#[test]
fn a_new_attempt_is_told_when_it_is_on_disk() {
    use skein_agent_core::{Finished, Look, RuntimeError, Sequence};
    let (clock, mut state) = (Clock::start(), NodeState::default());
    let content = AssignmentContent::Full(vec![assignment(1, Desired::Run)]);
    state.begin_session(5).unwrap();
    state.assign(AssignmentUpdate { term: 5, generation: 1, content });
    state.look(Look { at: Sequence(1), only: None, containers: Vec::new() });
    let mut publisher = Publisher::new();
    let plan = state.reconcile(clock.now());
    assert!(!publisher.hold_back(&state, &plan.changed, 1), "the first attempt waits for no disk");
    publisher.publish(&state, &plan.changed, 0);
    let told = |publisher: &Publisher| progress(&publisher.holdings().borrow(), 1);
    assert_eq!(told(&publisher), Some((1, Phase::Assigned)));

    let action = plan.actions[0].clone();
    let outcome = Err(RuntimeError::Failed("no space left".to_owned()));
    state.finish(Finished { action, at: Sequence(2), outcome, look: None }, clock.now());
    let plan = state.reconcile(clock.now());
    assert!(publisher.hold_back(&state, &plan.changed, 2));
    publisher.publish(&state, &plan.changed, 1);
    assert_eq!(told(&publisher).unwrap().0, 1);
    publisher.publish(&state, &[], 2);
    assert_eq!(told(&publisher).unwrap().0, 2);
}
