//! What only the leader does, and the place where the rest of the process finds it.
//!
//! Invariant: leader-only tasks exist inside [`Role::Leader`] and nowhere else; leaving the variant
//! awaits them. They see a state at least as new as the first entry of their own term, because
//! nothing is started, and nobody is let in, before one linearizable read.
//! Deliberately not here: elections (`store`); leadership is no lock, only the log decides.

use std::{error::Error, sync::Arc, time::Duration};

use skein_common::ClusterId;
use skein_master_core::{Command, CommandKind, Outcome, command::Actor, liveness::LivenessConfig};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock,
    controllers::{
        liveness::{self, Heard},
        observer::{Observer, Reports},
        planner::Planner,
    },
    exec::ExecDesk,
    load::LoadStore,
    logs::LogDesk,
    sessions::{dispatcher::Dispatcher, drains::DrainDesk, endpoints::EndpointDesk, registry::Registry},
    store::{MemberNode, Store},
    usage::UsageStore,
};

/// Between two tries of something that waits for a quorum.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// A leader that was just elected has its tasks running within this.
const SEATED_WITHIN: Duration = Duration::from_secs(2);

/// `EX_SOFTWARE`: our own fault.
const EXIT_INTERNAL: i32 = 70;

/// What the leader has and nobody else: gone with its term.
#[derive(Debug)]
pub struct Leading {
    pub term: u64,
    pub cluster_id: ClusterId,
    pub store: Store,
    pub sessions: Arc<Registry>,
    pub endpoints: Arc<EndpointDesk>,
    pub drains: Arc<DrainDesk>,
    pub heard: Arc<Heard>,
    pub liveness: LivenessConfig,
    pub reports: Reports,
    pub usage: Arc<UsageStore>,
    pub load: Arc<LoadStore>,
    pub logs: LogDesk,
    pub exec: ExecDesk,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Leading {
    /// For tasks that serve agents and callers of the leader.
    #[must_use]
    pub const fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }

    /// Ends when leadership does.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }
}

/// Where the leader's things are found while this master leads.
#[derive(Debug, Clone)]
pub struct Seat {
    store: Store,
    leading: watch::Receiver<Option<Arc<Leading>>>,
}

impl Seat {
    /// What this master has as the leader; `None` when it does not lead. Waits for a moment when it
    /// has just been elected.
    pub async fn taken(&self) -> Option<Arc<Leading>> {
        if !self.store.leadership().borrow().is_self {
            return None;
        }
        let mut leading = self.leading.clone();
        let seated = timeout(SEATED_WITHIN, leading.wait_for(Option::is_some)).await;
        seated.ok()?.ok()?.clone()
    }
}

/// What a new leader starts from.
#[derive(Debug, Clone)]
struct Bench {
    store: Store,
    liveness: LivenessConfig,
    seat: watch::Sender<Option<Arc<Leading>>>,
}

/// Raft role → tasks.
#[derive(Debug)]
enum Role {
    Follower,
    Leader(LeaderTasks),
}

#[derive(Debug)]
struct LeaderTasks {
    term: u64,
    bench: Bench,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// Follows this master's role.
#[derive(Debug)]
pub struct RoleKeeper {
    bench: Bench,
}

impl RoleKeeper {
    /// The keeper, and the seat it fills.
    #[must_use]
    pub fn new(store: Store, liveness: LivenessConfig) -> (Self, Seat) {
        let (sender, receiver) = watch::channel(None);
        let seat = Seat { store: store.clone(), leading: receiver };
        (Self { bench: Bench { store, liveness, seat: sender } }, seat)
    }

    /// Until `stop`; the leader's tasks have ended then.
    pub async fn run(self, stop: CancellationToken) {
        let mut leadership = self.bench.store.leadership();
        let mut role = Role::Follower;
        loop {
            let (term, is_self) = {
                let seen = leadership.borrow_and_update();
                (seen.term, seen.is_self)
            };
            role = role.follow(&self.bench, is_self.then_some(term)).await;
            tokio::select! {
                () = stop.cancelled() => break,
                changed = leadership.changed() => if changed.is_err() { break },
            }
        }
        role.follow(&self.bench, None).await;
    }
}

impl Role {
    /// The role in `term` (`None`: not the leader). Tasks of another term are awaited first.
    async fn follow(self, bench: &Bench, term: Option<u64>) -> Self {
        let kept = match self {
            Self::Leader(tasks) if Some(tasks.term) != term => {
                tasks.stop().await;
                Self::Follower
            }
            role => role,
        };
        match (kept, term) {
            (Self::Follower, Some(term)) => Self::Leader(LeaderTasks::start(bench.clone(), term)),
            (role, _) => role,
        }
    }
}

impl LeaderTasks {
    fn start(bench: Bench, term: u64) -> Self {
        let tasks = Self { term, bench, tracker: TaskTracker::new(), stop: CancellationToken::new() };
        let (bench, tracker, stop) = (tasks.bench.clone(), tasks.tracker.clone(), tasks.stop.clone());
        tasks.tracker.spawn(async move {
            tokio::select! {
                () = sit_down(bench, term, tracker, stop.clone()) => {}
                () = stop.cancelled() => {}
            }
        });
        tasks
    }

