//! The limits of a placement policy. Every violation is reported, by protobuf field path.

use std::collections::BTreeSet;

use super::{MAX_PRIORITY, PlacementPolicy, WHOLE_MILLIS};
use crate::Violations;

const MAX_RULES: usize = 32;
const MAX_WEIGHT: u8 = 100;

impl PlacementPolicy {
    /// Adds everything that is wrong.
    pub fn check(&self, found: &mut Violations) {
        if self.priority > MAX_PRIORITY {
            found.add("spec.placement.priority", format!("{} is more than {MAX_PRIORITY}", self.priority));
        }
        if self.max_replicas_per_node == Some(0) {
            found.add("spec.placement.max_replicas_per_node", "at least 1 is required");
        }
        for (name, count) in [
            ("constraints", self.constraints.len()),
            ("spread", self.spread.len()),
            ("preferences", self.preferences.len()),
            ("affinities", self.affinities.len()),
            ("generic", self.generic.len()),
            ("tolerations", self.tolerations.len()),
        ] {
            if count > MAX_RULES {
                found.add(format!("spec.placement.{name}"), format!("{count} are more than {MAX_RULES}"));
            }
        }
        self.check_rules(found);
        self.check_generic(found);
    }

    fn check_rules(&self, found: &mut Violations) {
        let mut keys = BTreeSet::new();
        for (position, spread) in self.spread.iter().enumerate() {
            let field = |name: &str| format!("spec.placement.spread[{position}].{name}");
            if spread.max_skew == 0 {
                found.add(field("max_skew"), "at least 1 is required");
            }
            if !keys.insert(&spread.key) {
                found.add(field("key"), format!("{} is spread over twice", spread.key));
            }
        }
        for (position, affinity) in self.affinities.iter().enumerate() {
            let field = |name: &str| format!("spec.placement.affinities[{position}].{name}");
            if affinity.service.is_empty() {
                found.add(field("service"), "the name of a service is required");
            }
            if affinity.weight.is_some_and(|weight| weight == 0 || weight > MAX_WEIGHT) {
                found.add(field("weight"), format!("1 to {MAX_WEIGHT}, or absent when it is required"));
            }
        }
        for (position, toleration) in self.tolerations.iter().enumerate() {
            if toleration.is_empty() {
                found.add(format!("spec.placement.tolerations[{position}]"), "a value or * is required");
            }
        }
    }

    fn check_generic(&self, found: &mut Violations) {
        let mut names = BTreeSet::new();
        for (position, request) in self.generic.iter().enumerate() {
            let field = |name: &str| format!("spec.placement.generic[{position}].{name}");
            if request.name.is_empty() {
                found.add(field("name"), "the name of a resource is required, for example gpu");
            } else if !names.insert(request.name.as_str()) {
                found.add(field("name"), format!("{} is asked for twice", request.name));
            }
            if request.count == 0 {
                found.add(field("count"), "at least 1 is required");
            }
            if request.millis == 0 || request.millis > WHOLE_MILLIS {
                found.add(field("millis"), format!("1 to {WHOLE_MILLIS} thousandths of a device"));
            }
        }
    }
}
