//! What one metric asks for.
//!
//! Invariant: pressure above 1 never asks for fewer than there are, below 1 never for more; instances that told nothing
//! count as idle when growing and as fully used when shrinking.

use skein_common::service::{Metric, Spread, Target};

use super::{
    Question,
    quantity::{self, Tolerance, float},
    signal::Class,
};

/// A metric, or the forecast of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    pub metric: Metric,
    pub source: Source,
    pub target_milli: u64,
    /// As the target is: percent, average or total. Of a forecast: what it takes to be at the target, in instances.
    pub value_milli: u64,
    /// Against the target, with those that told nothing or do not serve yet.
    pub pressure: f64,
    /// Against the target, of those that serve.
    pub of_ready: f64,
    pub unready: u32,
    pub missing: u32,
    pub replicas: Result<u32, Broken>,
    /// From the short window, when there is one.
    pub burst: Option<u32>,
    /// False of a forecast that is only looked at, or has not proved itself.
    pub moves: bool,
    /// Value above which it grows, and below which it shrinks.
    pub edges_milli: (u64, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Measured,
    Forecast,
}

/// Why a metric says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("no reading")]
    NoReading,
    #[error("an instance has no reservation that it could be a share of")]
    NoReservation,
}

/// Sums over instances.
struct Sum {
    values: u128,
    of: u128,
    counted: u32,
}

pub fn measured(question: &Question<'_>, target: &Target) -> Proposal {
    let mut proposal = Proposal {
        metric: target.metric.clone(),
        source: Source::Measured,
        target_milli: target.value_milli,
        value_milli: 0,
        pressure: 1.0,
        of_ready: 1.0,
        unready: 0,
        missing: 0,
        replicas: Err(Broken::NoReading),
        burst: None,
        moves: true,
        edges_milli: Tolerance::of(question.policy).edges(target.value_milli),
    };
    match question.signals.shared.get(&target.metric) {
        Some(shared) if shares(&target.metric) => {
            let each = float(each_milli(question, target).max(1));
            spread(question, &mut proposal, float(shared.value_milli), each);
            let recent = shared.recent_milli.map(|recent| quantity::ceil(float(recent) / each));
            proposal.burst = recent;
        }
        Some(shared) => whole(question, &mut proposal, shared.value_milli),
        None => of_instances(question, &mut proposal),
    }
    proposal
}

/// Whether instances share it, so that its total divided by the target is how many it takes.
fn shares(metric: &Metric) -> bool {
    match metric {
        Metric::Requests | Metric::InFlight | Metric::Load => true,
        Metric::External { spread, .. } => *spread == Spread::Each,
        Metric::Cpu | Metric::Memory | Metric::LatencyP95 => false,
    }
}

/// What one instance should have of a shared number. A load target is a percentage of the capacity.
fn each_milli(question: &Question<'_>, target: &Target) -> u64 {
    match (&target.metric, question.policy.capacity_milli) {
        (Metric::Load, Some(capacity)) => {
            let milli = u128::from(capacity) * u128::from(target.value_milli) / 100_000;
            u64::try_from(milli).unwrap_or(u64::MAX)
        }
        _ => target.value_milli,
    }
}

/// A total that instances share.
fn spread(question: &Question<'_>, proposal: &mut Proposal, total: f64, each: f64) {
    let needed = total / each;
    let current = question.current;
    let share = needed / f64::from(current.max(1));
    proposal.value_milli = quantity::milli(share * float(proposal.target_milli) / 1000.0);
    proposal.pressure = share;
    proposal.of_ready = needed / f64::from(question.signals.ready.max(1));
    let holds = current > 0 && Tolerance::of(question.policy).holds(share);
    proposal.replicas = Ok(if holds { current } else { quantity::ceil(needed) });
}

/// A number of the service itself: twice the target asks for twice what is ready.
fn whole(question: &Question<'_>, proposal: &mut Proposal, value_milli: u64) {
    let pressure = float(value_milli) / float(proposal.target_milli.max(1));
    proposal.value_milli = value_milli;
    proposal.pressure = pressure;
    proposal.of_ready = pressure;
    let current = question.current;
    let asleep = current == 0;
    proposal.replicas = Ok(if asleep {
        // There is nothing to multiply.
        quantity::ceil(pressure)
    } else if Tolerance::of(question.policy).holds(pressure) {
        current
    } else {
        // While none is ready, those that are starting are what there is.
        let ready = if question.signals.ready == 0 { current } else { question.signals.ready };
        quantity::ceil(pressure * f64::from(ready))
    });
}

