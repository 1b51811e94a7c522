//! AutoscaleService: what would be decided. A function of the request; any master answers, nothing is touched.
//!
//! Invariant: the decision is the core's own (`skein_master_core::autoscaler`); a number that is none is a violation.

use std::{collections::BTreeMap, time::Duration};

use skein_common::{
    Timestamp, Violations,
    service::{AutoscalePolicy, Metric, READINESS_DELAY},
};
use skein_master_core::autoscaler::{
    Burst, Decision, Forecaster, Foreseen, InstanceSample, Memory, Proposal, Question, Reading, SampleState,
    Shared, Signals, Source, Step, Wish, decide,
};
use skein_proto::{
    convert::{duration_from_wire, timestamp_from_wire, timestamp_to_wire},
    v1::{self, autoscale_service_server::AutoscaleService},
};
use tonic::{Request, Response};

use super::{Answer, Api, aside};
use crate::status::CallError;

const MAX_INSTANCES: usize = 10_000;
const MAX_DEMAND: usize = 100_000;
const MAX_PAST: usize = 10_000;
/// In thousandths it still is a whole number of 64 bits.
const MAX_NUMBER: f64 = 9.3e15;
const DEFAULT_START_UP: Duration = Duration::from_secs(60);
/// Of the loop that decides.
const PERIOD: Duration = Duration::from_secs(15);

#[tonic::async_trait]
impl AutoscaleService for Api {
    async fn evaluate(&self, request: Request<v1::EvaluateRequest>) -> Answer<v1::EvaluateResponse> {
        let wire = request.into_inner();
        let answer = aside(move || Asked::read(wire).map(|asked| asked.answer())).await;
        Ok(Response::new(answer.map_err(CallError::from)?))
    }
}

/// The request, understood.
struct Asked {
    policy: AutoscalePolicy,
    current: u32,
    asleep: bool,
    signals: Signals,
    memory: Memory,
    foreseen: Option<Foreseen>,
    now: Timestamp,
    readiness_delay: Duration,
}

impl Asked {
    fn read(wire: v1::EvaluateRequest) -> Result<Self, Violations> {
        let mut door = Door::default();
        let policy = wire.policy.map(AutoscalePolicy::try_from);
        let policy = policy.unwrap_or_else(|| {
            let mut found = Violations::default();
            found.add("policy", "is required");
            Err(found)
        });
        let policy = policy.unwrap_or_else(|found| {
            door.found.0.extend(found.0);
            AutoscalePolicy::new(1)
        });
        if wire.now.is_none() {
            door.found.add("now", "is required");
        }
        let now = door.time("now", wire.now).unwrap_or_default();
        for (field, length, most) in [
            ("instances", wire.instances.len(), MAX_INSTANCES),
            ("demand", wire.demand.len(), MAX_DEMAND),
            ("wishes", wire.wishes.len(), MAX_PAST),
            ("changes", wire.changes.len(), MAX_PAST),
        ] {
            if length > most {
                door.found.add(field, format!("{length} are more than {most}"));
            }
        }
        let start_up = door.span("start_up", wire.start_up).unwrap_or(DEFAULT_START_UP);
        let mut signals = Signals::of(door.instances(&policy, wire.instances));
        signals.shared = door.metrics(&policy, wire.metrics);
        let asked = Self {
            current: wire.current,
            asleep: wire.scaled_to_zero,
            signals,
            memory: door.memory(wire.wishes, wire.changes, wire.burst),
            foreseen: door.foreseen(&policy, wire.demand, start_up),
            now,
            readiness_delay: door.span("readiness_delay", wire.readiness_delay).unwrap_or(READINESS_DELAY),
            policy,
        };
        door.found.into_result(asked)
    }

    fn answer(&self) -> v1::EvaluateResponse {
        let question = Question {
            asleep: self.asleep,
            foreseen: self.foreseen.as_ref(),
            readiness_delay: self.readiness_delay,
            ..Question::new(&self.policy, self.current, &self.signals, &self.memory, self.now)
        };
        response(&decide(&question), self.foreseen.as_ref())
    }
}

/// What is wrong is collected, by field.
#[derive(Default)]
struct Door {
    found: Violations,
}

impl Door {
    fn time(&mut self, field: &str, wire: Option<prost_types::Timestamp>) -> Option<Timestamp> {
        let time = wire.map(|wire| timestamp_from_wire("", wire))?;
        time.map_err(|_| self.found.add(field, "is not a time after 1970")).ok()
    }

