//! A client of the API that does what a good client does: it tries the masters in turn, and
//! repeats a write under one `request_id` until it knows the outcome.
//!
//! Invariant: a write that returned `Ok` was acknowledged; one intended write has one
//! `request_id`, however often and to whomever it is sent.
//! Deliberately not here: watching (`watch`), the Compose way in (`skein`, through `process`).

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use skein_proto::v1::{
    self, Instance, Node, Service, ServiceSpec, cluster_service_client::ClusterServiceClient,
    event_service_client::EventServiceClient, instance_service_client::InstanceServiceClient,
    node_service_client::NodeServiceClient, service_service_client::ServiceServiceClient,
};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

/// Of one call; a master that is stopped (SIGSTOP) does not answer at all.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a call is repeated: an election and a half.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(50);
const PAGE: u32 = 1000;

/// `call` with a method of a generated client, repeated with the same request.
macro_rules! ask {
    ($client:ident, $stub:ident::$method:ident, $request:ident) => {
        $client
            .call(|channel| {
                let request = $request.clone();
                async move { $stub::new(channel).$method(request).await }
            })
            .await
    };
}

/// All masters of one cluster.
#[derive(Debug)]
pub struct Client {
    masters: Vec<Channel>,
    /// The master that answered last.
    current: AtomicUsize,
    patience: Duration,
    run: u64,
    requests: AtomicU64,
}

impl Client {
    /// Connects when it is first used.
    ///
    /// # Panics
    /// When an address is not `host:port`.
    #[must_use]
    pub fn new<A: AsRef<str>>(addresses: impl IntoIterator<Item = A>) -> Self {
        let masters: Vec<_> = addresses.into_iter().map(|address| channel(address.as_ref())).collect();
        assert!(!masters.is_empty(), "a client needs masters");
        Self {
            masters,
            current: AtomicUsize::new(0),
            patience: PATIENCE,
            run: rand::random(),
            requests: AtomicU64::new(0),
        }
    }

    /// Repeats for this long; zero = every master is asked at most once.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The connection to one master, for tests that ask exactly one, exactly once.
    #[must_use]
    pub fn master(&self, index: usize) -> Channel {
        self.masters[index].clone()
    }

    #[must_use]
    pub fn services(&self, master: usize) -> ServiceServiceClient<Channel> {
        ServiceServiceClient::new(self.master(master))
    }

    #[must_use]
    pub fn instances_of(&self, master: usize) -> InstanceServiceClient<Channel> {
        InstanceServiceClient::new(self.master(master))
    }

