//! A cluster of stores in this process.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use skein_common::{NodeId, Resources, Revision, Timestamp, node::NodeDescription};
use skein_master::{
    raft::{identity::Formation, server::RaftServer},
    store::{FatalHandler, MemberNode, Store, StoreOptions},
};
use skein_master_core::{
    ClusterState, Command, CommandKind,
    command::{Actor, RequestKey},
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::gate::{Door, Gate};

/// Nothing here may take longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Cluster {
    nodes: Vec<Node>,
    initial: Vec<MemberNode>,
    configure: fn(&mut StoreOptions),
}

struct Node {
    folder: TempDir,
    member: MemberNode,
    /// Where it listens itself, behind its gate.
    inside: SocketAddr,
    gate: Gate,
    /// Why it would have ended its process.
    fatal: Arc<Mutex<Vec<String>>>,
    running: Option<Running>,
}

struct Running {
    store: Store,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

/// Registers a node of its own for every number.
pub fn register(number: u64) -> Command {
    register_as(number, &format!("n{number}"))
}

pub fn register_as(number: u64, name: &str) -> Command {
    let description = NodeDescription {
        name: name.to_owned(),
        address: "127.0.0.1".to_owned(),
        labels: BTreeMap::new(),
        capacity: Resources::default(),
        reserved: Resources::default(),
        platform: skein_common::node::Platform::default(),
        agent_version: "0".to_owned(),
        runtime_version: "none".to_owned(),
        generic: Vec::new(),
        balances: false,
        pids: 0,
    };
    Command {
        request: None,
        at: Timestamp::from_unix_ms(1_800_000_000_000),
        actor: Actor::User,
        kind: CommandKind::RegisterNode {
            id: NodeId::from_random(number + 1),
            description: Arc::new(description),
            incarnation: 1,
        },
    }
}

/// The same with a request id, so that it may be tried again.
pub fn register_once(number: u64) -> Command {
    Command {
        request: Some(RequestKey { id: format!("r{number}"), fingerprint: number }),
        ..register(number)
    }
}

impl Cluster {
    pub async fn start(count: usize) -> Self {
        Self::start_with(count, |_| {}).await
    }

    /// Starts `count` initial masters and waits until they have a leader.
    pub async fn start_with(count: usize, configure: fn(&mut StoreOptions)) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let mut cluster = Self { nodes: Vec::new(), initial: Vec::new(), configure };
        let mut listeners = Vec::new();
        for _ in 0..count {
            listeners.push(cluster.place().await);
        }
        cluster.initial = cluster.nodes.iter().map(|node| node.member.clone()).collect();
        for (node, listener) in listeners.into_iter().enumerate() {
            cluster.open(node, listener, cluster.initial.clone()).await;
        }
        cluster.leader().await;
        cluster
    }

    /// Chooses the ports and the folder of one more master.
    async fn place(&mut self) -> TcpListener {
        let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let outside = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let number = self.nodes.len() + 1;
        let member = MemberNode {
            name: format!("m{number}"),
            api_address: format!("127.0.0.1:{number}"),
            cluster_address: outside.local_addr().unwrap().to_string(),
        };
        let address = inside.local_addr().unwrap();
        let gate = Gate::new(outside, address);
        let folder = tempfile::tempdir().unwrap();
        self.nodes.push(Node { folder, member, inside: address, gate, fatal: Arc::default(), running: None });
        inside
    }

    async fn open(&mut self, node: usize, listener: TcpListener, initial: Vec<MemberNode>) {
        let place = &mut self.nodes[node];
        let mut options = StoreOptions::new(place.folder.path(), place.member.clone(), initial);
        let fatal = place.fatal.clone();
        options.fatal = FatalHandler::new(move |reason| fatal.lock().unwrap().push(reason.to_owned()));
        (self.configure)(&mut options);
        let store = Store::open(options).await.unwrap();
        let stop = CancellationToken::new();
        let serve = RaftServer::serve(store.clone(), listener, stop.clone());
        let served = tokio::spawn(async move { serve.await.unwrap() });
        place.running = Some(Running { store, stop, served });
    }

    /// Adds a master that waits to be added.
    pub async fn add_waiting(&mut self) -> usize {
        let listener = self.place().await;
        let node = self.nodes.len() - 1;
        self.open(node, listener, Vec::new()).await;
        node
    }

