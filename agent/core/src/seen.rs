//! What was last seen in the engine, in spite of looks that overtake each other.
//!
//! Invariant: a look or the end of an action changes an instance only when it is later than
//! what is known of it; the order is that of the [`Sequence`] drawn when it happened, not the
//! order in which the news arrive.
//! Deliberately not here: what to make of it (`lifecycle`).

use std::collections::BTreeMap;

use skein_common::InstanceId;

use crate::container::SeenContainer;

/// A ticket in the order of events on this node: drawn from one counter when a look begins
/// and when an action has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Sequence(pub u64);

/// What the engine listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Drawn before the engine was asked.
    pub at: Sequence,
    /// `None` = all of this node's containers.
    pub only: Option<InstanceId>,
    pub containers: Vec<SeenContainer>,
}

/// What the engine said of one container: cheaper to ask for than a [`Look`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glance {
    /// Drawn before the engine was asked.
    pub at: Sequence,
    pub instance: InstanceId,
    /// The engine's id.
    pub container: String,
    /// `None` = it is gone.
    pub found: Option<SeenContainer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    instances: BTreeMap<InstanceId, SeenInstance>,
    listed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct SeenInstance {
    at: Sequence,
    /// By attempt, lowest first.
    containers: Vec<SeenContainer>,
}

impl Seen {
    /// Everything has been listed once: what is not here is not there.
    pub(crate) const fn is_complete(&self) -> bool {
        self.listed
    }

    pub(crate) fn containers(&self, instance: InstanceId) -> &[SeenContainer] {
        self.instances.get(&instance).map_or(&[], |seen| &seen.containers)
    }

    pub(crate) fn runs(&self, instance: InstanceId, id: &str) -> bool {
        self.containers(instance).iter().any(|each| each.id == id && each.status.is_running())
    }

    pub(crate) fn instances(&self) -> impl Iterator<Item = (InstanceId, &[SeenContainer])> {
        self.instances.iter().map(|(id, seen)| (*id, seen.containers.as_slice()))
    }

    pub(crate) fn absorb(&mut self, look: Look) {
        let mut shown: BTreeMap<InstanceId, Vec<SeenContainer>> = BTreeMap::new();
        match look.only {
            Some(instance) => {
                shown.insert(instance, Vec::new());
            }
            None => {
                self.listed = true;
                // Nothing is left of these, and every look still under way is as old as this one.
                self.instances.retain(|_, seen| !seen.containers.is_empty() || seen.at > look.at);
                shown.extend(self.instances.keys().map(|instance| (*instance, Vec::new())));
            }
        }
        for container in look.containers {
            shown.entry(container.instance).or_default().push(container);
        }
        for (instance, mut containers) in shown {
            let seen = self.instances.entry(instance).or_default();
            if look.at > seen.at {
                containers.sort_by_key(|container| container.attempt);
                *seen = SeenInstance { at: look.at, containers };
            }
        }
    }

    pub(crate) fn glance(&mut self, glance: Glance) {
        let seen = self.instances.entry(glance.instance).or_default();
        if glance.at > seen.at {
            seen.at = glance.at;
            seen.containers.retain(|known| known.id != glance.container);
            seen.containers.extend(glance.found);
            seen.containers.sort_by_key(|container| container.attempt);
        }
    }

    pub(crate) fn add(&mut self, at: Sequence, container: SeenContainer) {
        let seen = self.instances.entry(container.instance).or_default();
        seen.at = seen.at.max(at);
        if seen.containers.iter().all(|known| known.id != container.id) {
            seen.containers.push(container);
            seen.containers.sort_by_key(|container| container.attempt);
        }
    }

    pub(crate) fn remove(&mut self, at: Sequence, instance: InstanceId, id: &str) {
        if let Some(seen) = self.instances.get_mut(&instance) {
            seen.at = seen.at.max(at);
            seen.containers.retain(|container| container.id != id);
        }
    }

    /// An action changed the instance: looks begun before are out of date.
    pub(crate) fn touch(&mut self, at: Sequence, instance: InstanceId) {
        let seen = self.instances.entry(instance).or_default();
        seen.at = seen.at.max(at);
    }
}
