//! "3 nodes: 2 insufficient memory, 1 drained": why nothing was found.
//!
//! Invariant: the text depends on the counts alone, so an unchanged cluster gives the same text
//! and no new commit.

use std::collections::BTreeMap;

use skein_common::resources::ResourceKind;

use super::{Scheduler, filter::Refusal, work::Work};

/// Nodes by the reason they refused.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: BTreeMap<Refusal, usize>,
    /// Neighbours mostly refuse for the same reason.
    last: Option<(Refusal, usize)>,
}

impl Tally {
    pub(super) fn add(&mut self, refusal: Refusal) {
        match &mut self.last {
            Some((last, count)) if *last == refusal => *count += 1,
            last => {
                let before = last.replace((refusal, 1));
                self.note(before);
            }
        }
    }

    fn note(&mut self, refused: Option<(Refusal, usize)>) {
        if let Some((refusal, count)) = refused {
            *self.counts.entry(refusal).or_default() += count;
        }
    }

    /// Most frequent reason first.
    pub(super) fn reasons(mut self) -> Vec<(Refusal, usize)> {
        let last = self.last.take();
        self.note(last);
        let mut reasons: Vec<_> = self.counts.into_iter().collect();
        reasons.sort_by(|(_, a), (_, b)| b.cmp(a));
        reasons
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
        let mut text = tell(&tally.reasons());
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

/// Most frequent reason first.
fn tell(reasons: &[(Refusal, usize)]) -> String {
    let nodes: usize = reasons.iter().map(|(_, count)| count).sum();
    if nodes == 0 {
        return "there are no nodes".to_owned();
    }
    let counted: Vec<_> = reasons.iter().map(|(refusal, count)| format!("{count} {refusal}")).collect();
    format!("{nodes} {}: {}", if nodes == 1 { "node" } else { "nodes" }, counted.join(", "))
}
