//! ConfigService: decode, call, encode.

use std::sync::Arc;

use skein_common::{
    ConfigId,
    config::{Config, ConfigSpec},
};
use skein_master_core::{ClusterState, CommandKind, Outcome, Rejection, command::ObjectKind};
use skein_proto::{
    convert::timestamp_to_wire,
    v1::{self, config_service_server::ConfigService},
};
use tonic::{Request, Response};

use super::{Answer, Api, page::PageRequest, read, write::Checks};
use crate::{clock, status::CallError};

#[tonic::async_trait]
impl ConfigService for Api {
    async fn create_config(
        &self,
        request: Request<v1::CreateConfigRequest>,
    ) -> Answer<v1::CreateConfigResponse> {
        let request = request.into_inner();
        let mut checks = Checks::default();
        let spec = checks.required("spec", request.spec).map(ConfigSpec::from).map(Arc::new);
        for violation in spec.iter().flat_map(|spec| spec.violations().0) {
            checks.add(&violation.field, violation.description);
        }
        let write = checks.write(request.request_id, request.validate_only, &("create_config", &spec));
        let write = write.map_err(CallError::from)?;
        let Some(spec) = spec else { return Ok(Response::new(v1::CreateConfigResponse::default())) };
        let id = ConfigId::from_random(clock::random());
        let written = write.run(&self.store, CommandKind::CreateConfig { id, spec }).await?;
        // A repeat may answer when the config has gone again.
        let made = match written.outcome {
            Outcome::Config(id) => written.state.config(id),
            _ => None,
        };
        let mut config = made.map(|config| view(config)).unwrap_or_default();
        if write.validate_only {
            config.id.clear();
        }
        Ok(Response::new(v1::CreateConfigResponse { config: Some(config) }))
    }

    async fn get_config(&self, request: Request<v1::GetConfigRequest>) -> Answer<v1::GetConfigResponse> {
        let request = request.into_inner();
        let state = read::state(&self.store, request.consistency).await?;
        let config = find(&state, &request.config).map_err(CallError::from)?;
        let spec = Some(v1::ConfigSpec::from(&config.spec));
        let config = v1::Config { spec, users: state.config_users(config.id), ..view(&config) };
        Ok(Response::new(v1::GetConfigResponse { config: Some(config) }))
    }

    async fn list_configs(
        &self,
        request: Request<v1::ListConfigsRequest>,
    ) -> Answer<v1::ListConfigsResponse> {
        let request = request.into_inner();
        let page =
            PageRequest::decode(request.page_size, &request.page_token, "").map_err(CallError::from)?;
        let state = read::state(&self.store, request.consistency).await?;
        let rest = state.configs().skip_while(|one| page.after.is_some_and(|after| one.id.get() <= after));
        let page = page.cut(rest, |config| config.id.get());
        Ok(Response::new(v1::ListConfigsResponse {
            configs: page.items.into_iter().map(|config| view(config)).collect(),
            next_page_token: page.next_token,
        }))
    }

    async fn delete_config(
        &self,
        request: Request<v1::DeleteConfigRequest>,
    ) -> Answer<v1::DeleteConfigResponse> {
        let request = request.into_inner();
        let mut checks = Checks::default();
        let reference = checks.reference("config", request.config);
        let write = checks.write(request.request_id, request.validate_only, &("delete_config", &reference));
        let write = write.map_err(CallError::from)?;
        match read::find(&self.store, |state| find(state, &reference)).await {
            Ok(config) => {
                write.run(&self.store, CommandKind::DeleteConfig { id: config.id }).await?;
            }
            // A repeat, and the config has gone since.
            Err(_) if write.answered(&self.store.snapshot()).is_some() => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Response::new(v1::DeleteConfigResponse {}))
    }
}

fn find(state: &ClusterState, reference: &str) -> Result<Arc<Config>, Rejection> {
    let by_id = reference.parse().ok().and_then(|id| state.config(id));
    let found = by_id.or_else(|| state.config_by_name(reference)).cloned();
    found.ok_or_else(|| Rejection::NotFound { kind: ObjectKind::Config, id: reference.to_owned() })
}

/// Without the content.
fn view(config: &Config) -> v1::Config {
    let ConfigSpec { name, labels, content } = &config.spec;
    v1::Config {
        id: config.id.to_string(),
        spec: Some(v1::ConfigSpec {
            name: name.clone(),
            labels: labels.clone().into_iter().collect(),
            content: Default::default(),
        }),
        size_bytes: content.len() as u64,
        created_at: Some(timestamp_to_wire(config.created_at)),
        created_revision: config.created_revision.0,
        users: Vec::new(),
    }
}
