//! ServiceService: decode, call, encode.

use std::{collections::HashMap, sync::Arc};

use skein_common::{Revision, ServiceId, service::ServiceSpec};
use skein_master_core::{
    ClusterState, CommandKind, Outcome, Rejection,
    advice::advice,
    command::ObjectKind,
    state::{Change, Service},
};
use skein_proto::v1::{self, service_service_server::ServiceService, watch_services_response::Message};
use tonic::{Request, Response};

use super::{
    Answer, Api, decode,
    page::PageRequest,
    read, view,
    watch::{Snapshot, Topic, change_type},
    write::{Write, Written},
};
use crate::{
    clock,
    outbox::Delivery,
    status::CallError,
    store::{ChangeBatch, Store},
};

/// Turns an Apply takes when others create and delete the service at the same time.
const MAX_TURNS: u32 = 4;

#[tonic::async_trait]
impl ServiceService for Api {
    async fn create_service(
        &self,
        request: Request<v1::CreateServiceRequest>,
    ) -> Answer<v1::CreateServiceResponse> {
        let (spec, write) = decode::create_service(request.into_inner()).map_err(CallError::from)?;
        let id = ServiceId::from_random(clock::random());
        let written = write.run(&self.store, CommandKind::CreateService { id, spec: spec.clone() }).await?;
        let warnings = advice(&written.state, &spec);
        let mut service = shown(&written)?;
        if write.validate_only {
            service.id.clear();
        }
        Ok(Response::new(v1::CreateServiceResponse { service: Some(service), warnings }))
    }

    async fn get_service(&self, request: Request<v1::GetServiceRequest>) -> Answer<v1::GetServiceResponse> {
        let request = request.into_inner();
        let state = read::state(&self.store, request.consistency).await?;
        let service = read::service(&state, &request.service).map_err(CallError::from)?;
        Ok(Response::new(v1::GetServiceResponse { service: Some(view::service(&state, &service)) }))
    }

    async fn list_services(
        &self,
        request: Request<v1::ListServicesRequest>,
    ) -> Answer<v1::ListServicesResponse> {
        let request = request.into_inner();
        let filter = format!("{}\n{}", request.runs_of, decode::labels(&request.labels));
        let page =
            PageRequest::decode(request.page_size, &request.page_token, &filter).map_err(CallError::from)?;
        let state = read::state(&self.store, request.consistency).await?;
        let owner = match request.runs_of.as_str() {
            "" => None,
            owner => Some(read::service(&state, owner).map_err(CallError::from)?.id),
        };
        let matching = state
            .services()
            .skip_while(|service| page.after.is_some_and(|after| service.id.get() <= after))
            .filter(|service| owner.is_none() || service.owner == owner)
            .filter(|service| has_labels(&service.spec, &request.labels));
        let page = page.cut(matching, |service| service.id.get());
        Ok(Response::new(v1::ListServicesResponse {
            services: page.items.into_iter().map(|service| view::service(&state, service)).collect(),
            next_page_token: page.next_token,
            revision: state.revision().0,
        }))
    }

    async fn update_service(
        &self,
        request: Request<v1::UpdateServiceRequest>,
    ) -> Answer<v1::UpdateServiceResponse> {
        let (reference, spec, expected, write) =
            decode::update_service(request.into_inner()).map_err(CallError::from)?;
        let id = self.service_id(&reference).await?;
        let kind = CommandKind::UpdateService { id, expected, spec: spec.clone() };
        let written = write.run(&self.store, kind).await?;
        let warnings = advice(&written.state, &spec);
        Ok(Response::new(v1::UpdateServiceResponse { service: Some(shown(&written)?), warnings }))
    }

    async fn apply_service(
        &self,
        request: Request<v1::ApplyServiceRequest>,
    ) -> Answer<v1::ApplyServiceResponse> {
        let (spec, expected, write) = decode::apply_service(request.into_inner()).map_err(CallError::from)?;
        let written = apply(&self.store, &spec, expected, &write).await?;
        let service = shown(&written)?;
        let result = apply_result(&service, written.revision).into();
        let warnings = advice(&written.state, &spec);
        Ok(Response::new(v1::ApplyServiceResponse { service: Some(service), result, warnings }))
    }

    async fn plan_services(
        &self,
        request: Request<v1::PlanServicesRequest>,
    ) -> Answer<v1::PlanServicesResponse> {
        Ok(Response::new(self.foresee(request.into_inner()).await?))
    }

