//! Starting masters, asking them, waiting for them.

use std::{net::SocketAddr, time::Duration};

use skein_common::service::ServiceSpec;
use skein_master::server::{Master, MasterConfig, MasterHandle};
use skein_proto::v1::{
    self, autoscale_service_client::AutoscaleServiceClient, balance_service_client::BalanceServiceClient,
    cluster_service_client::ClusterServiceClient, event_service_client::EventServiceClient,
    instance_service_client::InstanceServiceClient, node_service_client::NodeServiceClient,
    service_service_client::ServiceServiceClient, usage_service_client::UsageServiceClient,
};
use tempfile::TempDir;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Nothing here may take longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until it is so.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await; // polls: what the caller looks at
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{what}: not in time"))
}

/// Fails when it takes too long.
pub async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, event).await.unwrap_or_else(|_| panic!("{what}: not in time"))
}

pub struct Cluster {
    masters: Vec<Option<MasterHandle>>,
    addresses: Vec<SocketAddr>,
    _folders: Vec<TempDir>,
}

impl Cluster {
    pub async fn start(count: usize) -> Self {
        Self::start_with(count, |_| {}).await
    }

    pub async fn start_with(count: usize, configure: impl Fn(&mut MasterConfig)) -> Self {
        let (mut bound, mut folders) = (Vec::new(), Vec::new());
        for number in 1..=count {
            let folder = tempfile::tempdir().unwrap();
            let mut config = MasterConfig::new(format!("m{number}"), folder.path());
            configure(&mut config);
            bound.push(Master::bind(config).await.unwrap());
            folders.push(folder);
        }
        let initial: Vec<_> = bound
            .iter()
            .enumerate()
            .map(|(index, master)| (format!("m{}", index + 1), master.cluster_address().to_string()))
            .collect();
        let mut masters = Vec::new();
        for master in bound {
            masters.push(Some(master.with_initial_masters(initial.clone()).start().await.unwrap()));
        }
        let addresses = masters.iter().flatten().map(MasterHandle::api_address).collect();
        let cluster = Self { masters, addresses, _folders: folders };
        cluster.leader().await;
        cluster
    }

    fn running(&self) -> impl Iterator<Item = (usize, &MasterHandle)> {
        self.masters.iter().enumerate().filter_map(|(index, master)| Some((index, master.as_ref()?)))
    }

    /// The master that leads, once all that run agree, and know where everybody's API is.
    pub async fn leader(&self) -> usize {
        until("a leader that all agree on", async || {
            let mut leaders = Vec::new();
            for (index, master) in self.running() {
                let status = master.store().status();
                let announced = status.members.iter().all(|member| !member.api_address.is_empty());
                let formed = master.store().snapshot().cluster_id().is_some();
                if status.leader.is_none() || !announced || !formed {
                    return None;
                }
                if master.store().leadership().borrow().is_self {
                    leaders.push(index);
                }
            }
            (leaders.len() == 1).then(|| leaders[0])
        })
        .await
    }

    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        self.running().map(|(index, _)| index).find(|index| *index != leader).unwrap()
    }

    pub fn address(&self, index: usize) -> SocketAddr {
        self.addresses[index]
    }

    pub fn master(&self, index: usize) -> &MasterHandle {
        self.masters[index].as_ref().unwrap()
    }

    pub fn channel(&self, index: usize) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.addresses[index])).unwrap().connect_lazy()
    }

    pub fn services(&self, index: usize) -> ServiceServiceClient<Channel> {
        ServiceServiceClient::new(self.channel(index))
    }

    pub fn instances(&self, index: usize) -> InstanceServiceClient<Channel> {
        InstanceServiceClient::new(self.channel(index))
    }

    pub fn nodes(&self, index: usize) -> NodeServiceClient<Channel> {
        NodeServiceClient::new(self.channel(index))
    }

    pub fn events(&self, index: usize) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel(index))
    }

    pub fn cluster(&self, index: usize) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel(index))
    }

    pub fn autoscale(&self, index: usize) -> AutoscaleServiceClient<Channel> {
        AutoscaleServiceClient::new(self.channel(index))
    }

    pub fn balance(&self, index: usize) -> BalanceServiceClient<Channel> {
        BalanceServiceClient::new(self.channel(index))
    }

    pub fn usage(&self, index: usize) -> UsageServiceClient<Channel> {
        UsageServiceClient::new(self.channel(index))
    }

    /// Creates or updates a service.
    pub async fn apply(&self, index: usize, spec: &ServiceSpec) -> v1::ApplyServiceResponse {
        self.services(index).apply_service(apply_request(spec)).await.unwrap().into_inner()
    }

    /// Instances of a service as the master at `index` has them.
    pub async fn instances_of(&self, index: usize, service: &str) -> Vec<v1::Instance> {
        let request =
            v1::ListInstancesRequest { service: service.to_owned(), page_size: 1000, ..Default::default() };
        self.instances(index).list_instances(request).await.unwrap().into_inner().instances
    }

    /// Ends a master without handing anything on.
    pub async fn halt(&mut self, index: usize) {
        self.masters[index].take().unwrap().halt().await;
    }

    /// Ends a master as a signal would.
    pub async fn stop_one(&mut self, index: usize) {
        self.masters[index].take().unwrap().stop().await;
    }

    pub async fn stop(self) {
        let halting = self.masters.into_iter().flatten().map(MasterHandle::halt);
        soon("all masters end", futures_util::future::join_all(halting)).await;
    }
}

pub fn apply_request(spec: &ServiceSpec) -> v1::ApplyServiceRequest {
    v1::ApplyServiceRequest { spec: Some(spec.into()), ..Default::default() }
}

/// Code and reason of an error.
pub fn reason(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info();
    (status.code(), info.map(|info| info.reason).unwrap_or_default())
}

pub fn details(status: &Status) -> ErrorDetails {
    status.get_error_details()
}

/// A value of the ErrorInfo's metadata.
pub fn metadata(status: &Status, key: &str) -> String {
    let info = status.get_details_error_info().expect("every error has an ErrorInfo");
    assert_eq!(info.domain, "skein.io");
    info.metadata.get(key).cloned().unwrap_or_default()
}
