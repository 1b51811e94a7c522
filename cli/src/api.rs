//! The calls of the API that commands make, each typed and repeated as its kind allows.
//!
//! Invariant: one intended write has one fresh `request_id`, however often it is sent; lists are
//! read page by page to their end.

use std::time::Duration;

use skein_proto::{
    MAX_MESSAGE_BYTES,
    convert::duration_to_wire,
    v1::{
        self, ApplyServiceRequest, ApplyServiceResponse, Consistency, Event, GetStatusResponse, Instance,
        Node, Service, ServiceSpec, balance_service_client::BalanceServiceClient,
        cluster_service_client::ClusterServiceClient, config_service_client::ConfigServiceClient,
        event_service_client::EventServiceClient, instance_service_client::InstanceServiceClient,
        node_service_client::NodeServiceClient, service_service_client::ServiceServiceClient,
        usage_service_client::UsageServiceClient,
    },
};
use tonic::transport::Channel;

use crate::{
    failure::Failure,
    masters::{Masters, Repeat},
};

/// The most that a page may hold.
const PAGE: u32 = 1000;

pub struct Api {
    pub masters: Masters,
    consistency: i32,
}

macro_rules! clients {
    ($($function:ident $client:ident),*) => {
        $(pub fn $function(channel: Channel) -> $client<Channel> {
            $client::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
        })*
    };
}
clients!(
    services ServiceServiceClient, instances InstanceServiceClient, nodes NodeServiceClient,
    balance BalanceServiceClient, cluster ClusterServiceClient, configs ConfigServiceClient, events EventServiceClient, usage UsageServiceClient
);

/// One call: the request is cloned for every attempt, so it stays the same.
macro_rules! call {
    ($api:expr, $repeat:expr, $client:ident.$method:ident($request:expr)) => {{
        let request = $request;
        $api.masters
            .call($repeat, |channel| {
                let request = request.clone();
                async move { $client(channel).$method(request).await }
            })
            .await
    }};
}

/// All pages of a list.
macro_rules! pages {
    ($api:expr, $client:ident.$method:ident($request:expr), $items:ident) => {{
        let mut request = $request;
        let mut found = Vec::new();
        loop {
            let page = call!($api, Repeat::Read, $client.$method(request.clone()))?;
            found.extend(page.$items);
            if page.next_page_token.is_empty() {
                break Ok(found);
            }
            request.page_token = page.next_page_token;
        }
    }};
}

/// Unique per intended write.
fn request_id() -> String {
    format!("skein-{:032x}", rand::random::<u128>())
}

fn missing(what: &str) -> Failure {
    Failure::Failed(format!("the master's answer has no {what}"))
}

impl Api {
    pub fn new(masters: Masters, stale: bool) -> Self {
        let consistency = if stale { Consistency::Stale } else { Consistency::Linearizable };
        Self { masters, consistency: consistency.into() }
    }

    pub async fn apply(
        &self,
        spec: ServiceSpec,
        validate_only: bool,
    ) -> Result<ApplyServiceResponse, Failure> {
        let request = ApplyServiceRequest {
            spec: Some(spec),
            request_id: request_id(),
            validate_only,
            ..Default::default()
        };
        call!(self, Repeat::Write, services.apply_service(request))
    }

    /// What applying these and removing those (by id or name) would do to instances.
    pub async fn plan(
        &self,
        specs: Vec<ServiceSpec>,
        remove: Vec<String>,
        plan_etag: &str,
    ) -> Result<v1::PlanServicesResponse, Failure> {
        let request = v1::PlanServicesRequest { specs, remove, plan_etag: plan_etag.to_owned() };
        call!(self, Repeat::Read, services.plan_services(request))
    }

    /// Applies it to the service as it was at `etag` (empty = as it is).
    pub async fn apply_at(&self, spec: ServiceSpec, etag: &str) -> Result<ApplyServiceResponse, Failure> {
        let request = ApplyServiceRequest {
            spec: Some(spec),
            etag: etag.to_owned(),
            request_id: request_id(),
            ..Default::default()
        };
        call!(self, Repeat::Write, services.apply_service(request))
    }

