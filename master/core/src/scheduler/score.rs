//! Which of the nodes that may take an instance is best.
//!
//! `score = ω₁·priority + ω₂·resources + ω₃·constraints`: the priority is the instance's own, the
//! same on every node, and orders the queue; so between nodes the other two terms decide. The
//! weights are exponentially apart: what the user wished for comes before the cluster's taste.
//!
//! Invariant: floats live here only, and equal input gives equal floats; ties go to the node that
//! has the image, then to the one that is measured as less busy, then to the one with fewer instances, then to the lower id. (Where the slot failed lately is weighed before.)

use std::cmp::Ordering;

use skein_common::{cluster::ScoreWeights, placement::Strategy};

use super::fleet::Fleet;

/// ω₁, ω₂ and ω₃.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    pub priority: f64,
    pub resources: f64,
    pub constraints: f64,
    /// Of what is measured, within the second term.
    pub utilisation: f64,
}

impl Weights {
    /// As the cluster has them.
    pub(super) fn of(weights: &ScoreWeights) -> Self {
        Self {
            priority: weights.priority().value(),
            resources: weights.resources().value(),
            constraints: weights.constraints().value(),
            utilisation: weights.utilisation().value(),
        }
    }
}

/// Smaller is better.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Score {
    pub(super) cost: f64,
    /// The image is not there, as far as is known.
    pub(super) cold: bool,
    /// Measured.
    pub(super) busy: u32,
    pub(super) instances: u32,
}

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        let ties = (self.cold, self.busy, self.instances).cmp(&(other.cold, other.busy, other.instances));
        self.cost.total_cmp(&other.cost).then(ties)
    }
}

/// What taking a node costs under a strategy.
#[derive(Clone, Copy)]
pub(super) enum Price<'f> {
    Spread {
        same: &'f [u32],
        load: &'f [f64],
    },
    /// Known for each position.
    Column(&'f [f64]),
}

impl<'f> Price<'f> {
    /// `balanced`: of the class that is being placed.
    pub(super) fn of(strategy: Strategy, fleet: &'f Fleet<'_>, balanced: &'f [f64]) -> Self {
        match strategy {
            Strategy::Spread => Self::Spread { same: &fleet.same, load: &fleet.load },
            Strategy::Binpack => Self::Column(&fleet.slack),
            Strategy::Balanced => Self::Column(balanced),
        }
    }

    pub(super) fn at(self, position: usize) -> f64 {
        match self {
            // The load is below one whole instance, so the number of the service's own decides first.
            Self::Spread { same, load } => f64::from(same[position]) + load[position],
            Self::Column(costs) => costs.get(position).copied().unwrap_or(f64::INFINITY),
        }
    }
}
