//! A whole agent, told by a scripted master, that probes containers of the sample.

use std::{path::Path, time::Duration};

use skein_agent::agent::AgentHandle;
use skein_common::{
    InstanceId,
    assignment::Assignment,
    instance::{Desired, News, Observed, Phase},
    service::{ContainerSpec, Probe, ProbeTest, Probes},
};

use crate::{
    sandbox::{IMAGE, PORT, Sandbox, answer, ask, free_port, published, sample},
    scripted::{Master, Session, agent_on, assignment, cluster, within},
};

struct Node {
    sandbox: Sandbox,
    /// Containers are named after it, on one engine for all tests.
    instance: InstanceId,
    agent: AgentHandle,
    _master: Master,
    session: Session,
    _folder: tempfile::TempDir,
}

impl Node {
    async fn start() -> Self {
        let mut sandbox = Sandbox::new().await;
        let (mut master, folder) = (Master::start().await, tempfile::tempdir().expect("a folder"));
        let agent = Self::agent(&sandbox, &master, folder.path()).await;
        sandbox.owner.cluster = cluster();
        sandbox.owner.node = agent.node();
        let session = master.welcomed(3).await;
        let instance = InstanceId::from_random(rand::random());
        Self { sandbox, instance, agent, _master: master, session, _folder: folder }
    }

    async fn agent(sandbox: &Sandbox, master: &Master, folder: &Path) -> AgentHandle {
        agent_on(&[master], folder, sandbox.runtime.clone()).await
    }

    async fn run(&mut self, given: &Assignment) {
        self.session.set(vec![Assignment { instance: self.instance, ..given.clone() }]).await;
    }

    /// What is held of the instance, once it is so.
    async fn wait(&self, what: &str, is_so: impl Fn(&Observed) -> bool) -> Observed {
        let mut holdings = self.agent.holdings();
        let found = within(
            what,
            holdings.wait_for(
                |held| matches!(held.news.get(&self.instance), Some(News::Observed(observed)) if is_so(observed)),
            ),
        );
        match found.await.expect("the agent goes on").news.get(&self.instance) {
            Some(News::Observed(observed)) => observed.clone(),
            _ => unreachable!("it was there"),
        }
    }

    async fn containers(&self) -> Vec<String> {
        use skein_agent::runtime::ContainerRuntime;
        let listed = self.sandbox.runtime.list(self.sandbox.owner, None).await.expect("a list");
        listed.into_iter().map(|view| view.id).collect()
    }
}

/// Asked five times a second; two failures count.
fn quick(test: ProbeTest) -> Probe {
    let often = Duration::from_millis(200);
    Probe { interval: often, start_interval: often, retries: 2, ..Probe::new(test) }
}

fn http(path: &str) -> ProbeTest {
    ProbeTest::Http { port: PORT, path: path.to_owned(), headers: std::collections::BTreeMap::new() }
}

fn exec(words: &[&str]) -> ProbeTest {
    ProbeTest::Exec(words.iter().map(|word| (*word).to_owned()).collect())
}

/// The sample with probes; the second is its port on the node.
fn probed(probes: Probes, environment: &[(&str, &str)]) -> (Assignment, u16) {
    let (config, port) = published(sample());
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let container = ContainerSpec {
        probes,
        environment: environment.collect(),
        stop_grace: Duration::from_secs(5),
        ..ContainerSpec::new(IMAGE)
    };
    (Assignment { container, ports: config.ports, ..assignment(1, Desired::Run) }, port)
}

#[tokio::test]
async fn readiness_follows_the_answer_and_the_container_stays() {
    for test in [http("/healthz"), exec(&["/skein-sample", "--healthcheck"])] {
        let mut node = Node::start().await;
        let (given, port) = probed(Probes { readiness: Some(quick(test)), ..Probes::default() }, &[]);
        node.run(&given).await;
        let first = node.wait("ready", Observed::is_ready).await;
        answer(port, "/health?set=fail").await;
        let off = node.wait("not ready", |observed| !observed.is_ready()).await;
        assert_eq!((off.progress, off.readiness.0), (first.progress, 1));
        assert!(off.message.starts_with("readiness probe: "), "{}", off.message);
        assert!(off.message.contains("503"), "{}", off.message);
        answer(port, "/health?set=ok").await;
        let on = node.wait("ready again", Observed::is_ready).await;
        assert_eq!((on.readiness.0, on.message.as_str()), (2, ""));
        assert_eq!(on.container_id, first.container_id);
        assert_eq!(node.containers().await, [first.container_id]);
        node.agent.stop().await;
    }
}

