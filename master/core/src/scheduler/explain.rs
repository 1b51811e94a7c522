//! "3 nodes: 2 insufficient memory, 1 drained": why nothing was found.
//!
//! Invariant: the text depends on the counts alone, so an unchanged cluster gives the same text
//! and no new commit.

use std::{collections::BTreeMap, fmt};

use skein_common::resources::ResourceKind;

use super::{Scheduler, filter::Refusal, work::Work};

/// Nodes by the reason they refused.
#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<Refusal, usize>);

impl Tally {
    pub(super) fn add(&mut self, refusal: Refusal) {
        *self.0.entry(refusal).or_default() += 1;
    }
}

impl Scheduler<'_> {
    /// Why no node takes it now.
    pub(super) fn diagnose(&self, work: &Work<'_>) -> String {
        let mut tally = Tally::default();
        for position in 0..self.fleet.rooms.len() {
            if let Some(refusal) = self.refusal(work, position) {
                tally.add(refusal);
            }
        }
        let mut text = tally.to_string();
        for limit in self.limits(work) {
            text.push_str("; ");
            text.push_str(&limit);
        }
        text
    }

    /// What no node could give, were it empty.
    fn limits(&self, work: &Work<'_>) -> Vec<String> {
        let (need, largest) = (&work.need, self.fleet.largest());
        if self.fleet.rooms.is_empty() {
            return Vec::new();
        }
        let mut limits = Vec::new();
        if largest.cpu_millis < need.reservation.cpu_millis {
            limits.push(amount(ResourceKind::Cpu, largest.cpu_millis));
        }
        if largest.memory_bytes < need.reservation.memory_bytes {
            limits.push(amount(ResourceKind::Memory, largest.memory_bytes));
        }
        for ask in &need.asks {
            let most = self.fleet.most_devices(ask);
            if most < usize::from(ask.count) {
                limits.push(format!("largest node has {most} {}", self.fleet.names.text(ask.name)));
            }
        }
        limits
    }
}

#[allow(clippy::cast_precision_loss)] // for reading
fn amount(kind: ResourceKind, amount: u64) -> String {
    match kind {
        ResourceKind::Cpu => format!("largest node has {} cores", amount as f64 / 1_000.0),
        ResourceKind::Memory => {
            format!("largest node has {:.1} GiB of memory", amount as f64 / f64::from(1 << 30))
        }
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
