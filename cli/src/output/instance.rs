//! Instances as rows.

use serde_json::Value;
use skein_common::Timestamp;
use skein_proto::v1::{Desired, Instance, Phase, Protocol};

use super::{Column, Row, column, json, text, wide};

impl Row for Instance {
    const COLUMNS: &'static [Column] = &[
        column("NAME"),
        column("ID"),
        column("NODE"),
        column("DESIRED"),
        column("PHASE"),
        column("AGE"),
        column("ENDPOINTS"),
        wide("IMAGE"),
        wide("GENERATION"),
        wide("EXIT"),
        wide("CONTAINER"),
        column("MESSAGE"),
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let observed = self.observed.clone().unwrap_or_default();
        vec![
            self.name.clone(),
            self.id.clone(),
            self.node_name.clone(),
            text::enum_word(self.desired().as_str_name(), "DESIRED_"),
            phase_text(self),
            text::age(self.created_at.as_ref(), now),
            endpoints(self),
            self.image.clone(),
            self.generation.to_string(),
            observed.exit_code.map(|code| code.to_string()).unwrap_or_default(),
            observed.container_id.chars().take(12).collect(),
            message(self),
        ]
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn json(&self) -> Value {
        json::of_message("Instance", self)
    }
}

pub fn phase(instance: &Instance) -> Phase {
    instance.observed.as_ref().map_or(Phase::Pending, v1_phase)
}

fn v1_phase(observed: &skein_proto::v1::Observed) -> Phase {
    match observed.phase() {
        Phase::Unspecified => Phase::Pending,
        phase => phase,
    }
}

/// May receive traffic.
pub fn is_ready(instance: &Instance) -> bool {
    instance.observed.as_ref().is_some_and(skein_proto::v1::Observed::is_ready)
}

/// Nothing more will happen to it.
pub fn is_over(instance: &Instance) -> bool {
    matches!(phase(instance), Phase::Stopped | Phase::Failed | Phase::Rejected)
}

pub fn is_wanted(instance: &Instance) -> bool {
    instance.desired() == Desired::Run
}

/// Of one that was ready, runs, and fails its readiness probe.
pub const NOT_READY: &str = "not ready";

/// `ready`, `not ready`, or `starting (attempt 3)`.
fn phase_text(instance: &Instance) -> String {
    let phase = match phase(instance) {
        Phase::Ready if !is_ready(instance) => NOT_READY.to_owned(),
        phase => text::enum_word(phase.as_str_name(), "PHASE_"),
    };
    match instance.observed.as_ref().map_or(0, |observed| observed.attempt) {
        0 | 1 => phase,
        attempt => format!("{phase} (attempt {attempt})"),
    }
}

fn endpoints(instance: &Instance) -> String {
    let endpoints = instance.endpoints.iter().map(|endpoint| {
        let protocol = if endpoint.protocol() == Protocol::Udp { "/udp" } else { "" };
        format!("{}:{}->{}{protocol}", endpoint.address, endpoint.port, endpoint.container_port)
    });
    endpoints.collect::<Vec<_>>().join(",")
}

/// What there is to say, the masters' view first.
pub fn message(instance: &Instance) -> String {
    let observed = instance.observed.as_ref().map(|observed| observed.message.as_str()).unwrap_or_default();
    let lost = if instance.lost { "its node is down" } else { "" };
    let mut parts = vec![lost, instance.explanation.as_str(), observed];
    parts.retain(|part| !part.is_empty());
    parts.dedup();
    parts.join("; ")
}