    /// Replaces the spec, unless the service has changed since `etag`.
    pub async fn update(&self, service: &str, spec: ServiceSpec, etag: &str) -> Result<Service, Failure> {
        let request = v1::UpdateServiceRequest {
            service: service.to_owned(),
            spec: Some(spec),
            etag: etag.to_owned(),
            request_id: request_id(),
            ..Default::default()
        };
        call!(self, Repeat::Write, services.update_service(request))?
            .service
            .ok_or_else(|| missing("service"))
    }

    /// `to` is the generation to go back to; 0 = the one before.
    pub async fn control_rollout(
        &self,
        service: &str,
        control: v1::RolloutControl,
        to: u64,
    ) -> Result<Service, Failure> {
        let request = v1::ControlRolloutRequest {
            service: service.to_owned(),
            control: control.into(),
            to_generation: to,
            request_id: request_id(),
            ..Default::default()
        };
        call!(self, Repeat::Write, services.control_rollout(request))?
            .service
            .ok_or_else(|| missing("service"))
    }

    /// Runs a job now; the run.
    pub async fn run_job(&self, service: &str) -> Result<Service, Failure> {
        let request =
            v1::RunJobRequest { service: service.to_owned(), request_id: request_id(), ..Default::default() };
        call!(self, Repeat::Write, services.run_job(request))?.run.ok_or_else(|| missing("run"))
    }

    pub async fn control_schedule(
        &self,
        service: &str,
        control: v1::ScheduleControl,
    ) -> Result<Service, Failure> {
        let request = v1::ControlScheduleRequest {
            service: service.to_owned(),
            control: control.into(),
            request_id: request_id(),
            ..Default::default()
        };
        call!(self, Repeat::Write, services.control_schedule(request))?
            .service
            .ok_or_else(|| missing("service"))
    }

    /// Runs that the schedule of this job made.
    pub async fn runs(&self, job: &str) -> Result<Vec<Service>, Failure> {
        let request = v1::ListServicesRequest {
            page_size: PAGE,
            consistency: self.consistency,
            runs_of: job.to_owned(),
            ..Default::default()
        };
        pages!(self, services.list_services(request), services)
    }

    /// The present one first.
    pub async fn generations(&self, service: &str) -> Result<Vec<v1::ServiceGeneration>, Failure> {
        let request =
            v1::ListServiceGenerationsRequest { service: service.to_owned(), consistency: self.consistency };
        Ok(call!(self, Repeat::Read, services.list_service_generations(request))?.generations)
    }

    pub async fn service(&self, service: &str) -> Result<Service, Failure> {
        let request = v1::GetServiceRequest { service: service.to_owned(), consistency: self.consistency };
        call!(self, Repeat::Read, services.get_service(request))?.service.ok_or_else(|| missing("service"))
    }

    /// Services with all these labels; an empty value matches any.
    pub async fn services(&self, labels: &[(&str, &str)]) -> Result<Vec<Service>, Failure> {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = v1::ListServicesRequest {
            page_size: PAGE,
            consistency: self.consistency,
            labels,
            ..Default::default()
        };
        pages!(self, services.list_services(request), services)
    }

    pub async fn scale(&self, service: &str, replicas: u32) -> Result<Service, Failure> {
        let request = v1::ScaleServiceRequest {
            service: service.to_owned(),
            replicas: Some(replicas),
            request_id: request_id(),
            ..Default::default()
        };
        call!(self, Repeat::Write, services.scale_service(request))?.service.ok_or_else(|| missing("service"))
    }

    pub async fn delete_service(&self, service: &str) -> Result<Service, Failure> {
        let request = v1::DeleteServiceRequest {
            service: service.to_owned(),
            request_id: request_id(),
            ..Default::default()
        };
        call!(self, Repeat::Write, services.delete_service(request))?
            .service
            .ok_or_else(|| missing("service"))
    }

    pub async fn create_config(&self, spec: v1::ConfigSpec) -> Result<v1::Config, Failure> {
        let request =
            v1::CreateConfigRequest { spec: Some(spec), request_id: request_id(), ..Default::default() };
        call!(self, Repeat::Write, configs.create_config(request))?.config.ok_or_else(|| missing("config"))
    }

