//! Files that containers are given: configs, fetched from the leader once and kept beside the
//! checkpoint, so that a restart needs no master.
//!
//! Invariant: a file is whole or absent (written beside, fsynced, renamed), and holds what its id
//! means, for an id's content never changes. What no assignment names is removed.
//! Deliberately not here: who may have which (`master`), mounts (`runtime`).

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use skein_agent_core::RuntimeError;
use skein_common::{ConfigId, InstanceId, NodeId, config::ConfigMount};
use skein_proto::v1::{self, agent_service_client::AgentServiceClient};
use tokio::{sync::watch, task, time::timeout};

use crate::{checkpoint, runtime::FileMount, session::Connection};

const FOLDER: &str = "configs";
/// A leader that has it answers at once.
const FETCH_LIMIT: Duration = Duration::from_secs(5);

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// `None` = an agent without a disk.
    folder: Option<PathBuf>,
    node: NodeId,
    leader: watch::Receiver<Connection>,
    /// Removing and writing take turns.
    turn: Mutex<()>,
}

/// Why a container does not get its files.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("config {name}: no leader to fetch it from")]
    NoLeader { name: String },
    #[error("config {name} cannot be fetched: {reason}")]
    Fetch { name: String, reason: String },
    #[error("config {name} cannot be kept")]
    Disk { name: String, source: io::Error },
}

impl Files {
    pub(crate) fn new(data_dir: Option<&Path>, node: NodeId, leader: watch::Receiver<Connection>) -> Self {
        // The engine wants absolute paths.
        let absolute = |folder: &Path| std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let folder = data_dir.map(|folder| absolute(folder).join(FOLDER));
        Self { shared: Arc::new(Shared { folder, node, leader, turn: Mutex::new(()) }) }
    }

    /// The files of one instance, as they are to be mounted. Fetches what is not there.
    pub(crate) async fn of(
        &self,
        instance: InstanceId,
        mounts: &[ConfigMount],
    ) -> Result<Vec<FileMount>, RuntimeError> {
        let mut files = Vec::new();
        for mount in mounts {
            // What cannot be had now may be later; it is no fault of the instance.
            let source = self.file(instance, mount).await.map_err(unavailable)?;
            files.push(FileMount { source, target: mount.path() });
        }
        Ok(files)
    }

    async fn file(&self, instance: InstanceId, mount: &ConfigMount) -> Result<PathBuf, FileError> {
        let name = || mount.config.clone();
        let no_disk = || io::Error::other("this agent keeps nothing on disk");
        let folder = self.shared.folder.as_ref();
        let folder = folder.ok_or_else(|| FileError::Disk { name: name(), source: no_disk() })?;
        let refused = || FileError::Fetch { name: name(), reason: "it has no id".to_owned() };
        let id = mount.id.ok_or_else(refused)?;
        let path = folder.join(id.to_string()).join(variant(mount));
        if path.exists() {
            return Ok(path);
        }
        let content = self.fetch(Some(instance), id, &mount.config).await?;
        let (shared, mount) = (self.shared.clone(), mount.clone());
        let written = task::spawn_blocking(move || shared.write(id, &mount, &content)).await;
        written
            .unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
            .map_err(|source| FileError::Disk { name: name(), source })?;
        Ok(path)
    }

    /// The content of a config that a route names; kept by nobody here.
    pub(crate) async fn certificate(&self, id: ConfigId) -> Result<bytes::Bytes, String> {
        self.fetch(None, id, &id.to_string()).await.map_err(|error| error.to_string())
    }

    async fn fetch(
        &self,
        instance: Option<InstanceId>,
        id: ConfigId,
        name: &str,
    ) -> Result<bytes::Bytes, FileError> {
        let leader = self.shared.leader.borrow().leader.clone();
        let leader = leader.ok_or_else(|| FileError::NoLeader { name: name.to_owned() })?;
        let request = v1::FetchConfigRequest {
            node_id: self.shared.node.to_string(),
            instance_id: instance.map(|instance| instance.to_string()).unwrap_or_default(),
            config_id: id.to_string(),
        };
        let fetched = timeout(FETCH_LIMIT, async {
            let channel = crate::session::connect(&leader).await.map_err(|error| error.to_string())?;
            let answer = AgentServiceClient::new(channel).fetch_config(request).await;
            answer.map_err(|status| status.message().to_owned())
        });
        let failed = |reason| FileError::Fetch { name: name.to_owned(), reason };
        let answer = fetched.await.map_err(|_| failed(format!("no answer within {FETCH_LIMIT:?}")))?;
        Ok(answer.map_err(failed)?.into_inner().content)
    }

    /// Removes what none of these names. Not awaited: a file that stays a little longer harms nobody.
    pub(crate) fn keep_only(&self, ids: BTreeSet<ConfigId>) {
        if self.shared.folder.is_none() {
            return;
        }
        let shared = self.shared.clone();
        drop(task::spawn_blocking(move || {
            if let Err(error) = shared.remove_others(&ids) {
                tracing::warn!(error = &error as &dyn std::error::Error, "unneeded configs stay on disk");
            }
        }));
    }
}

impl Shared {
    fn write(&self, id: ConfigId, mount: &ConfigMount, content: &[u8]) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (folder, name) = (folder.join(id.to_string()), variant(mount));
        fs::create_dir_all(&folder)?;
        // Beside first, with its owner and mode: who sees the name sees the whole file.
        let beside = format!("{name}.made");
        checkpoint::replace(&folder, &beside, content)?;
        let path = folder.join(&beside);
        let owner = (mount.uid, mount.gid);
        let own = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        if owner != own {
            chown(&path, Some(mount.uid), Some(mount.gid))?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mount.permissions()))?;
        fs::rename(&path, folder.join(name))
    }

    fn remove_others(&self, ids: &BTreeSet<ConfigId>) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if !id.is_some_and(|id| ids.contains(&id)) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// One id can be mounted with several owners and modes.
fn variant(mount: &ConfigMount) -> String {
    format!("{}-{}-{:04o}", mount.uid, mount.gid, mount.permissions())
}

fn unavailable(error: FileError) -> RuntimeError {
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        text.push_str(": ");
        text.push_str(&source.to_string());
    }
    RuntimeError::Unavailable(text)
}