    #[must_use]
    pub fn cluster(&self, master: usize) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.master(master))
    }

    /// An id that no other write of any run has.
    #[must_use]
    pub fn request_id(&self) -> String {
        format!("test-{:016x}-{}", self.run, self.requests.fetch_add(1, Ordering::Relaxed))
    }

    /// Repeats `call` against the masters in turn while the answer may change by itself.
    ///
    /// # Errors
    /// The first answer that will not change, or the last one when the patience is over.
    pub async fn call<T, F>(&self, mut call: impl FnMut(Channel) -> F) -> Result<T, Status>
    where
        F: Future<Output = Answer<T>> + Send,
    {
        let start = Instant::now();
        let mut tried = 0;
        loop {
            let index = self.current.load(Ordering::Relaxed) % self.masters.len();
            match call(self.master(index)).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) if !may_be_repeated(&status) => return Err(status),
                Err(status) => {
                    tried += 1;
                    self.current.store(index + 1, Ordering::Relaxed);
                    if tried >= self.masters.len() && start.elapsed() >= self.patience {
                        return Err(status);
                    }
                    tokio::time::sleep(PAUSE).await; // polls: the masters, until one answers
                }
            }
        }
    }

    /// # Errors
    /// As [`Client::call`].
    pub async fn apply(&self, spec: impl Into<ServiceSpec>) -> Result<Service, Status> {
        let request = v1::ApplyServiceRequest {
            spec: Some(spec.into()),
            request_id: self.request_id(),
            ..v1::ApplyServiceRequest::default()
        };
        let answer = ask!(self, ServiceServiceClient::apply_service, request)?;
        answer.service.ok_or_else(|| absent("service"))
    }

    /// # Errors
    /// As [`Client::call`].
    pub async fn scale(&self, service: &str, replicas: u32) -> Result<Service, Status> {
        let request = v1::ScaleServiceRequest {
            service: service.to_owned(),
            replicas: Some(replicas),
            request_id: self.request_id(),
            ..v1::ScaleServiceRequest::default()
        };
        let answer = ask!(self, ServiceServiceClient::scale_service, request)?;
        answer.service.ok_or_else(|| absent("service"))
    }

    /// A user's word on the service's rollout.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn control(&self, service: &str, control: v1::RolloutControl) -> Result<Service, Status> {
        let request = v1::ControlRolloutRequest {
            service: service.to_owned(),
            control: control.into(),
            request_id: self.request_id(),
            ..Default::default()
        };
        let answer = ask!(self, ServiceServiceClient::control_rollout, request)?;
        answer.service.ok_or_else(|| absent("service"))
    }

    /// # Errors
    /// As [`Client::call`].
    pub async fn delete(&self, service: &str) -> Result<(), Status> {
        let request = v1::DeleteServiceRequest {
            service: service.to_owned(),
            request_id: self.request_id(),
            ..v1::DeleteServiceRequest::default()
        };
        ask!(self, ServiceServiceClient::delete_service, request).map(drop)
    }

    /// # Errors
    /// As [`Client::call`].
    pub async fn service(&self, service: &str) -> Result<Service, Status> {
        let request =
            v1::GetServiceRequest { service: service.to_owned(), ..v1::GetServiceRequest::default() };
        let answer = ask!(self, ServiceServiceClient::get_service, request)?;
        answer.service.ok_or_else(|| absent("service"))
    }

    /// The runs of a job with a schedule that are kept, by their due time.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn runs(&self, job: &str) -> Result<Vec<Service>, Status> {
        let request =
            v1::ListServicesRequest { page_size: PAGE, runs_of: job.to_owned(), ..Default::default() };
        let mut runs = ask!(self, ServiceServiceClient::list_services, request)?.services;
        runs.sort_by_key(|run| run.scheduled_for.map(|at| (at.seconds, at.nanos)));
        Ok(runs)
    }

    /// All instances of a service, also those that ended.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn instances(&self, service: &str) -> Result<Vec<Instance>, Status> {
        let mut request = v1::ListInstancesRequest {
            service: service.to_owned(),
            page_size: PAGE,
            ..v1::ListInstancesRequest::default()
        };
        let mut all = Vec::new();
        loop {
            let page = ask!(self, InstanceServiceClient::list_instances, request)?;
            all.extend(page.instances);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// # Errors
    /// As [`Client::call`].
    pub async fn nodes(&self) -> Result<Vec<Node>, Status> {
        let request = v1::ListNodesRequest { page_size: PAGE, ..v1::ListNodesRequest::default() };
        let answer = ask!(self, NodeServiceClient::list_nodes, request)?;
        Ok(answer.nodes)
    }

    /// # Errors
    /// As [`Client::call`].
    pub async fn set_availability(&self, node: &str, availability: v1::Availability) -> Result<Node, Status> {
        let request = v1::UpdateNodeRequest {
            node: node.to_owned(),
            availability: availability.into(),
            request_id: self.request_id(),
            ..v1::UpdateNodeRequest::default()
        };
        let answer = ask!(self, NodeServiceClient::update_node, request)?;
        answer.node.ok_or_else(|| absent("node"))
    }

    /// What applying these would do.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn plan(
        &self,
        specs: Vec<ServiceSpec>,
        plan_etag: &str,
    ) -> Result<v1::PlanServicesResponse, Status> {
        let plan_etag = plan_etag.to_owned();
        let request = v1::PlanServicesRequest { specs, plan_etag, ..v1::PlanServicesRequest::default() };
        ask!(self, ServiceServiceClient::plan_services, request)
    }

    /// Begins a rebalancing of everything, or only tells its moves.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn rebalance(&self, dry_run: bool) -> Result<v1::RebalanceResponse, Status> {
        let request = v1::RebalanceRequest {
            dry_run,
            request_id: self.request_id(),
            ..v1::RebalanceRequest::default()
        };
        ask!(self, ClusterServiceClient::rebalance, request)
    }

    /// # Errors
    /// As [`Client::call`].
    pub async fn cluster_config(&self) -> Result<v1::GetClusterConfigResponse, Status> {
        let request = v1::GetClusterConfigRequest::default();
        ask!(self, ClusterServiceClient::get_cluster_config, request)
    }

    /// Replaces the settings.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn configure(
        &self,
        config: v1::ClusterConfig,
        etag: &str,
    ) -> Result<v1::UpdateClusterConfigResponse, Status> {
        let request = v1::UpdateClusterConfigRequest {
            config: Some(config),
            etag: etag.to_owned(),
            request_id: self.request_id(),
            ..v1::UpdateClusterConfigRequest::default()
        };
        ask!(self, ClusterServiceClient::update_cluster_config, request)
    }

    /// The newest events first, for the text of a failure.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn events(&self) -> Result<Vec<v1::Event>, Status> {
        let request = v1::ListEventsRequest { page_size: PAGE, ..v1::ListEventsRequest::default() };
        let answer = ask!(self, EventServiceClient::list_events, request)?;
        Ok(answer.events)
    }

    /// What one master says of the control plane.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self, master: usize) -> Result<v1::GetStatusResponse, Status> {
        Ok(self.cluster(master).get_status(v1::GetStatusRequest {}).await?.into_inner())
    }
}

/// What a call of the generated clients answers.
pub type Answer<T> = Result<Response<T>, Status>;

fn channel(address: &str) -> Channel {
    #[allow(clippy::expect_used)] // the harness chose the address
    Endpoint::from_shared(format!("http://{address}"))
        .expect("an address")
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(CALL_TIMEOUT)
        .http2_keep_alive_interval(CALL_TIMEOUT)
        .keep_alive_timeout(CALL_TIMEOUT)
        .connect_lazy()
}

fn absent(field: &str) -> Status {
    Status::internal(format!("the answer has no {field}"))
}

/// The stable reason of an error, e.g. `NO_LEADER`.
#[must_use]
pub fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

/// Asking again, perhaps somebody else, may give another answer.
#[must_use]
pub fn may_be_repeated(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => true,
        // Either the outcome is not known, or the connection broke in the middle.
        Code::Unknown => true,
        Code::Internal => status.message().contains("h2 ") || status.message().contains("transport"),
        _ => false,
    }
}
