//! Forming the cluster.

use skein_common::{
    ClusterId,
    event::{Severity, Subject},
};

use super::{Answer, Step};
use crate::command::Outcome;

/// Repeated commands answer with the id that was chosen first.
pub(super) fn form(step: &mut Step<'_>, id: ClusterId) -> Answer {
    if let Some(chosen) = step.state.cluster_id {
        return Ok(Outcome::Cluster(chosen));
    }
    step.state.cluster_id = Some(id);
    step.event(Severity::Info, "ClusterFormed", Subject::Cluster, format!("cluster {id} has been formed"));
    Ok(Outcome::Cluster(id))
}