    /// With its content.
    pub async fn config(&self, config: &str) -> Result<v1::Config, Failure> {
        let request = v1::GetConfigRequest { config: config.to_owned(), consistency: self.consistency };
        call!(self, Repeat::Read, configs.get_config(request))?.config.ok_or_else(|| missing("config"))
    }

    /// Without their contents.
    pub async fn configs(&self) -> Result<Vec<v1::Config>, Failure> {
        let request =
            v1::ListConfigsRequest { page_size: PAGE, consistency: self.consistency, ..Default::default() };
        pages!(self, configs.list_configs(request), configs)
    }

    pub async fn delete_config(&self, config: &str) -> Result<(), Failure> {
        let request = v1::DeleteConfigRequest {
            config: config.to_owned(),
            request_id: request_id(),
            ..Default::default()
        };
        call!(self, Repeat::Write, configs.delete_config(request)).map(drop)
    }

    pub async fn instance(&self, instance: &str) -> Result<Instance, Failure> {
        let request = v1::GetInstanceRequest { instance: instance.to_owned(), consistency: self.consistency };
        call!(self, Repeat::Read, instances.get_instance(request))?
            .instance
            .ok_or_else(|| missing("instance"))
    }

    /// What happened to it, the oldest first.
    pub async fn instance_events(&self, instance: &str) -> Result<Vec<v1::InstanceEvent>, Failure> {
        let request =
            v1::ListInstanceEventsRequest { instance: instance.to_owned(), consistency: self.consistency };
        Ok(call!(self, Repeat::Read, instances.list_instance_events(request))?.events)
    }

    /// By id or name; with at most so many of the best nodes.
    pub async fn explain(&self, instance: &str, nodes: u32) -> Result<v1::ExplainResponse, Failure> {
        let request =
            v1::ExplainRequest { instance: instance.to_owned(), nodes, consistency: self.consistency };
        Ok(call!(self, Repeat::Read, instances.explain(request))?)
    }

    /// Of a service and on a node, each by id or name; empty = all.
    pub async fn instances(&self, service: &str, node: &str) -> Result<Vec<Instance>, Failure> {
        let request = v1::ListInstancesRequest {
            service: service.to_owned(),
            node: node.to_owned(),
            page_size: PAGE,
            consistency: self.consistency,
            ..Default::default()
        };
        pages!(self, instances.list_instances(request), instances)
    }

    pub async fn node(&self, node: &str) -> Result<Node, Failure> {
        let request = v1::GetNodeRequest { node: node.to_owned(), consistency: self.consistency };
        call!(self, Repeat::Read, nodes.get_node(request))?.node.ok_or_else(|| missing("node"))
    }

    pub async fn nodes(&self) -> Result<Vec<Node>, Failure> {
        let request =
            v1::ListNodesRequest { page_size: PAGE, consistency: self.consistency, ..Default::default() };
        pages!(self, nodes.list_nodes(request), nodes)
    }

    pub async fn set_availability(
        &self,
        node: &str,
        availability: v1::Availability,
        drain_within: Option<Duration>,
    ) -> Result<Node, Failure> {
        let request = v1::UpdateNodeRequest {
            node: node.to_owned(),
            availability: availability.into(),
            drain_within: drain_within.map(duration_to_wire),
            request_id: request_id(),
            ..Default::default()
        };
        call!(self, Repeat::Write, nodes.update_node(request))?.node.ok_or_else(|| missing("node"))
    }

    /// Replaces all labels set through the API, unless the node has changed since `etag`.
    pub async fn set_labels(
        &self,
        node: &Node,
        labels: std::collections::HashMap<String, String>,
    ) -> Result<Node, Failure> {
        let request = v1::UpdateNodeRequest {
            node: node.id.clone(),
            labels: Some(v1::NodeLabels { labels }),
            etag: node.etag.clone(),
            request_id: request_id(),
            ..Default::default()
        };
        call!(self, Repeat::Write, nodes.update_node(request))?.node.ok_or_else(|| missing("node"))
    }

    pub async fn delete_node(&self, node: &str, force: bool) -> Result<(), Failure> {
        let request = v1::DeleteNodeRequest {
            node: node.to_owned(),
            force,
            request_id: request_id(),
            ..Default::default()
        };
        call!(self, Repeat::Write, nodes.delete_node(request)).map(|_| ())
    }