#[tokio::test]
async fn a_failing_liveness_restarts_with_grace() {
    let mut node = Node::start().await;
    let (given, port) = probed(Probes { liveness: Some(quick(http("/healthz"))), ..Probes::default() }, &[]);
    node.run(&given).await;
    let first = node.wait("ready", Observed::is_ready).await;
    answer(port, "/health?set=fail").await;
    let second = node.wait("the next attempt", |observed| observed.progress.attempt == 2).await;
    assert!(second.message.contains("liveness probe: HTTP status 503"), "{}", second.message);
    // It was asked to stop, and did: 137 would be the kill.
    assert_eq!(second.exit_code, Some(0));
    node.wait("ready", |observed| observed.progress.attempt == 2 && observed.is_ready()).await;
    assert_eq!(node.sandbox.end(&first.container_id).await.0, 0);
    node.agent.stop().await;
}

#[tokio::test]
async fn a_slow_start_is_waited_for_and_a_missing_one_is_not() {
    let tcp = |start_period| Probe { start_period, ..quick(ProbeTest::Tcp { port: PORT }) };
    let liveness = Some(quick(http("/healthz")));
    let startup = Some(tcp(Duration::from_secs(20)));
    let mut node = Node::start().await;
    let probes = Probes { startup, liveness, readiness: None };
    let (given, port) = probed(probes, &[("SAMPLE_START_AFTER_MS", "2500")]);
    node.run(&given).await;
    let waiting = node.wait("a first failure", |observed| !observed.message.is_empty()).await;
    assert_eq!(waiting.progress.phase, Phase::Running);
    assert!(
        waiting.message.contains("startup probe") && waiting.message.contains("refused"),
        "{}",
        waiting.message
    );
    assert_eq!(ask(port, "/healthz"), None, "it does not listen yet");
    let ready = node.wait("ready", Observed::is_ready).await;
    assert_eq!((ready.progress.attempt, ready.message.as_str()), (1, ""));
    node.agent.stop().await;

    let mut node = Node::start().await;
    let (given, _) = probed(
        Probes { startup: Some(tcp(Duration::ZERO)), ..Probes::default() },
        &[("SAMPLE_START_AFTER_MS", "600000")],
    );
    node.run(&given).await;
    let second = node.wait("the next attempt", |observed| observed.progress.attempt == 2).await;
    assert!(second.message.contains("startup probe"), "{}", second.message);
    node.agent.stop().await;
}

/// A program that hangs holds up nothing else, and a port that nobody listens on is refused although
/// it is published: the engine's own proxy is not what is asked.
#[tokio::test]
async fn hanging_programs_and_published_ports() {
    let mut node = Node::start().await;
    let hanging =
        Probe { timeout: Duration::from_millis(300), ..quick(exec(&["/skein-sample", "--port", "9"])) };
    let refused = quick(ProbeTest::Tcp { port: PORT + 1 });
    let (mut given, port) = probed(Probes { readiness: Some(hanging), ..Probes::default() }, &[]);
    node.run(&given).await;
    let waiting =
        node.wait("the hanging program", |observed| observed.message.contains("no end within 300ms")).await;
    assert_eq!((waiting.progress.attempt, waiting.progress.phase), (1, Phase::Running));
    answer(port, "/").await;
    node.agent.stop().await;

    let mut node = Node::start().await;
    given.container.probes = Probes { readiness: Some(refused), ..Probes::default() };
    given.ports[0].container_port = PORT + 1;
    given.ports[0].host_port = free_port();
    node.run(&given).await;
    let waiting = node.wait("a refusal", |observed| observed.message.contains("refused")).await;
    assert_eq!(waiting.progress.phase, Phase::Running);
    node.agent.stop().await;
}
