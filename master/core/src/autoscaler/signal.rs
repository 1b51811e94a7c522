//! What is known of a service at the time of a decision.
//!
//! Invariant: a number that is not known is absent, never 0.

use std::{collections::BTreeMap, time::Duration};

use skein_common::{Timestamp, service::Metric};

/// Everything that was measured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signals {
    /// Instances that serve.
    pub ready: u32,
    pub instances: Vec<InstanceSample>,
    /// Numbers of the service as a whole.
    pub shared: BTreeMap<Metric, Shared>,
}

/// One instance, whether it is ready, and what it uses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InstanceSample {
    pub state: SampleState,
    pub ready: bool,
    pub started: Option<Timestamp>,
    /// When it became ready, or ceased to be; `None` = at its start.
    pub ready_changed: Option<Timestamp>,
    pub readings: BTreeMap<Metric, Reading>,
    /// What a usage is a share of, in thousandths of its unit; without it the usage cannot be judged.
    pub reserved: BTreeMap<Metric, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SampleState {
    /// It has no running container yet.
    Pending,
    #[default]
    Running,
    /// It is being stopped, or has failed: it is nothing to the decision.
    Ending,
}

/// One number of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    pub value_milli: u64,
    pub at: Option<Timestamp>,
    /// It is an average of this time before `at`.
    pub window: Duration,
}

/// One number of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shared {
    pub value_milli: u64,
    /// The same over a short time, for bursts.
    pub recent_milli: Option<u64>,
}

/// A demand that has not come yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Foreseen {
    /// The metric it was made of.
    pub metric: Metric,
    /// Instances it takes to be at the target, in thousandths: the quantile of the demand at the horizon.
    pub need_milli: u64,
    pub horizon: Duration,
    pub model: &'static str,
    /// Mean error of the last time, in percent of the mean demand.
    pub error_percent: f64,
    /// It has proved better than "as now" and "as yesterday".
    pub trusted: bool,
}

/// What an instance counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Ready,
    /// What it uses says nothing about the load.
    Unready,
    /// It told nothing.
    Missing,
    Ignored,
}

impl Signals {
    /// Of instances, those counted as ready that are.
    #[must_use]
    pub fn of(instances: Vec<InstanceSample>) -> Self {
        let serves = |one: &&InstanceSample| one.ready && one.state == SampleState::Running;
        let ready = u32::try_from(instances.iter().filter(serves).count()).unwrap_or(u32::MAX);
        Self { ready, instances, shared: BTreeMap::new() }
    }

    #[must_use]
    pub fn with(mut self, metric: Metric, value_milli: u64) -> Self {
        self.shared.insert(metric, Shared { value_milli, recent_milli: None });
        self
    }
}

impl InstanceSample {
    /// CPU of an instance that is warming up, or has never been ready, is no sign of load; every other metric is.
    #[must_use]
    pub fn class(&self, metric: &Metric, warm_up: Duration, delay: Duration, now: Timestamp) -> Class {
        match self.state {
            SampleState::Ending => return Class::Ignored,
            SampleState::Pending => return Class::Unready,
            SampleState::Running => {}
        }
        let Some(reading) = self.readings.get(metric) else { return Class::Missing };
        if *metric != Metric::Cpu || self.serves(reading, warm_up, delay, now) {
            Class::Ready
        } else {
            Class::Unready
        }
    }

    fn serves(&self, reading: &Reading, warm_up: Duration, delay: Duration, now: Timestamp) -> bool {
        let Some(started) = self.started else { return self.ready };
        let changed = self.ready_changed.unwrap_or(started);
        if started + warm_up > now {
            self.ready && reading.at.is_none_or(|at| at >= changed + reading.window)
        } else {
            self.ready || started + delay <= changed
        }
    }
}
