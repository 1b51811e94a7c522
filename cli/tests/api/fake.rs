//! A master that says what a test tells it to, over real gRPC on a port of its own.
//!
//! Invariant: every request is recorded before it is answered. What no test has told it, it
//! refuses with UNIMPLEMENTED.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use skein_proto::v1::{
    self,
    balance_service_server::{BalanceService, BalanceServiceServer},
    cluster_service_server::{ClusterService, ClusterServiceServer},
    event_service_server::{EventService, EventServiceServer},
    instance_service_server::{InstanceService, InstanceServiceServer},
    node_service_server::{NodeService, NodeServiceServer},
    service_service_server::{ServiceService, ServiceServiceServer},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{
    Stream,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};
use tonic_types::{ErrorDetails, StatusExt as _};

type Answer<T> = Result<Response<T>, Status>;
type Words<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The cluster as all fake masters see it, and what has been asked.
#[derive(Default)]
pub struct World {
    /// By name.
    pub services: HashMap<String, v1::Service>,
    pub instances: Vec<v1::Instance>,
    pub nodes: Vec<v1::Node>,
    /// Of any service.
    pub generations: Vec<v1::ServiceGeneration>,
    pub events: Vec<v1::Event>,
    pub status: v1::GetStatusResponse,
    pub config: v1::GetClusterConfigResponse,
    pub rebalance: v1::RebalanceResponse,
    pub plan: v1::PlanServicesResponse,
    pub balance: Vec<v1::PortBalance>,
    /// What the next calls of a method are refused with, before it works.
    pub refusals: HashMap<&'static str, VecDeque<Status>>,
    /// Scripts of the next watches of instances; without one a watch shows the instances and stays.
    pub instance_watches: VecDeque<Vec<Result<v1::WatchInstancesResponse, Status>>>,
    pub logs: VecDeque<Vec<Result<v1::StreamLogsResponse, Status>>>,
    pub event_watches: VecDeque<Vec<Result<v1::WatchEventsResponse, Status>>>,
    pub calls: Vec<Call>,
}

/// One request, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub master: String,
    pub method: &'static str,
    /// `request_id`, `after_revision` or whatever tells one call from another.
    pub key: String,
}

#[derive(Clone)]
pub struct Fake {
    name: String,
    world: Arc<Mutex<World>>,
}

/// Serves on a free port of the loopback until the test ends; its address.
pub async fn serve(name: &str, world: &Arc<Mutex<World>>) -> String {
    let fake = Fake { name: name.to_owned(), world: Arc::clone(world) };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let server = Server::builder()
        .add_service(ServiceServiceServer::new(fake.clone()))
        .add_service(InstanceServiceServer::new(fake.clone()))
        .add_service(NodeServiceServer::new(fake.clone()))
        .add_service(EventServiceServer::new(fake.clone()))
        .add_service(BalanceServiceServer::new(fake.clone()))
        .add_service(ClusterServiceServer::new(fake))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    address
}

/// A status with an `ErrorInfo`.
pub fn status(code: Code, reason: &str, message: &str) -> Status {
    Status::with_error_details(
        code,
        message,
        ErrorDetails::with_error_info(reason, "skein.io", HashMap::new()),
    )
}

/// INVALID_ARGUMENT with these fields.
pub fn violations(fields: &[(&str, &str)]) -> Status {
    let mut details = ErrorDetails::new();
    for (field, description) in fields {
        details.add_bad_request_violation(*field, *description);
    }
    Status::with_error_details(Code::InvalidArgument, "the spec is invalid", details)
}

impl Fake {
    fn call(&self, method: &'static str, key: impl ToString) -> Result<MutexGuard<'_, World>, Status> {
        let mut world = self.world.lock().expect("no test panicked with the lock");
        world.calls.push(Call { master: self.name.clone(), method, key: key.to_string() });
        match world.refusals.get_mut(method).and_then(VecDeque::pop_front) {
            Some(refusal) => Err(refusal),
            None => Ok(world),
        }
    }
}

impl World {
    pub fn keys(&self, method: &str) -> Vec<&str> {
        self.calls.iter().filter(|call| call.method == method).map(|call| call.key.as_str()).collect()
    }

    pub fn masters_asked(&self, method: &str) -> Vec<&str> {
        self.calls.iter().filter(|call| call.method == method).map(|call| call.master.as_str()).collect()
    }