    async fn stop(self) {
        tracing::info!(term = self.term, "leadership ends");
        self.bench.seat.send_replace(None);
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Waits for a state of this term, then starts what a leader does.
async fn sit_down(bench: Bench, term: u64, tracker: TaskTracker, stop: CancellationToken) {
    while let Err(error) = bench.store.linearize().await {
        tracing::info!(error = &error as &dyn Error, "elected, and waiting for the quorum");
        sleep(RETRY_AFTER).await;
    }
    let cluster_id = form_cluster(&bench.store).await;
    let (observer, reports) = Observer::new(bench.store.clone());
    let leading = Arc::new(Leading {
        term,
        cluster_id,
        store: bench.store.clone(),
        sessions: Arc::default(),
        endpoints: Arc::default(),
        drains: Arc::default(),
        heard: Arc::default(),
        liveness: bench.liveness.clone(),
        reports,
        usage: Arc::default(),
        load: Arc::default(),
        logs: LogDesk::default(),
        exec: ExecDesk::default(),
        tracker: tracker.clone(),
        stop: stop.clone(),
    });
    let dispatcher = Dispatcher::new(&leading);
    let judge = liveness::run(bench.store.clone(), leading.heard.clone(), bench.liveness, stop.clone());
    spawn_vital(&tracker, "dispatcher", dispatcher.run(stop.clone()));
    spawn_vital(&tracker, "observer", observer.run(stop.clone()));
    spawn_vital(&tracker, "liveness", judge);
    spawn_vital(&tracker, "planner", Planner::new(bench.store, leading.usage.clone()).run(stop));
    tracing::info!(term, "this master leads");
    bench.seat.send_replace(Some(leading));
}

/// A task without which a leader does harm by staying: when it breaks, the process ends and another
/// master leads. All of them watch the stop token themselves.
fn spawn_vital(tracker: &TaskTracker, task: &'static str, run: impl Future<Output = ()> + Send + 'static) {
    let running = tokio::spawn(run);
    tracker.spawn(async move {
        if let Err(error) = running.await
            && error.is_panic()
        {
            tracing::error!(task, exit_code = EXIT_INTERNAL, "a task of the leader is broken");
            std::process::exit(EXIT_INTERNAL);
        }
    });
}

/// The cluster's id; the first leader chooses it.
async fn form_cluster(store: &Store) -> ClusterId {
    loop {
        if let Some(id) = store.snapshot().cluster_id() {
            return id;
        }
        let kind = CommandKind::FormCluster { id: ClusterId::from_random(clock::random()) };
        let actor = Actor::Controller("leader".to_owned());
        let command = Command { request: None, at: clock::now(), actor, kind };
        match store.propose(command).await.map(|committed| committed.outcome) {
            Ok(Ok(Outcome::Cluster(id))) => return id,
            Ok(other) => tracing::error!(?other, "the cluster was not formed"),
            Err(error) => tracing::warn!(error = &error as &dyn Error, "the cluster was not formed yet"),
        }
        sleep(RETRY_AFTER).await;
    }
}

/// Tells the other masters where this one's API is, until the membership says so. Initial masters
/// know of each other only the cluster addresses, and an API may move between two starts.
pub async fn announce(store: Store, me: MemberNode, stop: CancellationToken) {
    let told = async {
        while !is_announced(&store, &me) {
            if is_member(&store, &me) {
                // Refused while another change is under way; asked again until it is so.
                if let Err(error) = store.add_master(me.clone()).await {
                    tracing::debug!(error = &error as &dyn Error, "the API address is not announced yet");
                }
            }
            sleep(RETRY_AFTER).await;
        }
    };
    tokio::select! {
        () = told => {}
        () = stop.cancelled() => {}
    }
}

/// A master that waits to be added announces nothing: that would add it.
fn is_member(store: &Store, me: &MemberNode) -> bool {
    let members = store.status().members;
    members.iter().any(|member| member.name == me.name && member.cluster_address == me.cluster_address)
}

fn is_announced(store: &Store, me: &MemberNode) -> bool {
    let members = store.status().members;
    members.iter().any(|member| member.name == me.name && member.api_address == me.api_address)
}
