//! PlanServices: what a change would do, and whether what it was planned on is still so.
//!
//! Invariant: nothing is proposed. Deliberately not here: the foresight (`skein_master_core`).

use std::{collections::BTreeMap, sync::Arc};

use skein_common::{ServiceId, Violations, service::ServiceSpec};
use skein_master_core::{
    ClusterState, Rejection,
    orchestrator::foresight::{self, Fate, What},
};
use skein_proto::v1;

use super::{Api, aside, read, view};
use crate::{clock, raft::fnv1a, status::CallError};

impl Api {
    pub(super) async fn foresee(
        &self,
        request: v1::PlanServicesRequest,
    ) -> Result<v1::PlanServicesResponse, CallError> {
        let specs = specs(request.specs)?;
        let state = read::state(&self.store, v1::Consistency::Linearizable.into()).await?;
        let mut remove = Vec::new();
        for reference in &request.remove {
            remove.push(read::service(&state, reference)?.id);
        }
        let plan_etag = plan_etag(&state, &specs, &remove);
        if !request.plan_etag.is_empty() && request.plan_etag != plan_etag {
            let message = format!(
                "services have changed since the plan with etag {} (it would be {plan_etag} now): plan again",
                request.plan_etag
            );
            return Err(Rejection::FailedPrecondition { message }.into());
        }
        let known = specs.iter().filter_map(|spec| state.service_by_name(&spec.name));
        let etags = known.map(|s| (s.spec.name.clone(), view::etag(s.modified_revision))).collect();
        let fates = play(Arc::clone(&state), specs, remove).await?;
        let instances = fates.iter().map(|fate| instance(&state, fate)).collect();
        Ok(v1::PlanServicesResponse { instances, plan_etag, etags })
    }
}

fn specs(wire: Vec<v1::ServiceSpec>) -> Result<Vec<Arc<ServiceSpec>>, Violations> {
    let (mut specs, mut found) = (Vec::new(), Violations::default());
    for (number, spec) in wire.into_iter().enumerate() {
        match ServiceSpec::try_from(spec) {
            Ok(spec) => specs.push(Arc::new(spec)),
            Err(violations) => found.0.extend(violations.0.into_iter().map(|mut violation| {
                let rest = violation.field.strip_prefix("spec").unwrap_or(&violation.field);
                violation.field = format!("specs[{number}]{rest}");
                violation
            })),
        }
    }
    found.into_result(specs)
}

/// What matters of the services: which spec they have, or that they are not there.
fn plan_etag(state: &ClusterState, specs: &[Arc<ServiceSpec>], remove: &[ServiceId]) -> String {
    let named = specs.iter().map(|spec| (spec.name.clone(), state.service_by_name(&spec.name)));
    let removed = remove.iter().filter_map(|id| state.service(*id));
    let removed = removed.map(|service| (service.spec.name.clone(), Some(service)));
    let all: BTreeMap<_, _> = named.chain(removed).collect();
    let matters = all.iter().map(|(name, known)| {
        let service = known.filter(|service| !service.deleting);
        (name, service.map(|service| (service.id, service.generation, &service.spec)))
    });
    let matters: Vec<_> = matters.collect();
    format!("{:016x}", rmp_serde::to_vec_named(&matters).map_or(0, |bytes| fnv1a(&bytes)))
}

/// Off the threads that serve streams: it may take a while.
async fn play(
    state: Arc<ClusterState>,
    specs: Vec<Arc<ServiceSpec>>,
    remove: Vec<ServiceId>,
) -> Result<Vec<Fate>, CallError> {
    Ok(aside(move || foresight::foresee(&state, &specs, &remove, clock::now())).await?)
}

fn instance(state: &ClusterState, fate: &Fate) -> v1::PlannedInstance {
    let change = match fate.what {
        What::Created => v1::PlannedChange::Created,
        What::Replaced => v1::PlannedChange::Replaced,
        What::Preempted => v1::PlannedChange::Preempted,
        What::Removed => v1::PlannedChange::Removed,
        What::Pending => v1::PlannedChange::Pending,
    };
    let node =
        |node: Option<skein_common::NodeId>| node.map(|node| state.node_name(node)).unwrap_or_default();
    v1::PlannedInstance {
        service_id: state.service(fate.service).map(|service| service.id.to_string()).unwrap_or_default(),
        service_name: fate.service_name.clone(),
        name: fate.name.clone(),
        change: change.into(),
        from_node_name: node(fate.from),
        to_node_name: node(fate.to),
        reason: fate.reason.clone(),
    }
}
