//! The place of one master and of one agent: whoever sits there ends and begins again, the address,
//! the folder and the engine stay.
//!
//! Invariant: a kill drops the runtime with every task at whatever point it waits; nothing of the
//! occupant runs to an end of its own. A fatal error of an occupant that was not killed is kept.
//! Deliberately not here: who is killed when.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use skein_agent::{
    agent::{Agent, AgentConfig, AgentHandle},
    runtime::fake::FakeRuntime,
};
use skein_common::{Resources, node::Platform};
use skein_master::{
    server::{Master, MasterConfig, MasterHandle},
    store::FatalHandler,
};
use skein_master_core::liveness::LivenessConfig;
use tokio::runtime::{Builder, Runtime};

use super::{HEARTBEAT, NODE_DOWN_AFTER};
use crate::ports::Port;

const END_LIMIT: Duration = Duration::from_secs(10);
const CAPACITY: Resources = Resources { cpu_millis: 8_000, memory_bytes: 16 << 30 };

/// A runtime whose drop is a kill: it waits for nobody, so an async test may do it.
struct Own(Option<Runtime>);

impl Own {
    fn new(name: &str) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build();
        runtime.context("a runtime").map(|runtime| Self(Some(runtime)))
    }

    /// The answer of something that runs there.
    async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let runtime = self.0.as_ref().context("it was killed")?;
        runtime.spawn(work).await.context("it panicked")
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

pub struct MasterSeat {
    pub name: String,
    pub api: Port,
    pub cluster: Port,
    folder: PathBuf,
    initial: Vec<(String, String)>,
    occupant: Option<(Own, MasterHandle)>,
    fatal: Arc<Fatal>,
}

/// What the storage of a master said before it gave up.
#[derive(Default)]
struct Fatal {
    killed: AtomicBool,
    reasons: Mutex<Vec<String>>,
}

pub fn masters(count: usize, folder: &Path) -> Result<Vec<MasterSeat>> {
    let mut seats =
        (1..=count).map(|number| lone_master(&format!("m{number}"), folder)).collect::<Result<Vec<_>>>()?;
    let initial: Vec<_> = seats.iter().map(|seat| (seat.name.clone(), seat.cluster.address())).collect();
    for seat in &mut seats {
        seat.initial.clone_from(&initial);
    }
    Ok(seats)
}

/// One that waits to be added.
pub fn lone_master(name: &str, folder: &Path) -> Result<MasterSeat> {
    Ok(MasterSeat {
        name: name.to_owned(),
        api: Port::reserve()?,
        cluster: Port::reserve()?,
        folder: folder.join(name),
        initial: Vec::new(),
        occupant: None,
        fatal: Arc::default(),
    })
}

impl MasterSeat {
    pub fn is_running(&self) -> bool {
        self.occupant.is_some()
    }

    pub async fn start(&mut self) -> Result<()> {
        ensure!(self.occupant.is_none(), "{} runs already", self.name);
        self.fatal = Arc::default();
        let own = Own::new(&self.name)?;
        let handle = own.run(Master::start(self.config()?)).await?.context("not started")?;
        self.occupant = Some((own, handle));
        Ok(())
    }

    fn config(&self) -> Result<MasterConfig> {
        let mut config = MasterConfig::new(&self.name, &self.folder);
        config.api_address = self.api.address().parse()?;
        config.cluster_address = self.cluster.address().parse()?;
        config.initial_masters.clone_from(&self.initial);
        config.liveness = LivenessConfig {
            heartbeat: HEARTBEAT,
            down_after: NODE_DOWN_AFTER,
            grace: NODE_DOWN_AFTER,
            ..LivenessConfig::default()
        };
        let fatal = self.fatal.clone();
        config.fatal = FatalHandler::new(move |reason| {
            if !fatal.killed.load(Ordering::SeqCst) {
                fatal.reasons.lock().unwrap_or_else(PoisonError::into_inner).push(reason.to_owned());
            }
        });
        Ok(config)
    }

    pub fn kill(&mut self) -> Result<()> {
        let Some(occupant) = self.occupant.take() else { bail!("{} does not run", self.name) };
        self.check_alive()?;
        self.fatal.killed.store(true, Ordering::SeqCst);
        drop(occupant);
        Ok(())
    }

    /// Ends as it does on SIGTERM. One that does not run is no error.
    pub async fn end(&mut self) -> Result<()> {
        let Some((own, handle)) = self.occupant.take() else { return Ok(()) };
        self.check_alive()?;
        self.fatal.killed.store(true, Ordering::SeqCst);
        let ended = tokio::time::timeout(END_LIMIT, own.run(handle.stop())).await;
        ended.with_context(|| format!("{} does not end", self.name))?
    }

    fn check_alive(&self) -> Result<()> {
        let reasons = self.fatal.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(reasons.is_empty(), "{} had given up: {reasons:?}", self.name);
        Ok(())
    }
}

impl fmt::Debug for MasterSeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}, running: {}", self.name, self.api, self.is_running())
    }
}

pub struct AgentSeat {
    pub name: String,
    pub engine: FakeRuntime,
    masters: Vec<String>,
    labels: BTreeMap<String, String>,
    folder: PathBuf,
    occupant: Option<(Own, AgentHandle)>,
}

impl AgentSeat {
    pub fn new(name: &str, masters: Vec<String>, labels: &[(&str, &str)], folder: &Path) -> Self {
        Self {
            name: name.to_owned(),
            engine: FakeRuntime::new(),
            masters,
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            folder: folder.join(name),
            occupant: None,
        }
    }

    pub fn is_running(&self) -> bool {
        self.occupant.is_some()
    }

    pub async fn start(&mut self) -> Result<()> {
        ensure!(self.occupant.is_none(), "{} runs already", self.name);
        let own = Own::new(&self.name)?;
        let handle =
            own.run(Agent::start(self.config(), self.engine.clone())).await?.context("not started")?;
        self.occupant = Some((own, handle));
        Ok(())
    }

    fn config(&self) -> AgentConfig {
        AgentConfig {
            name: self.name.clone(),
            masters: self.masters.clone(),
            data_dir: Some(self.folder.clone()),
            // Of its own: nodes with one address would share its ports.
            address: self.name.clone(),
            labels: self.labels.clone(),
            capacity: CAPACITY,
            reserved: Resources::default(),
            platform: Platform { os: "linux".to_owned(), arch: "amd64".to_owned() },
            generic: Vec::new(),
            proxy: None,
            names: None,
            metrics: None,
        }
    }

    pub fn kill(&mut self) -> Result<()> {
        match self.occupant.take() {
            Some(_) => Ok(()),
            None => bail!("{} does not run", self.name),
        }
    }

    pub fn remove_checkpoint(&self) -> Result<()> {
        ensure!(!self.is_running(), "{} runs", self.name);
        let file = self.folder.join("checkpoint");
        fs::remove_file(&file).with_context(|| file.display().to_string())
    }

    /// Ends as it does on SIGTERM. One that does not run is no error.
    pub async fn end(&mut self) -> Result<()> {
        let Some((own, handle)) = self.occupant.take() else { return Ok(()) };
        let ended = tokio::time::timeout(END_LIMIT, own.run(handle.stop())).await;
        ended.with_context(|| format!("{} does not end", self.name))?
    }
}

impl fmt::Debug for AgentSeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, running: {}", self.name, self.is_running())
    }
}