    /// Ends a master, as seen by the others at once.
    pub async fn kill(&mut self, node: usize) {
        let running = self.nodes[node].running.take().unwrap();
        self.door(node, Door::Shut).await;
        running.served.abort();
        running.stop.cancel();
        running.store.shutdown().await;
        let _ = running.served.await;
    }

    pub async fn restart(&mut self, node: usize) {
        let address = self.nodes[node].inside;
        let listener = patiently("the port is free", async || TcpListener::bind(address).await.ok()).await;
        self.door(node, Door::Open).await;
        self.open(node, listener, self.initial.clone()).await;
    }

    /// Empties a dead master's data folder.
    pub fn wipe(&mut self, node: usize) {
        self.nodes[node].folder = tempfile::tempdir().unwrap();
    }

    /// Waits until a master wants to end its process; answers why, and forgives it.
    pub async fn fatal(&self, node: usize) -> String {
        patiently("a fatal error", async || self.nodes[node].fatal.lock().unwrap().pop()).await
    }

    pub fn store(&self, node: usize) -> &Store {
        &self.nodes[node].running.as_ref().unwrap().store
    }

    /// What reaches a master from now on.
    pub async fn door(&mut self, node: usize, door: Door) {
        self.nodes[node].gate.set(door).await;
    }

    /// What calls between its members carry.
    pub fn formation(&self) -> String {
        Formation::of(&self.initial).text()
    }

    pub fn name(&self, node: usize) -> String {
        self.nodes[node].member.name.clone()
    }

    pub fn member(&self, node: usize) -> MemberNode {
        self.nodes[node].member.clone()
    }

    pub fn two_others(&self, than: usize) -> (usize, usize) {
        let mut others =
            (0..self.nodes.len()).filter(|node| *node != than && self.nodes[*node].running.is_some());
        (others.next().unwrap(), others.next().unwrap())
    }

    /// The master that leads.
    pub async fn leader(&self) -> usize {
        self.leader_without(usize::MAX).await
    }

    /// The master that leads and is not `gone`.
    pub async fn leader_without(&self, gone: usize) -> usize {
        patiently("a leader", async || {
            (0..self.nodes.len()).find(|node| {
                let running = self.nodes[*node].running.as_ref();
                *node != gone && running.is_some_and(|running| running.store.leadership().borrow().is_self)
            })
        })
        .await
    }

    /// Writes these, through whichever master leads; again when a busy machine lost its leader.
    pub async fn write(&self, numbers: std::ops::Range<u64>) {
        let one = async |number| {
            let write = async || {
                let leader = self.leader().await;
                self.store(leader).propose(register(number)).await.ok()?.outcome.ok()
            };
            patiently("a write", write).await;
        };
        stream::iter(numbers).for_each_concurrent(32, one).await;
    }

    /// A linearizable read, asked again when a busy machine did not confirm it in time.
    pub async fn linearize(&self, node: usize) -> Revision {
        patiently("a read", async || self.store(node).linearize().await.ok()).await
    }

    /// Waits until a master's state is like this.
    pub async fn until(&self, node: usize, predicate: impl Fn(&ClusterState) -> bool) {
        let store = self.store(node).clone();
        let mut changed = store.changed();
        let wait = changed.wait_for(|_| predicate(&store.snapshot()));
        tokio::time::timeout(PATIENCE, wait).await.expect("the state comes").unwrap();
    }

    /// Waits until the leader has heard that the member has all that is committed: a quorum does
    /// without the slowest one.
    pub async fn acknowledged(&self, leader: usize, member: usize) {
        let (store, name) = (self.store(leader).clone(), self.name(member));
        let told = async || {
            let status = store.status();
            let matched = status.members.iter().find(|one| one.name == name)?.matched;
            (matched >= Some(status.committed)).then_some(())
        };
        patiently("an acknowledgement", told).await;
    }

    pub async fn stop(mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].running.is_some() {
                self.kill(node).await;
            }
            assert_eq!(*self.nodes[node].fatal.lock().unwrap(), Vec::<String>::new());
        }
    }
}

/// Asks again until there is an answer.
pub async fn patiently<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await; // polls: a predicate over other tasks
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}
