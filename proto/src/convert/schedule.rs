//! When a job runs by itself, and what a service waits for. Written by users, so every violation is collected.

use skein_common::service::{
    Concurrency, DEFAULT_KEEP_COMPLETED, DEFAULT_KEEP_FAILED, Dependency, DependencyCondition, MissedRuns,
    Schedule,
};

use super::{duration_to_wire, service::Door};
use crate::v1;

pub(super) fn schedule(door: &mut Door<'_>, wire: v1::Schedule) -> Schedule {
    let known = v1::Concurrency::try_from(wire.concurrency);
    let concurrency = door.known("spec.schedule.concurrency", wire.concurrency, known);
    let missed = door.known("spec.schedule.missed", wire.missed, v1::MissedRuns::try_from(wire.missed));
    Schedule {
        cron: wire.cron,
        time_zone: wire.time_zone,
        concurrency: match concurrency {
            Some(v1::Concurrency::Forbid) => Concurrency::Forbid,
            Some(v1::Concurrency::Replace) => Concurrency::Replace,
            Some(v1::Concurrency::Allow | v1::Concurrency::Unspecified) | None => Concurrency::Allow,
        },
        missed: match missed {
            Some(v1::MissedRuns::Skip) => MissedRuns::Skip,
            Some(v1::MissedRuns::RunOnce | v1::MissedRuns::Unspecified) | None => MissedRuns::RunOnce,
        },
        starting_deadline: door.duration("spec.schedule.starting_deadline", wire.starting_deadline),
        suspend: wire.suspend,
        keep_completed: wire.keep_completed.unwrap_or(DEFAULT_KEEP_COMPLETED),
        keep_failed: wire.keep_failed.unwrap_or(DEFAULT_KEEP_FAILED),
    }
}

impl From<&Schedule> for v1::Schedule {
    fn from(schedule: &Schedule) -> Self {
        let concurrency = match schedule.concurrency {
            Concurrency::Allow => v1::Concurrency::Allow,
            Concurrency::Forbid => v1::Concurrency::Forbid,
            Concurrency::Replace => v1::Concurrency::Replace,
        };
        let missed = match schedule.missed {
            MissedRuns::RunOnce => v1::MissedRuns::RunOnce,
            MissedRuns::Skip => v1::MissedRuns::Skip,
        };
        Self {
            cron: schedule.cron.clone(),
            time_zone: schedule.time_zone.clone(),
            concurrency: concurrency.into(),
            missed: missed.into(),
            starting_deadline: schedule.starting_deadline.map(duration_to_wire),
            suspend: schedule.suspend,
            keep_completed: Some(schedule.keep_completed),
            keep_failed: Some(schedule.keep_failed),
        }
    }
}

pub(super) fn dependencies(door: &mut Door<'_>, wire: Vec<v1::Dependency>) -> Vec<Dependency> {
    let dependency = |(position, wire): (usize, v1::Dependency)| {
        let field = format!("spec.depends_on[{position}].condition");
        let known = v1::DependencyCondition::try_from(wire.condition);
        let condition = match door.known(&field, wire.condition, known) {
            Some(v1::DependencyCondition::Healthy) => DependencyCondition::Healthy,
            Some(v1::DependencyCondition::CompletedSuccessfully) => {
                DependencyCondition::CompletedSuccessfully
            }
            Some(v1::DependencyCondition::Started | v1::DependencyCondition::Unspecified) | None => {
                DependencyCondition::Started
            }
        };
        Dependency { service: wire.service, condition }
    };
    wire.into_iter().enumerate().map(dependency).collect()
}

impl From<&Dependency> for v1::Dependency {
    fn from(dependency: &Dependency) -> Self {
        let condition = match dependency.condition {
            DependencyCondition::Started => v1::DependencyCondition::Started,
            DependencyCondition::Healthy => v1::DependencyCondition::Healthy,
            DependencyCondition::CompletedSuccessfully => v1::DependencyCondition::CompletedSuccessfully,
        };
        Self { service: dependency.service.clone(), condition: condition.into() }
    }
}