/// Numbers of the instances themselves.
fn of_instances(question: &Question<'_>, proposal: &mut Proposal) {
    let usage = matches!(proposal.metric, Metric::Cpu | Metric::Memory);
    let mut ready = Sum { values: 0, of: 0, counted: 0 };
    let mut fill = Fill { usage, missing_of: 0, unready_of: 0 };
    for one in &question.signals.instances {
        let class =
            one.class(&proposal.metric, question.policy.warm_up, question.readiness_delay, question.now);
        if class == Class::Ignored {
            continue;
        }
        let of = u128::from(one.reserved.get(&proposal.metric).copied().unwrap_or_default());
        if usage && of == 0 {
            proposal.replicas = Err(Broken::NoReservation);
            return;
        }
        match (class, one.readings.get(&proposal.metric)) {
            (Class::Ready, Some(reading)) => {
                ready.values += u128::from(reading.value_milli);
                ready.of += of;
                ready.counted += 1;
            }
            (Class::Unready, _) => {
                proposal.unready += 1;
                fill.unready_of += of;
            }
            _ => {
                proposal.missing += 1;
                fill.missing_of += of;
            }
        }
    }
    if ready.counted > 0 {
        fill.propose(question, proposal, ready);
    }
}

/// How those are counted that told nothing or do not serve.
struct Fill {
    usage: bool,
    missing_of: u128,
    unready_of: u128,
}

impl Fill {
    fn propose(&self, question: &Question<'_>, proposal: &mut Proposal, mut sum: Sum) {
        let tolerance = Tolerance::of(question.policy);
        let current = question.current;
        let first = self.pressure(proposal, &sum);
        proposal.value_milli = self.value(&sum);
        proposal.pressure = first;
        proposal.of_ready = first;
        let grows_beside_unready = proposal.unready > 0 && first > 1.0;
        if proposal.missing == 0 && !grows_beside_unready {
            let wish = quantity::ceil(first * f64::from(sum.counted));
            proposal.replicas = Ok(if tolerance.holds(first) { current } else { wish });
            return;
        }
        // Exactly at the target they are taken to be there too.
        if proposal.missing > 0 && (first - 1.0).abs() > 0.0 {
            self.fill_missing(proposal, &mut sum, first);
            let of_ready = self.pressure(proposal, &sum);
            proposal.of_ready = if turned(first, of_ready) { 1.0 } else { of_ready };
        }
        if grows_beside_unready {
            sum.of += self.unready_of;
            sum.counted += proposal.unready;
        }
        let then = self.pressure(proposal, &sum);
        proposal.pressure = then;
        proposal.replicas = Ok(if tolerance.holds(then) || turned(first, then) {
            current
        } else {
            let wish = quantity::ceil(then * f64::from(sum.counted));
            tolerance.keep_direction(then, wish, current)
        });
    }

    /// Idle when growing; when shrinking, as much as could be (a usage: all that is reserved, or its target).
    fn fill_missing(&self, proposal: &Proposal, sum: &mut Sum, first: f64) {
        if first < 1.0 {
            sum.values += if self.usage {
                self.missing_of * u128::from(proposal.target_milli.max(100_000)) / 100_000
            } else {
                u128::from(proposal.target_milli) * u128::from(proposal.missing)
            };
        }
        sum.of += self.missing_of;
        sum.counted += proposal.missing;
    }

    /// A usage in whole percent, everything else as an average.
    fn value(&self, sum: &Sum) -> u64 {
        let value = if self.usage {
            sum.values * 100 / sum.of.max(1) * 1000
        } else {
            sum.values / u128::from(sum.counted.max(1))
        };
        u64::try_from(value).unwrap_or(u64::MAX)
    }

    fn pressure(&self, proposal: &Proposal, sum: &Sum) -> f64 {
        float(self.value(sum)) / float(proposal.target_milli.max(1))
    }
}

/// Those that told nothing must not turn the direction.
fn turned(first: f64, then: f64) -> bool {
    (first < 1.0 && then > 1.0) || (first > 1.0 && then < 1.0)
}

/// What the forecast asks for; it is told also when it moves nothing.
pub fn foreseen(question: &Question<'_>) -> Option<Proposal> {
    let foreseen = question.foreseen.filter(|_| question.policy.mode.foresees())?;
    let needed = float(foreseen.need_milli) / 1000.0;
    let current = question.current;
    let pressure = needed / f64::from(current.max(1));
    let tolerance = Tolerance::of(question.policy);
    let holds = current > 0 && tolerance.holds(pressure);
    Some(Proposal {
        metric: foreseen.metric.clone(),
        source: Source::Forecast,
        target_milli: u64::from(current) * 1000,
        value_milli: foreseen.need_milli,
        pressure,
        of_ready: pressure,
        unready: 0,
        missing: 0,
        replicas: Ok(if holds { current } else { quantity::ceil(needed) }),
        burst: None,
        moves: foreseen.trusted && !question.policy.forecast.only,
        edges_milli: tolerance.edges(u64::from(current) * 1000),
    })
}