    async fn scale_service(
        &self,
        request: Request<v1::ScaleServiceRequest>,
    ) -> Answer<v1::ScaleServiceResponse> {
        let (reference, replicas, expected, write) =
            decode::scale_service(request.into_inner()).map_err(CallError::from)?;
        let id = self.service_id(&reference).await?;
        let written = write.run(&self.store, CommandKind::ScaleService { id, expected, replicas }).await?;
        Ok(Response::new(v1::ScaleServiceResponse { service: Some(shown(&written)?) }))
    }

    async fn control_rollout(
        &self,
        request: Request<v1::ControlRolloutRequest>,
    ) -> Answer<v1::ControlRolloutResponse> {
        let (reference, control, expected, write) =
            decode::control_rollout(request.into_inner()).map_err(CallError::from)?;
        let id = self.service_id(&reference).await?;
        let written = write.run(&self.store, CommandKind::ControlRollout { id, expected, control }).await?;
        Ok(Response::new(v1::ControlRolloutResponse { service: Some(shown(&written)?) }))
    }

    async fn run_job(&self, request: Request<v1::RunJobRequest>) -> Answer<v1::RunJobResponse> {
        let (reference, expected, write) = decode::run_job(request.into_inner()).map_err(CallError::from)?;
        let id = self.service_id(&reference).await?;
        let run = ServiceId::from_random(clock::random());
        let written = write.run(&self.store, CommandKind::RunJob { id, expected, run }).await?;
        let mut run = shown(&written)?;
        if write.validate_only && !run.owner_id.is_empty() {
            run.id.clear();
        }
        Ok(Response::new(v1::RunJobResponse { run: Some(run) }))
    }

    async fn control_schedule(
        &self,
        request: Request<v1::ControlScheduleRequest>,
    ) -> Answer<v1::ControlScheduleResponse> {
        let (reference, suspend, expected, write) =
            decode::control_schedule(request.into_inner()).map_err(CallError::from)?;
        let id = self.service_id(&reference).await?;
        let kind = CommandKind::ControlSchedule { id, expected, suspend };
        let written = write.run(&self.store, kind).await?;
        Ok(Response::new(v1::ControlScheduleResponse { service: Some(shown(&written)?) }))
    }

    async fn list_service_generations(
        &self,
        request: Request<v1::ListServiceGenerationsRequest>,
    ) -> Answer<v1::ListServiceGenerationsResponse> {
        let request = request.into_inner();
        let state = read::state(&self.store, request.consistency).await?;
        let service = read::service(&state, &request.service).map_err(CallError::from)?;
        let generations = view::generations(&state, &service);
        Ok(Response::new(v1::ListServiceGenerationsResponse { generations }))
    }

    async fn delete_service(
        &self,
        request: Request<v1::DeleteServiceRequest>,
    ) -> Answer<v1::DeleteServiceResponse> {
        let (reference, expected, write) =
            decode::delete_service(request.into_inner()).map_err(CallError::from)?;
        let before = match read::find(&self.store, |state| read::service(state, &reference)).await {
            Ok(service) => service,
            Err(error) => return self.deleted_before(&write).ok_or_else(|| error.into()),
        };
        let written = write.run(&self.store, CommandKind::DeleteService { id: before.id, expected }).await?;
        // A service without instances may be gone already.
        let service =
            written.state.service(before.id).cloned().unwrap_or_else(|| deleting(&before, written.revision));
        let service = view::service(&written.state, &service);
        Ok(Response::new(v1::DeleteServiceResponse { service: Some(service) }))
    }

    type WatchServicesStream = Delivery<v1::WatchServicesResponse>;

    async fn watch_services(
        &self,
        request: Request<v1::WatchServicesRequest>,
    ) -> Answer<Self::WatchServicesStream> {
        let request = request.into_inner();
        let topic = ServiceTopic { service: request.service };
        Ok(Response::new(self.watches.start(request.after_revision, topic).await?))
    }
}

impl Api {
    async fn service_id(&self, reference: &str) -> Result<ServiceId, CallError> {
        read::find(&self.store, |state| read::service(state, reference)).await.map(|service| service.id)
    }

    /// The answer to a repeated delete whose service has gone since: nothing but its id is known.
    fn deleted_before(&self, write: &Write) -> Option<Response<v1::DeleteServiceResponse>> {
        let Outcome::Service(id) = write.answered(&self.store.snapshot())? else { return None };
        let service = v1::Service { id: id.to_string(), deleting: true, ..Default::default() };
        Some(Response::new(v1::DeleteServiceResponse { service: Some(service) }))
    }
}