    fn span(&mut self, field: &str, wire: Option<prost_types::Duration>) -> Option<Duration> {
        let span = wire.map(|wire| duration_from_wire("", wire))?;
        span.map_err(|_| self.found.add(field, "a duration cannot be negative")).ok()
    }

    fn milli(&mut self, field: &str, number: f64) -> u64 {
        if !(0.0..=MAX_NUMBER).contains(&number) {
            self.found.add(field, format!("{number} is not a number from 0 to {MAX_NUMBER}"));
            return 0;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let milli = (number * 1000.0).round() as u64;
        milli
    }

    /// A metric of the policy by its name; cpu and memory are known always.
    fn metric(&mut self, policy: &AutoscalePolicy, field: &str, name: &str) -> Option<Metric> {
        let targets = policy.targets.iter().map(|target| target.metric.clone());
        let known = targets.chain([
            Metric::Cpu,
            Metric::Memory,
            Metric::Requests,
            Metric::InFlight,
            Metric::LatencyP95,
            Metric::Load,
        ]);
        let found = known.into_iter().find(|metric| metric.to_string() == name);
        if found.is_none() {
            self.found.add(field, format!("{name:?} is neither a metric nor a target of the policy"));
        }
        found
    }

    fn instances(&mut self, policy: &AutoscalePolicy, wire: Vec<v1::InstanceSample>) -> Vec<InstanceSample> {
        let all = wire.into_iter().take(MAX_INSTANCES).enumerate();
        all.map(|(index, wire)| self.instance(policy, &format!("instances[{index}]"), wire)).collect()
    }

    fn instance(&mut self, policy: &AutoscalePolicy, at: &str, wire: v1::InstanceSample) -> InstanceSample {
        let state = match v1::SampleState::try_from(wire.state) {
            Ok(v1::SampleState::Unspecified | v1::SampleState::Running) => SampleState::Running,
            Ok(v1::SampleState::Pending) => SampleState::Pending,
            Ok(v1::SampleState::Ending) => SampleState::Ending,
            Err(_) => {
                self.found.add(format!("{at}.state"), format!("{} is not a value of this enum", wire.state));
                SampleState::Running
            }
        };
        let mut readings = BTreeMap::new();
        for (index, wire) in wire.readings.into_iter().enumerate() {
            let at = format!("{at}.readings[{index}]");
            let Some(metric) = self.metric(policy, &format!("{at}.metric"), &wire.metric) else { continue };
            let reading = Reading {
                value_milli: self.milli(&format!("{at}.value"), wire.value),
                at: self.time(&format!("{at}.at"), wire.at),
                window: self.span(&format!("{at}.window"), wire.window).unwrap_or_default(),
            };
            readings.insert(metric, reading);
        }
        let mut reserved = BTreeMap::new();
        for (metric, leaf, value) in [
            (Metric::Cpu, "cpu_reserved_millis", wire.cpu_reserved_millis),
            (Metric::Memory, "memory_reserved_bytes", wire.memory_reserved_bytes),
        ] {
            if let Some(value) = value {
                reserved.insert(metric, self.milli(&format!("{at}.{leaf}"), value));
            }
        }
        InstanceSample {
            state,
            ready: wire.ready,
            started: self.time(&format!("{at}.started"), wire.started),
            ready_changed: self.time(&format!("{at}.ready_changed"), wire.ready_changed),
            readings,
            reserved,
        }
    }

    fn metrics(&mut self, policy: &AutoscalePolicy, wire: Vec<v1::MetricSample>) -> BTreeMap<Metric, Shared> {
        let mut shared = BTreeMap::new();
        for (index, wire) in wire.into_iter().enumerate() {
            let at = format!("metrics[{index}]");
            let Some(metric) = self.metric(policy, &format!("{at}.metric"), &wire.metric) else { continue };
            if matches!(metric, Metric::Cpu | Metric::Memory) {
                self.found.add(format!("{at}.metric"), format!("{metric} is a number of instances"));
                continue;
            }
            let value_milli = self.milli(&format!("{at}.value"), wire.value);
            let recent_milli = wire.recent.map(|recent| self.milli(&format!("{at}.recent"), recent));
            if shared.insert(metric, Shared { value_milli, recent_milli }).is_some() {
                self.found.add(format!("{at}.metric"), "stands twice");
            }
        }
        shared
    }

    fn memory(
        &mut self,
        wishes: Vec<v1::PastWish>,
        changes: Vec<v1::PastChange>,
        burst: Option<v1::BurstState>,
    ) -> Memory {
        let mut memory = Memory::default();
        for (index, wire) in wishes.into_iter().take(MAX_PAST).enumerate() {
            let at = self.required(&format!("wishes[{index}].at"), wire.at);
            memory.wishes.push_back(Wish { at, replicas: wire.replicas });
        }
        for (index, wire) in changes.into_iter().take(MAX_PAST).enumerate() {
            let at = self.required(&format!("changes[{index}].at"), wire.at);
            // No count is larger.
            let by = wire.by.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
            memory.steps.push_back(Step { at, by });
        }
        memory.burst =
            burst.map(|wire| Burst { seen: self.required("burst.seen", wire.seen), most: wire.most });
        memory
    }

    fn required(&mut self, field: &str, wire: Option<prost_types::Timestamp>) -> Timestamp {
        if wire.is_none() {
            self.found.add(field, "is required");
        }
        self.time(field, wire).unwrap_or_default()
    }

    fn foreseen(
        &mut self,
        policy: &AutoscalePolicy,
        demand: Vec<v1::DemandSample>,
        start_up: Duration,
    ) -> Option<Foreseen> {
        let mut samples = Vec::new();
        for (index, wire) in demand.into_iter().take(MAX_DEMAND).enumerate() {
            let at = self.required(&format!("demand[{index}].at"), wire.at);
            self.milli(&format!("demand[{index}].instances"), wire.instances);
            samples.push((at, wire.instances));
        }
        let [(first, _), (second, _), ..] = samples[..] else { return None };
        if second <= first {
            self.found.add("demand[1].at", "is not after the one before");
            return None;
        }
        let step = second.since(first);
        // Half a step early or late is jitter; more would shift every season.
        let is_even = |pair: &[(Timestamp, f64)]| {
            let [(before, _), (after, _)] = pair else { return true };
            *after > *before && after.since(*before).abs_diff(step) * 2 <= step
        };
        if let Some(odd) = samples.windows(2).position(|pair| !is_even(pair)) {
            let at = format!("demand[{}].at", odd + 1);
            self.found.add(at, format!("is not {step:?} after the one before: demand comes at even steps"));
            return None;
        }
        let horizon = policy.forecast.horizon.unwrap_or(start_up + PERIOD);
        let metric = policy.targets.first()?.metric.clone();
        let mut forecaster = Forecaster::new(step, horizon, policy.forecast.quantile_permille);
        let outlook = samples.into_iter().map(|(_, demand)| forecaster.push(demand)).last()?;
        Some(Foreseen {
            metric,
            need_milli: self.milli("demand", outlook.demand.min(MAX_NUMBER)),
            horizon,
            model: outlook.model,
            error_percent: outlook.error_percent,
            trusted: outlook.trusted,
        })
    }
}

fn response(decision: &Decision, foreseen: Option<&Foreseen>) -> v1::EvaluateResponse {
    v1::EvaluateResponse {
        replicas: decision.replicas,
        reason: decision.reason.name().to_owned(),
        wish: decision.wish,
        proposals: decision.proposals.iter().map(|one| proposal(one, foreseen)).collect(),
        limits: decision
            .limits
            .iter()
            .map(|limit| v1::AppliedLimit {
                kind: limit.kind.name().to_owned(),
                from: limit.from,
                to: limit.to,
            })
            .collect(),
        burst: decision
            .burst
            .map(|burst| v1::BurstState { seen: Some(timestamp_to_wire(burst.seen)), most: burst.most }),
        explanation: decision.to_string(),
        alternatives: decision.alternatives(),
    }
}

fn proposal(proposal: &Proposal, foreseen: Option<&Foreseen>) -> v1::MetricProposal {
    /// Exact below 2^53.
    #[allow(clippy::cast_precision_loss)]
    fn number(milli: u64) -> f64 {
        milli as f64 / 1000.0
    }
    let forecast = proposal.source == Source::Forecast;
    let foreseen = foreseen.filter(|_| forecast);
    v1::MetricProposal {
        metric: proposal.metric.to_string(),
        forecast,
        target: number(proposal.target_milli),
        value: number(proposal.value_milli),
        pressure: proposal.pressure,
        unready: proposal.unready,
        missing: proposal.missing,
        replicas: proposal.replicas.ok(),
        broken: proposal.replicas.err().map(|broken| broken.to_string()).unwrap_or_default(),
        moves: proposal.moves,
        model: foreseen.map(|foreseen| foreseen.model.to_owned()).unwrap_or_default(),
        error_percent: foreseen.map(|foreseen| foreseen.error_percent).unwrap_or_default(),
    }
}
