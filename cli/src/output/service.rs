//! Services and stacks as rows.

use serde_json::{Value, json};
use skein_common::Timestamp;
use skein_proto::v1::{
    JobPhase, Protocol, PublishMode, Service, ServiceSpec, ServiceStatus, service_spec::Mode,
};

use super::{Column, Row, column, json, text, wide};
use crate::{compose::STACK_LABEL, convergence};

impl Row for Service {
    const COLUMNS: &'static [Column] = &[
        column("NAME"),
        column("ID"),
        column("MODE"),
        column("READY"),
        column("IMAGE"),
        column("PORTS"),
        column("AGE"),
        wide("STACK"),
        wide("GENERATION"),
        wide("UPDATED"),
        wide("ETAG"),
        column("MESSAGE"),
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let message = if self.deleting {
            "being removed".to_owned()
        } else {
            let said = convergence::rollout(self)
                .into_iter()
                .chain(failure(self))
                .chain(next(self))
                .chain([status.message.clone()]);
            said.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ")
        };
        vec![
            spec.name.clone(),
            self.id.clone(),
            mode(&spec).to_owned(),
            ready_text(self, &status),
            spec.container.as_ref().map(|container| container.image.clone()).unwrap_or_default(),
            ports(&spec),
            text::age(self.created_at.as_ref(), now),
            stack(self).unwrap_or_default().to_owned(),
            self.generation.to_string(),
            status.updated.to_string(),
            self.etag.clone(),
            message,
        ]
    }

    fn name(&self) -> String {
        name(self).to_owned()
    }

    fn json(&self) -> Value {
        json::of_message("Service", self)
    }
}

pub fn name(service: &Service) -> &str {
    service.spec.as_ref().map_or(&service.id, |spec| &spec.name)
}

/// It was made by the schedule of another one.
pub const fn is_run(service: &Service) -> bool {
    !service.owner_id.is_empty()
}

/// The stack it belongs to.
pub fn stack(service: &Service) -> Option<&str> {
    service.spec.as_ref()?.labels.get(STACK_LABEL).map(String::as_str)
}

/// `2/3`, or `2/3 done` of a job.
fn ready_text(service: &Service, status: &ServiceStatus) -> String {
    if let Some(schedule) = &service.schedule {
        return format!("{} running", schedule.active);
    }
    match service.job {
        Some(_) => format!("{}/{} done", status.completed, status.desired),
        None => format!("{}/{}", status.ready, status.desired),
    }
}

/// When its schedule is due.
fn next(service: &Service) -> Option<String> {
    let schedule = service.schedule.as_ref()?;
    Some(match text::instant(schedule.next.as_ref()) {
        Some(next) => format!("next run at {}", text::second(next)),
        None => "suspended".to_owned(),
    })
}

/// Why a job failed.
fn failure(service: &Service) -> Option<String> {
    let run = service.job.as_ref().filter(|run| run.phase() == JobPhase::Failed)?;
    Some(format!("failed: {}", run.reason))
}

fn mode(spec: &ServiceSpec) -> &'static str {
    match spec.mode {
        Some(Mode::Global(_)) => "global",
        Some(Mode::Job(_)) => "replicated-job",
        Some(Mode::GlobalJob(_)) => "global-job",
        Some(Mode::Replicated(_)) | None => "replicated",
    }
}

/// `8080->80/tcp`, `*->80/tcp` for a dynamic port, `53=>53/udp` for the node's own port.
fn ports(spec: &ServiceSpec) -> String {
    let ports = spec.ports.iter().map(|port| {
        let protocol = if port.protocol == i32::from(Protocol::Udp) { "udp" } else { "tcp" };
        let outside = if port.published_port == 0 { "*".to_owned() } else { port.published_port.to_string() };
        let arrow = if port.mode == i32::from(PublishMode::Host) { "=>" } else { "->" };
        format!("{outside}{arrow}{}/{protocol}", port.container_port)
    });
    ports.collect::<Vec<_>>().join(",")
}

/// All services with the same stack label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackSummary {
    pub name: String,
    pub services: usize,
    pub ready: u32,
    pub desired: u32,
}

impl StackSummary {
    /// Ordered by name.
    pub fn of(services: &[Service]) -> Vec<Self> {
        let mut found = std::collections::BTreeMap::<&str, Self>::new();
        for service in services.iter().filter(|service| !is_run(service)) {
            let Some(name) = stack(service) else { continue };
            let summary = found.entry(name).or_insert_with(|| Self {
                name: name.to_owned(),
                services: 0,
                ready: 0,
                desired: 0,
            });
            let status = service.status.clone().unwrap_or_default();
            summary.services += 1;
            summary.ready += if service.job.is_some() { status.completed } else { status.ready };
            summary.desired += status.desired;
        }
        found.into_values().collect()
    }
}

impl Row for StackSummary {
    const COLUMNS: &'static [Column] = &[column("NAME"), column("SERVICES"), column("READY")];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        vec![self.name.clone(), self.services.to_string(), format!("{}/{}", self.ready, self.desired)]
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn json(&self) -> Value {
        json!({ "name": self.name, "services": self.services, "ready": self.ready, "desired": self.desired })
    }
}

#[cfg(test)]
mod tests {
    use skein_proto::v1::JobRun;

    use super::*;

    #[test]
    fn a_job_shows_what_is_done_and_why_it_failed() {
        let status = ServiceStatus { completed: 2, desired: 3, ..Default::default() };
        let run =
            JobRun { phase: JobPhase::Failed.into(), reason: "7 failures".to_owned(), ..Default::default() };
        let job = Service { status: Some(status), job: Some(run), ..Default::default() };
        let cells = job.cells(Timestamp::default());
        assert!(cells.contains(&"2/3 done".to_owned()), "{cells:?}");
        assert_eq!(cells.last().map(String::as_str), Some("failed: 7 failures"));
    }
}