/// Create or update, whichever the state asks for when the command is applied.
async fn apply(
    store: &Store,
    spec: &Arc<ServiceSpec>,
    expected: Option<Revision>,
    write: &Write,
) -> Result<Written, CallError> {
    if expected.is_some() {
        read::find(store, |state| read::service(state, &spec.name)).await?;
    }
    let mut turn = 0;
    loop {
        let kind = match store.snapshot().service_by_name(&spec.name) {
            Some(service) => CommandKind::UpdateService { id: service.id, expected, spec: spec.clone() },
            None => {
                let id = ServiceId::from_random(clock::random());
                CommandKind::CreateService { id, spec: spec.clone() }
            }
        };
        match write.turn(turn).run(store, kind).await {
            Err(CallError::Rejected(rejection)) if is_race(&rejection) && turn < MAX_TURNS => {
                store.linearize().await?;
                turn += 1;
            }
            result => return result,
        }
    }
}

/// Another caller created or deleted the service between our look and our command.
fn is_race(rejection: &Rejection) -> bool {
    matches!(
        rejection,
        Rejection::AlreadyExists { kind: ObjectKind::Service, .. }
            | Rejection::NotFound { kind: ObjectKind::Service, .. }
    )
}

fn apply_result(service: &v1::Service, revision: Revision) -> v1::ApplyResult {
    if service.created_revision == revision.0 {
        v1::ApplyResult::Created
    } else if service.modified_revision >= revision.0 {
        v1::ApplyResult::Updated
    } else {
        v1::ApplyResult::Unchanged
    }
}

/// The service that a command was about, in the state after it.
fn shown(written: &Written) -> Result<v1::Service, CallError> {
    let gone = || Rejection::NotFound { kind: ObjectKind::Service, id: String::new() };
    let id = match &written.outcome {
        Outcome::Service(id) => *id,
        Outcome::Node(_) | Outcome::Config(_) | Outcome::Cluster(_) | Outcome::Done => {
            return Err(gone().into());
        }
    };
    let service = written.state.service(id).ok_or_else(gone)?;
    Ok(view::service(&written.state, service))
}

/// A deleted service as its last reader sees it.
fn deleting(before: &Service, revision: Revision) -> Arc<Service> {
    Arc::new(Service { deleting: true, modified_revision: revision, ..before.clone() })
}

/// An empty value matches any.
fn has_labels(spec: &ServiceSpec, wanted: &HashMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(name, value)| spec.labels.get(name).is_some_and(|has| value.is_empty() || has == value))
}

/// Services: all, or the one with this id or name.
struct ServiceTopic {
    service: String,
}

impl ServiceTopic {
    fn is_about(&self, service: &Service) -> bool {
        self.service.is_empty() || service.spec.name == self.service || service.id.to_string() == self.service
    }
}

impl Topic for ServiceTopic {
    type Message = v1::WatchServicesResponse;

    fn snapshot<'a>(&'a self, state: &'a ClusterState) -> Snapshot<'a, Self::Message> {
        let matching = state.services().filter(|service| self.is_about(service));
        Box::new(matching.map(|service| message(Message::Snapshot(view::service(state, service)))))
    }

    fn changes(&self, state: &ClusterState, batch: &ChangeBatch) -> Option<Self::Message> {
        let changed = batch.changes.iter().filter_map(|change| match change {
            Change::Service { service, deleted } if self.is_about(service) => Some(v1::ServiceChange {
                r#type: change_type(*deleted),
                service: Some(view::service(state, service)),
            }),
            _ => None,
        });
        let changes: Vec<_> = changed.collect();
        let wire = v1::ServiceChanges { revision: batch.revision.0, changes };
        (!wire.changes.is_empty()).then(|| message(Message::Changes(wire)))
    }

    fn synced(&self, revision: Revision) -> Self::Message {
        message(Message::Synced(v1::Synced { revision: revision.0 }))
    }

    fn bookmark(&self, revision: Revision) -> Self::Message {
        message(Message::Bookmark(v1::Bookmark { revision: revision.0 }))
    }
}

const fn message(message: Message) -> v1::WatchServicesResponse {
    v1::WatchServicesResponse { message: Some(message) }
}