    fn service(&self, wanted: &str) -> Result<v1::Service, Status> {
        let by_id = self.services.values().find(|service| service.id == wanted);
        let found = self.services.get(wanted).or(by_id).cloned();
        found.ok_or_else(|| status(Code::NotFound, "NOT_FOUND", &format!("there is no service {wanted}")))
    }
}

/// Sends the words, then ends when the last is an error, else stays open.
fn words<T: Send + 'static>(script: Vec<Result<T, Status>>) -> Words<T> {
    let stays = script.last().is_none_or(Result::is_ok);
    let (sender, receiver) = mpsc::channel(script.len() + 1);
    tokio::spawn(async move {
        for word in script {
            if sender.send(word).await.is_err() {
                return;
            }
        }
        if stays {
            sender.closed().await;
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

pub fn snapshot(instance: v1::Instance) -> v1::WatchInstancesResponse {
    v1::WatchInstancesResponse { message: Some(v1::watch_instances_response::Message::Snapshot(instance)) }
}

pub fn synced(revision: u64) -> v1::WatchInstancesResponse {
    v1::WatchInstancesResponse {
        message: Some(v1::watch_instances_response::Message::Synced(v1::Synced { revision })),
    }
}

pub fn changed(revision: u64, instance: v1::Instance) -> v1::WatchInstancesResponse {
    let change = v1::InstanceChange { r#type: v1::ChangeType::Upserted.into(), instance: Some(instance) };
    v1::WatchInstancesResponse {
        message: Some(v1::watch_instances_response::Message::Changes(v1::InstanceChanges {
            revision,
            changes: vec![change],
        })),
    }
}

#[tonic::async_trait]
impl BalanceService for Fake {
    async fn get_balance(&self, request: Request<v1::GetBalanceRequest>) -> Answer<v1::GetBalanceResponse> {
        let request = request.into_inner();
        let window = request.window.unwrap_or_default().seconds;
        let key = format!("{} {window} {}", request.service, request.by_node);
        let ports = self.call("get_balance", key)?.balance.clone();
        Ok(Response::new(v1::GetBalanceResponse { ports }))
    }
}

#[tonic::async_trait]
impl ServiceService for Fake {
    type WatchServicesStream = Words<v1::WatchServicesResponse>;

    async fn get_service(&self, request: Request<v1::GetServiceRequest>) -> Answer<v1::GetServiceResponse> {
        let request = request.into_inner();
        let service = self.call("get_service", &request.service)?.service(&request.service)?;
        Ok(Response::new(v1::GetServiceResponse { service: Some(service) }))
    }

    async fn list_services(
        &self,
        request: Request<v1::ListServicesRequest>,
    ) -> Answer<v1::ListServicesResponse> {
        let request = request.into_inner();
        let world = self.call("list_services", &request.page_token)?;
        let matches = |service: &&v1::Service| {
            let labels = service.spec.clone().unwrap_or_default().labels;
            request.labels.iter().all(|(k, v)| labels.get(k).is_some_and(|value| v.is_empty() || value == v))
        };
        let mut services: Vec<v1::Service> = world.services.values().filter(matches).cloned().collect();
        services.sort_by(|a, b| a.id.cmp(&b.id));
        // One a page, so that every test of a list is a test of pages.
        let page: usize = request.page_token.parse().unwrap_or(0);
        let next_page_token = if page + 1 < services.len() { (page + 1).to_string() } else { String::new() };
        let services = services.into_iter().skip(page).take(1).collect();
        Ok(Response::new(v1::ListServicesResponse { services, next_page_token, revision: 1 }))
    }

    async fn plan_services(
        &self,
        request: Request<v1::PlanServicesRequest>,
    ) -> Answer<v1::PlanServicesResponse> {
        let request = request.into_inner();
        let world = self.call("plan_services", &request.plan_etag)?;
        let known = request.specs.iter().filter(|spec| world.services.contains_key(&spec.name));
        Ok(Response::new(v1::PlanServicesResponse {
            etags: known.map(|spec| (spec.name.clone(), "3".to_owned())).collect(),
            ..world.plan.clone()
        }))
    }

    async fn apply_service(
        &self,
        request: Request<v1::ApplyServiceRequest>,
    ) -> Answer<v1::ApplyServiceResponse> {
        let request = request.into_inner();
        let method = if request.validate_only { "validate_service" } else { "apply_service" };
        let mut world = self.call(method, &request.request_id)?;
        let spec = request.spec.unwrap_or_default();
        let known = world.services.contains_key(&spec.name);
        let service = v1::Service {
            id: format!("id-{}", spec.name),
            spec: Some(spec.clone()),
            generation: 1,
            ..Default::default()
        };
        if !request.validate_only {
            world.services.insert(spec.name, service.clone());
        }
        let result = if known { v1::ApplyResult::Updated } else { v1::ApplyResult::Created };
        let never = service.spec.iter().flat_map(|spec| &spec.placement).any(|p| !p.constraints.is_empty());
        let warnings =
            if never { vec!["spec.placement.constraints[0]: no node is it".to_owned()] } else { Vec::new() };
        Ok(Response::new(v1::ApplyServiceResponse {
            service: Some(service),
            result: result.into(),
            warnings,
        }))
    }

    async fn scale_service(
        &self,
        request: Request<v1::ScaleServiceRequest>,
    ) -> Answer<v1::ScaleServiceResponse> {
        let request = request.into_inner();
        let world = self.call("scale_service", &request.request_id)?;
        Ok(Response::new(v1::ScaleServiceResponse { service: Some(world.service(&request.service)?) }))
    }

    async fn delete_service(
        &self,
        request: Request<v1::DeleteServiceRequest>,
    ) -> Answer<v1::DeleteServiceResponse> {
        let request = request.into_inner();
        let mut world = self.call("delete_service", &request.service)?;
        let service = world.service(&request.service)?;
        let name = service.spec.clone().unwrap_or_default().name;
        world.services.remove(&name);
        Ok(Response::new(v1::DeleteServiceResponse { service: Some(service) }))
    }

    async fn control_rollout(
        &self,
        request: Request<v1::ControlRolloutRequest>,
    ) -> Answer<v1::ControlRolloutResponse> {
        let request = request.into_inner();
        let key =
            format!("{} {} {}", request.service, request.control().as_str_name(), request.to_generation);
        let service = self.call("control_rollout", key)?.service(&request.service)?;
        Ok(Response::new(v1::ControlRolloutResponse { service: Some(service) }))
    }

    /// The run is the job itself.
    async fn run_job(&self, request: Request<v1::RunJobRequest>) -> Answer<v1::RunJobResponse> {
        let name = request.into_inner().service;
        let run = self.call("run_job", &name)?.service(&name)?;
        Ok(Response::new(v1::RunJobResponse { run: Some(run) }))
    }

    async fn control_schedule(
        &self,
        request: Request<v1::ControlScheduleRequest>,
    ) -> Answer<v1::ControlScheduleResponse> {
        let request = request.into_inner();
        let key = format!("{} {}", request.service, request.control().as_str_name());
        let service = self.call("control_schedule", key)?.service(&request.service)?;
        Ok(Response::new(v1::ControlScheduleResponse { service: Some(service) }))
    }

    async fn list_service_generations(
        &self,
        request: Request<v1::ListServiceGenerationsRequest>,
    ) -> Answer<v1::ListServiceGenerationsResponse> {
        let name = request.into_inner().service;
        let world = self.call("list_service_generations", &name)?;
        world.service(&name)?;
        Ok(Response::new(v1::ListServiceGenerationsResponse { generations: world.generations.clone() }))
    }

    async fn create_service(
        &self,
        _: Request<v1::CreateServiceRequest>,
    ) -> Answer<v1::CreateServiceResponse> {
        Err(Status::unimplemented("create_service"))
    }

    async fn update_service(
        &self,
        request: Request<v1::UpdateServiceRequest>,
    ) -> Answer<v1::UpdateServiceResponse> {
        let request = request.into_inner();
        let mut world = self.call("update_service", format!("{} etag {}", request.service, request.etag))?;
        let mut service = world.service(&request.service)?;
        let name = service.spec.clone().unwrap_or_default().name;
        service.spec = request.spec;
        world.services.insert(name, service.clone());
        Ok(Response::new(v1::UpdateServiceResponse { service: Some(service), warnings: Vec::new() }))
    }

    async fn watch_services(
        &self,
        _: Request<v1::WatchServicesRequest>,
    ) -> Answer<Self::WatchServicesStream> {
        Err(Status::unimplemented("watch_services"))
    }
}

#[tonic::async_trait]
impl InstanceService for Fake {
    type WatchInstancesStream = Words<v1::WatchInstancesResponse>;
    type StreamLogsStream = Words<v1::StreamLogsResponse>;
    type ExecStream = Words<v1::ExecResponse>;

    /// `web` answers, `gone` loses the connection, others do not run.
    async fn exec(&self, request: Request<Streaming<v1::ExecRequest>>) -> Answer<Self::ExecStream> {
        let first = request.into_inner().message().await?.and_then(|first| first.message);
        let Some(v1::exec_request::Message::Start(start)) = first else {
            return Err(Status::invalid_argument("start"));
        };
        drop(self.call("exec", format!("{:?} {:?}", start.command, start.environment))?);
        use v1::exec_response::Message as Said;
        let said = match start.target.as_str() {
            "web" => {
                let exit = Said::Exit(v1::ExecExit { code: 3 });
                vec![Said::Stdout("out\n".into()), Said::Stderr("err\n".into()), exit]
            }
            "gone" => vec![Said::Stdout("half".into())],
            name => {
                return Err(status(Code::FailedPrecondition, "NOT_RUNNING", &format!("{name} does not run")));
            }
        };
        let started = Said::Started(v1::ExecStarted::default());
        let all = [started].into_iter().chain(said);
        let (sender, answers) = mpsc::channel(8);
        for message in all {
            sender.try_send(Ok(v1::ExecResponse { message: Some(message) })).expect("room");
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn get_instance(
        &self,
        request: Request<v1::GetInstanceRequest>,
    ) -> Answer<v1::GetInstanceResponse> {
        let id = request.into_inner().instance;
        let world = self.call("get_instance", &id)?;
        let instance = world.instances.iter().find(|instance| instance.id == id).cloned();
        let instance =
            instance.ok_or_else(|| status(Code::NotFound, "NOT_FOUND", "there is no such instance"))?;
        Ok(Response::new(v1::GetInstanceResponse { instance: Some(instance) }))
    }

    async fn list_instance_events(
        &self,
        request: Request<v1::ListInstanceEventsRequest>,
    ) -> Answer<v1::ListInstanceEventsResponse> {
        drop(self.call("list_instance_events", request.into_inner().instance)?);
        let step = |attempt, phase: v1::Phase, cause: &str, actor: &str| v1::InstanceEvent {
            revision: 7,
            attempt,
            phase: phase.into(),
            desired: v1::Desired::Run.into(),
            cause: cause.to_owned(),
            actor: actor.to_owned(),
            ..Default::default()
        };
        let events = vec![
            step(1, v1::Phase::Assigned, "", "masters"),
            step(2, v1::Phase::Assigned, "exit code 1", "node n1"),
        ];
        Ok(Response::new(v1::ListInstanceEventsResponse { events }))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::ExplainResponse> {
        let name = request.into_inner().instance;
        drop(self.call("explain", &name)?);
        let filter =
            v1::FilterExplanation { reason: "drained".to_owned(), nodes: 1, examples: vec!["n2".to_owned()] };
        let best = v1::NodeScore { node_name: "n1".to_owned(), resources: -1.25, ..Default::default() };
        Ok(Response::new(v1::ExplainResponse {
            instance_name: name,
            node_name: "n1".to_owned(),
            strategy: v1::Strategy::Spread.into(),
            priority: 50,
            nodes: 2,
            filters: vec![filter],
            best: vec![best],
            ..Default::default()
        }))
    }

    async fn list_instances(
        &self,
        request: Request<v1::ListInstancesRequest>,
    ) -> Answer<v1::ListInstancesResponse> {
        let request = request.into_inner();
        let world = self.call("list_instances", &request.service)?;
        let matches = |instance: &&v1::Instance| {
            request.service.is_empty()
                || [&instance.service_id, &instance.service_name].contains(&&request.service)
        };
        let instances = world.instances.iter().filter(matches).cloned().collect();
        Ok(Response::new(v1::ListInstancesResponse { instances, ..Default::default() }))
    }

    async fn watch_instances(
        &self,
        request: Request<v1::WatchInstancesRequest>,
    ) -> Answer<Self::WatchInstancesStream> {
        let mut world = self.call("watch_instances", request.into_inner().after_revision)?;
        let script = world.instance_watches.pop_front().unwrap_or_else(|| {
            let all = world.instances.iter().cloned().map(|instance| Ok(snapshot(instance)));
            all.chain([Ok(synced(1))]).collect()
        });
        Ok(Response::new(words(script)))
    }

    async fn stream_logs(&self, request: Request<v1::StreamLogsRequest>) -> Answer<Self::StreamLogsStream> {
        let request = request.into_inner();
        let since = request.since.map(|since| since.seconds);
        let mut world = self
            .call("stream_logs", format!("{:?} tail {:?} since {since:?}", request.source, request.tail))?;
        let script = world.logs.pop_front().unwrap_or_default();
        let (sender, receiver) = mpsc::channel(script.len().max(1));
        for word in script {
            sender.try_send(word).expect("room");
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl NodeService for Fake {
    type WatchNodesStream = Words<v1::WatchNodesResponse>;

    async fn get_node(&self, request: Request<v1::GetNodeRequest>) -> Answer<v1::GetNodeResponse> {
        let wanted = request.into_inner().node;
        let world = self.call("get_node", &wanted)?;
        let name = |node: &v1::Node| node.description.clone().unwrap_or_default().name;
        let node = world.nodes.iter().find(|node| node.id == wanted || name(node) == wanted).cloned();
        let node =
            node.ok_or_else(|| status(Code::NotFound, "NOT_FOUND", &format!("there is no node {wanted}")))?;
        Ok(Response::new(v1::GetNodeResponse { node: Some(node) }))
    }

    async fn list_nodes(&self, request: Request<v1::ListNodesRequest>) -> Answer<v1::ListNodesResponse> {
        let world = self.call("list_nodes", request.into_inner().consistency)?;
        Ok(Response::new(v1::ListNodesResponse { nodes: world.nodes.clone(), ..Default::default() }))
    }

    async fn update_node(&self, request: Request<v1::UpdateNodeRequest>) -> Answer<v1::UpdateNodeResponse> {
        let request = request.into_inner();
        let mut labels: Vec<String> =
            request.labels.unwrap_or_default().labels.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        labels.sort();
        let key = format!("{} {} {labels:?} etag {}", request.node, request.availability, request.etag);
        let world = self.call("update_node", key)?;
        Ok(Response::new(v1::UpdateNodeResponse { node: world.nodes.first().cloned() }))
    }

    async fn delete_node(&self, _: Request<v1::DeleteNodeRequest>) -> Answer<v1::DeleteNodeResponse> {
        Err(Status::unimplemented("delete_node"))
    }

    async fn watch_nodes(&self, _: Request<v1::WatchNodesRequest>) -> Answer<Self::WatchNodesStream> {
        Err(Status::unimplemented("watch_nodes"))
    }
}

#[tonic::async_trait]
impl EventService for Fake {
    type WatchEventsStream = Words<v1::WatchEventsResponse>;

    async fn list_events(&self, request: Request<v1::ListEventsRequest>) -> Answer<v1::ListEventsResponse> {
        let world = self.call("list_events", request.into_inner().subject)?;
        let events = world.events.iter().rev().cloned().collect();
        Ok(Response::new(v1::ListEventsResponse { events, ..Default::default() }))
    }

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Answer<Self::WatchEventsStream> {
        let mut world = self.call("watch_events", request.into_inner().after_revision)?;
        Ok(Response::new(words(world.event_watches.pop_front().unwrap_or_default())))
    }
}

#[tonic::async_trait]
impl ClusterService for Fake {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Answer<v1::GetStatusResponse> {
        let world = self.call("get_status", "")?;
        Ok(Response::new(v1::GetStatusResponse { name: self.name.clone(), ..world.status.clone() }))
    }

    async fn add_master(&self, request: Request<v1::AddMasterRequest>) -> Answer<v1::AddMasterResponse> {
        drop(self.call("add_master", request.into_inner().name)?);
        Ok(Response::new(v1::AddMasterResponse::default()))
    }

    async fn remove_master(&self, _: Request<v1::RemoveMasterRequest>) -> Answer<v1::RemoveMasterResponse> {
        Err(Status::unimplemented("remove_master"))
    }

    async fn transfer_leadership(
        &self,
        _: Request<v1::TransferLeadershipRequest>,
    ) -> Answer<v1::TransferLeadershipResponse> {
        Err(Status::unimplemented("transfer_leadership"))
    }

    async fn get_cluster_config(
        &self,
        request: Request<v1::GetClusterConfigRequest>,
    ) -> Answer<v1::GetClusterConfigResponse> {
        let world = self.call("get_cluster_config", request.into_inner().consistency)?;
        Ok(Response::new(world.config.clone()))
    }

    async fn update_cluster_config(
        &self,
        request: Request<v1::UpdateClusterConfigRequest>,
    ) -> Answer<v1::UpdateClusterConfigResponse> {
        let request = request.into_inner();
        let mut world = self.call("update_cluster_config", &request.etag)?;
        let config = request.config;
        world.config.config.clone_from(&config);
        Ok(Response::new(v1::UpdateClusterConfigResponse {
            effective: config.clone(),
            config,
            etag: "2".to_owned(),
        }))
    }

    async fn rebalance(&self, request: Request<v1::RebalanceRequest>) -> Answer<v1::RebalanceResponse> {
        let request = request.into_inner();
        let world = self.call("rebalance", format!("{} {}", request.dry_run, request.service))?;
        Ok(Response::new(world.rebalance.clone()))
    }

    async fn stop_rebalance(
        &self,
        request: Request<v1::StopRebalanceRequest>,
    ) -> Answer<v1::StopRebalanceResponse> {
        drop(self.call("stop_rebalance", request.into_inner().request_id)?);
        Ok(Response::new(v1::StopRebalanceResponse { stopped: true }))
    }
}