    /// The newest `limit` events about a subject (empty = all), the oldest of them first.
    pub async fn events(&self, subject: &str, limit: usize) -> Result<Vec<Event>, Failure> {
        let mut request = v1::ListEventsRequest {
            subject: subject.to_owned(),
            page_size: u32::try_from(limit).unwrap_or(PAGE).clamp(1, PAGE),
            consistency: self.consistency,
            ..Default::default()
        };
        let mut found = Vec::new();
        while found.len() < limit {
            let page = call!(self, Repeat::Read, events.list_events(request.clone()))?;
            found.extend(page.events);
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        found.truncate(limit);
        found.reverse();
        Ok(found)
    }

    pub async fn node_usage(&self) -> Result<Vec<v1::NodeUsage>, Failure> {
        let request = v1::ListNodeUsageRequest {};
        Ok(call!(self, Repeat::Read, usage.list_node_usage(request))?.nodes)
    }

    pub async fn instance_usage(&self, service: &str) -> Result<Vec<v1::InstanceUsage>, Failure> {
        let request = v1::ListInstanceUsageRequest { service: service.to_owned() };
        Ok(call!(self, Repeat::Read, usage.list_instance_usage(request))?.instances)
    }

    pub async fn balance(
        &self,
        service: &str,
        window: Duration,
        by_node: bool,
    ) -> Result<Vec<v1::PortBalance>, Failure> {
        let window = Some(duration_to_wire(window));
        let request = v1::GetBalanceRequest { service: service.to_owned(), window, by_node };
        Ok(call!(self, Repeat::Read, balance.get_balance(request))?.ports)
    }

    pub async fn status(&self) -> Result<GetStatusResponse, Failure> {
        call!(self, Repeat::Read, cluster.get_status(v1::GetStatusRequest {}))
    }

    pub async fn cluster_config(&self) -> Result<v1::GetClusterConfigResponse, Failure> {
        let request = v1::GetClusterConfigRequest { consistency: self.consistency };
        call!(self, Repeat::Read, cluster.get_cluster_config(request))
    }

    /// Replaces all settings, unless they have changed since `etag`.
    pub async fn set_cluster_config(
        &self,
        config: v1::ClusterConfig,
        etag: &str,
    ) -> Result<v1::UpdateClusterConfigResponse, Failure> {
        let request = v1::UpdateClusterConfigRequest {
            config: Some(config),
            etag: etag.to_owned(),
            request_id: request_id(),
            ..Default::default()
        };
        call!(self, Repeat::Write, cluster.update_cluster_config(request))
    }

    /// Of one service, by id or name; empty = all.
    pub async fn rebalance(
        &self,
        service: &str,
        goal: v1::RebalanceGoal,
        dry_run: bool,
    ) -> Result<v1::RebalanceResponse, Failure> {
        let request = v1::RebalanceRequest {
            dry_run,
            service: service.to_owned(),
            goal: goal.into(),
            request_id: request_id(),
        };
        call!(self, Repeat::Write, cluster.rebalance(request))
    }

    /// Whether there was one under way.
    pub async fn stop_rebalance(&self) -> Result<bool, Failure> {
        let request = v1::StopRebalanceRequest { request_id: request_id() };
        Ok(call!(self, Repeat::Write, cluster.stop_rebalance(request))?.stopped)
    }

    pub async fn add_master(&self, request: v1::AddMasterRequest) -> Result<Vec<v1::Member>, Failure> {
        Ok(call!(self, Repeat::WhenNotDone, cluster.add_master(request))?.members)
    }

    pub async fn remove_master(&self, name: &str) -> Result<Vec<v1::Member>, Failure> {
        let request = v1::RemoveMasterRequest { name: name.to_owned() };
        Ok(call!(self, Repeat::WhenNotDone, cluster.remove_master(request))?.members)
    }

    pub async fn transfer_leadership(&self, to: &str) -> Result<String, Failure> {
        let request = v1::TransferLeadershipRequest { to: to.to_owned() };
        Ok(call!(self, Repeat::WhenNotDone, cluster.transfer_leadership(request))?.leader)
    }
}
