//! `depends_on`: what a service's first instances wait for.
//!
//! Invariant: plain values; whether a condition holds is decided in `master/core`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::ServiceSpec;
use crate::Violations;

/// A text limit, not a wish.
const MAX_DEPENDENCIES: usize = 64;

/// Another service, and what must be true of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// Its name.
    pub service: String,
    pub condition: DependencyCondition,
}

/// What a service waits for before its first instances start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum DependencyCondition {
    /// One of its instances runs, or has ended well.
    #[default]
    Started,
    /// All its instances are Ready.
    Healthy,
    /// The job has completed.
    CompletedSuccessfully,
}

pub(super) fn check(spec: &ServiceSpec, found: &mut Violations) {
    if spec.depends_on.len() > MAX_DEPENDENCIES {
        found.add("spec.depends_on", format!("{} are more than {MAX_DEPENDENCIES}", spec.depends_on.len()));
    }
    let mut seen = BTreeSet::new();
    for (position, dependency) in spec.depends_on.iter().enumerate() {
        let field = || format!("spec.depends_on[{position}].service");
        if dependency.service.is_empty() {
            found.add(field(), "the name of a service is required");
        } else if dependency.service == spec.name {
            found.add(field(), "a service cannot wait for itself");
        } else if !seen.insert(dependency.service.as_str()) {
            found.add(field(), format!("{} is named twice", dependency.service));
        }
    }
}
