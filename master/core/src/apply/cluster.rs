//! Forming the cluster, and its settings.

use std::sync::Arc;

use skein_common::{
    ClusterId, Revision,
    cluster::ClusterConfig,
    event::{Severity, Subject},
};

use super::{Answer, Step, check_etag};
use crate::{
    command::{ObjectKind, Outcome, Rejection},
    state::{Service, Settings},
};

/// Repeated commands answer with the id that was chosen first.
pub(super) fn form(step: &mut Step<'_>, id: ClusterId) -> Answer {
    if let Some(chosen) = step.state.cluster_id {
        return Ok(Outcome::Cluster(chosen));
    }
    step.state.cluster_id = Some(id);
    step.event(Severity::Info, "ClusterFormed", Subject::Cluster, format!("cluster {id} has been formed"));
    Ok(Outcome::Cluster(id))
}

/// Services that have no address, or one outside the range, get one.
fn readdress(step: &mut Step<'_>) {
    let moved =
        step.state.services.values().filter(|service| step.state.address_for(service) != service.address);
    let moved: Vec<_> = moved.map(|service| Service::clone(service)).collect();
    moved.into_iter().for_each(|service| step.put_service(service));
}

/// Equal settings change nothing.
pub(super) fn configure(
    step: &mut Step<'_>,
    expected: Option<Revision>,
    config: &Arc<ClusterConfig>,
) -> Answer {
    let before = Arc::clone(&step.state.settings);
    check_etag(ObjectKind::Cluster, expected, before.modified_revision)?;
    // Defence in depth: the API has checked it before.
    let violations = config.violations().0;
    if !violations.is_empty() {
        return Err(Rejection::Invalid { violations });
    }
    if before.config == *config {
        return Ok(Outcome::Done);
    }
    let modified_revision = step.state.revision;
    step.put_settings(Settings { config: config.clone(), modified_revision, ..Settings::clone(&before) });
    readdress(step);
    let message = "the settings of the cluster have changed".to_owned();
    step.event(Severity::Info, "ClusterConfigured", Subject::Cluster, message);
    Ok(Outcome::Done)
}
