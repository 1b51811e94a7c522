//! ClusterService: decode, call, encode.

use std::sync::Arc;

use skein_common::{ServiceId, Violations, cluster::RebalanceGoal};
use skein_master_core::{
    ClusterState, CommandKind,
    orchestrator::rehearsal::{self, Move},
};
use skein_proto::v1::{self, cluster_service_server::ClusterService};
use tonic::{Request, Response};

use super::{Answer, Api, aside, decode, read, view, write::Checks};
use crate::{clock, status::CallError, store::MemberNode};

#[tonic::async_trait]
impl ClusterService for Api {
    async fn get_status(&self, _request: Request<v1::GetStatusRequest>) -> Answer<v1::GetStatusResponse> {
        let status = self.store.status();
        Ok(Response::new(v1::GetStatusResponse {
            cluster_id: self.store.snapshot().cluster_id().map(|id| id.to_string()).unwrap_or_default(),
            members: self.members(),
            leader: status.leader.unwrap_or_default(),
            name: status.name,
            term: status.term,
            last_log_index: status.last_log,
            applied_index: status.applied,
            snapshot_index: status.snapshot,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn add_master(&self, request: Request<v1::AddMasterRequest>) -> Answer<v1::AddMasterResponse> {
        let request = request.into_inner();
        check_master(&request).map_err(CallError::from)?;
        let v1::AddMasterRequest { name, api_address, cluster_address } = request;
        let master = MemberNode { name, api_address, cluster_address };
        self.store.add_master(master).await.map_err(CallError::from)?;
        Ok(Response::new(v1::AddMasterResponse { members: self.members() }))
    }

    async fn remove_master(
        &self,
        request: Request<v1::RemoveMasterRequest>,
    ) -> Answer<v1::RemoveMasterResponse> {
        let name = request.into_inner().name;
        check_name(&name).map_err(CallError::from)?;
        self.store.remove_master(&name).await.map_err(CallError::from)?;
        Ok(Response::new(v1::RemoveMasterResponse { members: self.members() }))
    }

    async fn transfer_leadership(
        &self,
        request: Request<v1::TransferLeadershipRequest>,
    ) -> Answer<v1::TransferLeadershipResponse> {
        let to = request.into_inner().to;
        let to = (!to.is_empty()).then_some(to.as_str());
        self.store.transfer_leadership(to).await.map_err(CallError::from)?;
        let leader = self.store.status().leader.unwrap_or_default();
        Ok(Response::new(v1::TransferLeadershipResponse { leader }))
    }

    async fn get_cluster_config(
        &self,
        request: Request<v1::GetClusterConfigRequest>,
    ) -> Answer<v1::GetClusterConfigResponse> {
        let state = read::state(&self.store, request.into_inner().consistency).await?;
        let settings = state.settings();
        Ok(Response::new(v1::GetClusterConfigResponse {
            config: Some(settings.config.as_ref().into()),
            effective: Some((&settings.config.effective()).into()),
            etag: view::etag(settings.modified_revision),
            rebalance: settings.rebalance.as_ref().map(v1::RebalanceRun::from),
        }))
    }

    async fn update_cluster_config(
        &self,
        request: Request<v1::UpdateClusterConfigRequest>,
    ) -> Answer<v1::UpdateClusterConfigResponse> {
        let (config, expected, write) =
            decode::update_cluster_config(request.into_inner()).map_err(CallError::from)?;
        let written = write.run(&self.store, CommandKind::ConfigureCluster { expected, config }).await?;
        let settings = written.state.settings();
        Ok(Response::new(v1::UpdateClusterConfigResponse {
            config: Some(settings.config.as_ref().into()),
            effective: Some((&settings.config.effective()).into()),
            etag: view::etag(settings.modified_revision),
        }))
    }

    async fn rebalance(&self, request: Request<v1::RebalanceRequest>) -> Answer<v1::RebalanceResponse> {
        let (wanted, write) = decode::rebalance(request.into_inner()).map_err(CallError::from)?;
        let decode::Rebalance { service, goal } = wanted;
        let service = match service {
            Some(reference) => {
                Some(read::find(&self.store, |state| read::service(state, &reference)).await?.id)
            }
            None => None,
        };
        let state = read::state(&self.store, v1::Consistency::Linearizable.into()).await?;
        let moves = foresee(Arc::clone(&state), goal, service).await?;
        let moves = moves.iter().map(|one| view::rebalance_move(&state, one)).collect();
        // A rehearsal only changes a copy, and begins nothing.
        let now = if write.validate_only {
            state
        } else {
            write.run(&self.store, CommandKind::Rebalance { goal, service }).await?.state
        };
        let run = now.settings().rebalance.as_ref().map(v1::RebalanceRun::from);
        Ok(Response::new(v1::RebalanceResponse { moves, run }))
    }

    async fn stop_rebalance(
        &self,
        request: Request<v1::StopRebalanceRequest>,
    ) -> Answer<v1::StopRebalanceResponse> {
        let write = Checks::default()
            .write(request.into_inner().request_id, false, &"stop_rebalance")
            .map_err(CallError::from)?;
        let state = read::state(&self.store, v1::Consistency::Linearizable.into()).await?;
        let stopped = state.settings().rebalance.is_some();
        write.run(&self.store, CommandKind::StopRebalance).await?;
        Ok(Response::new(v1::StopRebalanceResponse { stopped }))
    }
}

async fn foresee(
    state: Arc<ClusterState>,
    goal: RebalanceGoal,
    service: Option<ServiceId>,
) -> Result<Vec<Move>, CallError> {
    Ok(aside(move || rehearsal::moves(&state, goal, service, clock::now())).await?)
}

impl Api {
    fn members(&self) -> Vec<v1::Member> {
        let status = self.store.status();
        let leader = status.leader.as_deref();
        status.members.iter().map(|member| view::member(member, leader)).collect()
    }
}

fn check_master(request: &v1::AddMasterRequest) -> Result<(), Violations> {
    let mut found = check_name(&request.name).err().unwrap_or_default();
    for (field, address) in
        [("api_address", &request.api_address), ("cluster_address", &request.cluster_address)]
    {
        let port = address.rsplit_once(':').and_then(|(host, port)| {
            (!host.is_empty()).then(|| port.parse::<u16>().ok()).flatten().filter(|port| *port != 0)
        });
        if port.is_none() {
            found.add(field, format!("{address:?} is not host:port"));
        }
    }
    found.into_result(())
}

fn check_name(name: &str) -> Result<(), Violations> {
    let mut found = Violations::default();
    if name.is_empty() {
        found.add("name", "the name of a master is required");
    }
    found.into_result(())
}
