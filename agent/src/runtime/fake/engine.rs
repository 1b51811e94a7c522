//! What is in the fake engine: containers by owner, found by id, in one order.

use std::collections::{BTreeMap, BTreeSet};

use skein_common::InstanceId;

use super::{
    super::{ContainerConfig, ContainerStatus, ContainerView, LogLine, Owner, container_name},
    Calls, Faults,
};

/// Cluster, node, instance, attempt.
type Key = (u64, u64, InstanceId, u32);

#[derive(Debug, Default)]
pub(super) struct Engine {
    containers: BTreeMap<Key, FakeContainer>,
    ids: BTreeMap<String, Key>,
    owners: BTreeMap<(u64, u64), Owner>,
    pub(super) running: usize,
    pub(super) missing_images: BTreeSet<String>,
    pub(super) faults: Faults,
    pub(super) calls: Calls,
}

#[derive(Debug)]
pub(super) struct FakeContainer {
    pub(super) owner: Owner,
    pub(super) view: ContainerView,
    pub(super) lines: Vec<LogLine>,
}

fn of(owner: Owner) -> (u64, u64) {
    (owner.cluster.get(), owner.node.get())
}

impl Engine {
    pub(super) fn listen(&mut self, owner: Owner) {
        self.owners.insert(of(owner), owner);
    }

    pub(super) fn owners(&self) -> Vec<Owner> {
        self.owners.values().copied().collect()
    }

    pub(super) fn containers(&self) -> impl Iterator<Item = &FakeContainer> {
        self.containers.values()
    }

    pub(super) fn list(&self, owner: Owner, only: Option<InstanceId>) -> Vec<ContainerView> {
        let (cluster, node) = of(owner);
        let (least, most) = (InstanceId::from_random(1), InstanceId::from_random(u64::MAX));
        let range =
            (cluster, node, only.unwrap_or(least), 0)..=(cluster, node, only.unwrap_or(most), u32::MAX);
        self.containers.range(range).map(|(_, container)| container.view.clone()).collect()
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut FakeContainer> {
        self.containers.get_mut(self.ids.get(id)?)
    }

    pub(super) fn running_container(&self, instance: InstanceId) -> Option<String> {
        let mut containers = self.containers.values();
        let found = containers.find(|container| {
            container.view.identity.instance == instance && container.view.status.is_running()
        });
        found.map(|container| container.view.id.clone())
    }

    /// The id of the new container, or of the one that has this name.
    pub(super) fn create(&mut self, owner: Owner, config: &ContainerConfig) -> String {
        let (cluster, node) = of(owner);
        let identity = &config.identity;
        let id = format!("{}@{}", container_name(identity), owner.node);
        let key = (cluster, node, identity.instance, identity.attempt);
        self.ids.insert(id.clone(), key);
        self.containers.entry(key).or_insert_with(|| FakeContainer {
            owner,
            view: ContainerView {
                id: id.clone(),
                identity: identity.clone(),
                status: ContainerStatus::Created,
                address: None,
            },
            lines: Vec::new(),
        });
        id
    }

    pub(super) fn change(
        &mut self,
        id: &str,
        change: impl FnOnce(&mut FakeContainer),
    ) -> Option<(Owner, InstanceId)> {
        let container = self.containers.get_mut(self.ids.get(id)?)?;
        let before = usize::from(container.view.status.is_running());
        change(container);
        let after = usize::from(container.view.status.is_running());
        self.running = self.running + after - before;
        Some((container.owner, container.view.identity.instance))
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<FakeContainer> {
        let removed = self.containers.remove(&self.ids.remove(id)?)?;
        self.running -= usize::from(removed.view.status.is_running());
        Some(removed)
    }
}
