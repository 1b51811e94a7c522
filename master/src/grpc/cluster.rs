//! ClusterService: decode, call, encode.

use skein_common::Violations;
use skein_proto::v1::{self, cluster_service_server::ClusterService};
use tonic::{Request, Response};

use super::{Answer, Api, view};
use crate::{status::CallError, store::MemberNode};

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
