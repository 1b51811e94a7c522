//! Weights of endpoints: by the labels of their nodes, and what canaries get together.
//!
//! Invariant: whole numbers, from the state alone. Canaries have a share of their own only while they wait to be
//! promoted and there are others: with the last old instance gone all requests are theirs, whatever the share says.

use skein_common::{
    instance::Instance,
    service::{BalancePolicy, DEFAULT_WEIGHT, MAX_INSTANCE_WEIGHT},
};

use crate::{
    orchestrator::has_canaries,
    state::{ClusterState, Service},
};

const ALL: u64 = 1_000;

/// One for each instance.
pub(super) fn of(state: &ClusterState, service: &Service, serving: &[&Instance]) -> Vec<u32> {
    let policy = &service.spec.balance;
    let weights: Vec<u32> = serving.iter().map(|instance| by_node(state, policy, instance)).collect();
    let Some(share) = policy.canary_permille else { return weights };
    let waits = service.rollout.as_ref().is_some_and(|rollout| has_canaries(rollout, &service.spec.update));
    if !waits {
        return weights;
    }
    let canaries: Vec<bool> = serving.iter().map(|instance| state.is_current(instance)).collect();
    shared(&weights, &canaries, share)
}

fn by_node(state: &ClusterState, policy: &BalancePolicy, instance: &Instance) -> u32 {
    let Some(node) = instance.node.and_then(|node| state.node(node)) else { return DEFAULT_WEIGHT };
    let mut rules = policy.weights.iter();
    let rule = rules.find(|rule| node.label(&rule.label) == Some(&rule.value));
    rule.map_or(DEFAULT_WEIGHT, |rule| rule.weight)
}

/// Weights of which canaries have `share` thousandths together; among themselves, both groups keep their proportions.
fn shared(weights: &[u32], canaries: &[bool], share: u16) -> Vec<u32> {
    let sum = |wanted: bool| -> u64 {
        let group = weights.iter().zip(canaries).filter(|(_, is_canary)| **is_canary == wanted);
        group.map(|(weight, _)| u64::from(*weight)).sum()
    };
    let (new, old) = (sum(true), sum(false));
    if new == 0 || old == 0 {
        return weights.to_vec();
    }
    let share = u64::from(share).min(ALL);
    let exact = weights.iter().zip(canaries).map(|(weight, is_canary)| {
        let (part, others) = if *is_canary { (share, old) } else { (ALL - share, new) };
        u128::from(*weight) * u128::from(part) * u128::from(others)
    });
    let exact: Vec<u128> = exact.collect();
    let largest = exact.iter().copied().max().unwrap_or(1).max(1);
    let scaled = exact.iter().map(|weight| {
        let scaled = (weight * u128::from(MAX_INSTANCE_WEIGHT)).div_ceil(largest);
        u32::try_from(scaled).unwrap_or(MAX_INSTANCE_WEIGHT)
    });
    scaled.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canaries_have_their_share_and_groups_their_proportions() {
        for (weights, canaries, share, then) in [
            (&[100, 100, 100][..], &[true, false, false][..], 50, &[50, 475, 475][..]),
            (&[100, 100, 100, 100], &[true, true, false, false], 200, &[100, 100, 400, 400]),
            (&[100, 300, 100], &[false, false, true], 100, &[225, 675, 100]),
            (&[100, 100], &[true, false], 0, &[0, 1_000]),
            (&[100, 100], &[true, false], 1_000, &[1_000, 0]),
            (&[100, 100], &[true, true], 50, &[500, 500]),
            (&[100, 0], &[true, false], 50, &[1_000, 0]),
        ] {
            let shared = shared(weights, canaries, share);
            let sum: u64 = shared.iter().map(|weight| u64::from(*weight)).sum();
            for (weight, permille) in shared.iter().zip(then) {
                let got = u64::from(*weight) * ALL / sum;
                assert!(got.abs_diff(*permille) <= 1, "{weights:?} {canaries:?} {share}: {shared:?}");
            }
        }
    }
}
