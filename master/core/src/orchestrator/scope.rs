//! What a pass has to look at. Narrowing saves time; it never changes what is decided.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use skein_common::{
    ServiceId,
    instance::{Instance, Phase},
};

use crate::state::{Change, ClusterState, Service};

/// Services to plan for, and whether everything that is pending is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    All,
    Only {
        services: BTreeSet<ServiceId>,
        /// Room may have been freed: pending instances of other services are tried too.
        pending: bool,
    },
}

impl Default for Scope {
    fn default() -> Self {
        Self::NOTHING
    }
}

impl Scope {
    /// Nothing has to be looked at.
    pub const NOTHING: Self = Self::Only { services: BTreeSet::new(), pending: false };

    /// What these changes can have an effect on.
    pub fn of<'a>(changes: impl IntoIterator<Item = &'a Change>) -> Self {
        changes.into_iter().fold(Self::NOTHING, |mut scope, change| {
            scope.add(change);
            scope
        })
    }

    /// Widens the scope by one change.
    pub fn add(&mut self, change: &Change) {
        let Self::Only { services, pending } = self else { return };
        match change {
            Change::Node { .. } => *self = Self::All,
            Change::Service { service, .. } => {
                services.insert(service.id);
                // What becomes of a run is its schedule's business.
                services.extend(service.owner);
            }
            Change::Instance { instance, deleted } if *deleted || matters(instance) => {
                services.insert(instance.service);
                *pending |= *deleted || instance.observed.progress.phase.is_terminal();
            }
            Change::Instance { .. } => {}
            Change::Event(_) => {}
            // Set, or begun: both concern everything.
            Change::Settings(_) => *self = Self::All,
        }
    }

    #[must_use]
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::Only { services, pending: false } if services.is_empty())
    }

    /// And those whose first instances wait for one of these.
    pub(super) fn with_waiting(&self, state: &ClusterState) -> Cow<'_, Self> {
        let Self::Only { services, pending } = self else { return Cow::Borrowed(self) };
        if !state.does_anything_wait() {
            return Cow::Borrowed(self);
        }
        let mut wider = services.clone();
        for service in services.iter().filter_map(|id| state.service(*id)) {
            wider.extend(state.waiting_for(&service.spec.name));
            let owner = service.owner.and_then(|owner| state.service(owner));
            wider.extend(owner.into_iter().flat_map(|owner| state.waiting_for(&owner.spec.name)));
        }
        Cow::Owned(Self::Only { services: wider, pending: *pending })
    }

    pub(super) fn services<'a>(&self, state: &'a ClusterState) -> Vec<&'a Arc<Service>> {
        match self {
            Self::All => state.services().collect(),
            Self::Only { services, .. } => services.iter().filter_map(|id| state.service(*id)).collect(),
        }
    }

    /// The lowest priority among the services looked at; `None` = all of them are, or none.
    ///
    /// One of theirs that became Ready may let another one give way.
    pub(super) fn least_important(&self, state: &ClusterState) -> Option<u8> {
        let Self::Only { services, .. } = self else { return None };
        let services = services.iter().filter_map(|id| state.service(*id));
        services.map(|service| service.spec.placement.priority).min()
    }

    pub(super) fn tries(&self, service: ServiceId) -> bool {
        match self {
            Self::All | Self::Only { pending: true, .. } => true,
            Self::Only { services, pending: false } => services.contains(&service),
        }
    }
}

/// Between its beginning and Ready, and between Ready and its end, an instance gives the planner
/// nothing to do; a restart may end a rollout.
fn matters(instance: &Instance) -> bool {
    use Phase::{Assigned, Creating, Draining, Failed, Pending, Pulling, Ready, Rejected};
    use Phase::{Running, Starting, Stopped, Stopping};
    match instance.observed.progress.phase {
        Pulling | Creating | Starting | Draining | Stopping => instance.observed.progress.attempt > 1,
        // Others may wait for it to have started.
        Pending | Assigned | Running | Ready | Stopped | Failed | Rejected => true,
    }
}
