//! "3 nodes: 2 insufficient memory, 1 drained": why nothing was found.
//!
//! Invariant: the text depends on the counts alone, so an unchanged cluster gives the same text
//! and no new commit.

use std::{collections::BTreeMap, fmt};

use super::filter::Refusal;

/// Nodes by the reason they refused.
#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<Refusal, usize>);

impl Tally {
    pub(super) fn add(&mut self, refusal: Refusal) {
        *self.0.entry(refusal).or_default() += 1;
    }
}

impl fmt::Display for Tally {
    /// Most frequent reason first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: usize = self.0.values().sum();
        if nodes == 0 {
            return f.write_str("there are no nodes");
        }
        write!(f, "{nodes} {}: ", if nodes == 1 { "node" } else { "nodes" })?;
        let mut reasons: Vec<_> = self.0.iter().collect();
        reasons.sort_by(|(_, a), (_, b)| b.cmp(a));
        for (position, (refusal, count)) in reasons.into_iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}{count} {refusal}")?;
        }
        Ok(())
    }
}
