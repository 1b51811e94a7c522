//! Configs: made and deleted, never changed; and what specs mean by their names.
//!
//! Invariant: a spec that is held (present, kept to go back to, or run by an instance) finds every
//! config it names: it was there when the spec was accepted, and cannot go before the spec does.

use std::{collections::BTreeSet, sync::Arc};

use skein_common::{
    ConfigId, FieldViolation,
    config::{Config, ConfigSpec, MAX_ALL_CONFIG_BYTES},
    event::{Severity, Subject},
    service::ServiceSpec,
};

use super::{Answer, Step};
use crate::{
    command::{ObjectKind, Outcome, Rejection},
    state::ClusterState,
};

pub(super) fn create(step: &mut Step<'_>, id: ConfigId, spec: &Arc<ConfigSpec>) -> Answer {
    let violations = spec.violations().0;
    if !violations.is_empty() {
        return Err(Rejection::Invalid { violations });
    }
    if step.state.config_by_name(&spec.name).is_some() || step.state.config(id).is_some() {
        return Err(Rejection::AlreadyExists { kind: ObjectKind::Config, name: spec.name.clone() });
    }
    let kept: usize = step.state.configs().map(|config| config.spec.content.len()).sum();
    if kept + spec.content.len() > MAX_ALL_CONFIG_BYTES {
        let message = format!("all configs together may have {MAX_ALL_CONFIG_BYTES} bytes, and have {kept}");
        return Err(Rejection::FailedPrecondition { message });
    }
    let (created_at, created_revision) = (step.state.time, step.state.revision);
    let config = Config { id, spec: ConfigSpec::clone(spec), created_at, created_revision };
    step.state.put_config(Arc::new(config));
    let message = format!("config {} created, {} bytes", spec.name, spec.content.len());
    step.event(Severity::Info, "ConfigCreated", Subject::Cluster, message);
    Ok(Outcome::Config(id))
}

/// Refused while a spec that is held names it.
pub(super) fn delete(step: &mut Step<'_>, id: ConfigId) -> Answer {
    let Some(config) = step.state.config(id).cloned() else {
        return Err(Rejection::NotFound { kind: ObjectKind::Config, id: id.to_string() });
    };
    let name = &config.spec.name;
    let users: Vec<String> = users(step.state, id).into_iter().collect();
    if !users.is_empty() {
        let message = format!("config {name} is used by {}", users.join(", "));
        return Err(Rejection::FailedPrecondition { message });
    }
    step.state.drop_config(id);
    step.event(Severity::Info, "ConfigDeleted", Subject::Cluster, format!("config {name} deleted"));
    Ok(Outcome::Done)
}

/// Who holds a spec that names it, for people: `service web`, `service web (generation 3)`.
pub(crate) fn users(state: &ClusterState, id: ConfigId) -> BTreeSet<String> {
    let holders = state.specs.iter().filter(|(_, spec)| spec.names_config(id));
    let users = holders.map(|((service, generation), spec)| {
        let is_present = state.services.get(service).is_some_and(|one| one.generation == *generation);
        if is_present {
            format!("service {}", spec.name)
        } else {
            format!("service {} (generation {generation})", spec.name)
        }
    });
    users.collect()
}

/// The spec with the ids that its configs' names mean now.
pub(super) fn resolve(state: &ClusterState, spec: &Arc<ServiceSpec>) -> Result<Arc<ServiceSpec>, Rejection> {
    if spec.container.configs.is_empty() && spec.routes.iter().all(|route| route.tls.is_none()) {
        return Ok(spec.clone());
    }
    let (mut resolved, mut violations) = (ServiceSpec::clone(spec), Vec::new());
    let mut meant = |name: &str, field: String| {
        let id = state.config_by_name(name).map(|config| config.id);
        if id.is_none() {
            let description = format!("there is no config {name:?}: create it first");
            violations.push(FieldViolation { field, description });
        }
        id
    };
    for (position, mount) in resolved.container.configs.iter_mut().enumerate() {
        mount.id = meant(&mount.config, format!("spec.container.configs[{position}].config"));
    }
    for (position, route) in resolved.routes.iter_mut().enumerate() {
        let Some(tls) = &mut route.tls else { continue };
        let field = format!("spec.routes[{position}].tls");
        tls.certificate.id = meant(&tls.certificate.config, format!("{field}.certificate"));
        if let Some(key) = &mut tls.key {
            key.id = meant(&key.config, format!("{field}.key"));
        }
    }
    if violations.is_empty() { Ok(Arc::new(resolved)) } else { Err(Rejection::Invalid { violations }) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use skein_common::{ServiceId, config::ConfigMount};

    use super::*;
    use crate::{
        CommandKind,
        state::Applied,
        testing::{Cluster, spec},
    };

    fn made(cluster: &mut Cluster, number: u64, name: &str, content: &str) -> Applied {
        let content = content.as_bytes().to_vec().into();
        let spec = Arc::new(ConfigSpec { name: name.to_owned(), labels: BTreeMap::new(), content });
        cluster.apply(CommandKind::CreateConfig { id: ConfigId::from_random(number), spec })
    }

    fn naming(mut spec: ServiceSpec, config: &str) -> ServiceSpec {
        let (target, id) = (String::new(), None);
        spec.container.configs =
            vec![ConfigMount { config: config.to_owned(), id, target, uid: 0, gid: 0, mode: None }];
        spec
    }

    fn delete(cluster: &mut Cluster, number: u64) -> Applied {
        cluster.apply(CommandKind::DeleteConfig { id: ConfigId::from_random(number) })
    }

    fn said(applied: &Applied) -> String {
        applied.outcome.as_ref().err().map(ToString::to_string).unwrap_or_default()
    }

    #[test]
    fn a_config_lives_as_long_as_a_spec_that_is_held_names_it() {
        let mut cluster = Cluster::new(1);
        let create = |cluster: &mut Cluster, spec| {
            let id = ServiceId::from_random(7);
            cluster.apply(CommandKind::CreateService { id, spec: Arc::new(spec) })
        };
        let refused = create(&mut cluster, naming(spec("web"), "a"));
        assert!(said(&refused).contains("spec.container.configs[0].config: there is no config \"a\""));
        assert_eq!(made(&mut cluster, 1, "a", "x").outcome, Ok(Outcome::Config(ConfigId::from_random(1))));
        assert!(said(&made(&mut cluster, 2, "a", "x")).contains("exists already"));
        assert!(made(&mut cluster, 2, "b", "y").outcome.is_ok());
        let created = create(&mut cluster, naming(spec("web"), "a"));
        let Ok(Outcome::Service(id)) = created.outcome else { panic!("{created:?}") };
        let held = |cluster: &Cluster| cluster.state.service(id).unwrap().spec.container.configs[0].id;
        assert_eq!(held(&cluster), Some(ConfigId::from_random(1)));
        assert_eq!(said(&delete(&mut cluster, 1)), "config a is used by service web");

        // The same spec again changes nothing; another config is another generation.
        let update = |cluster: &mut Cluster, spec| {
            cluster.apply(CommandKind::UpdateService { id, expected: None, spec: Arc::new(spec) })
        };
        update(&mut cluster, naming(spec("web"), "a"));
        assert_eq!(cluster.state.service(id).unwrap().generation.0, 1);
        update(&mut cluster, naming(spec("web"), "b"));
        assert_eq!(
            (held(&cluster), cluster.state.service(id).unwrap().generation.0),
            (Some(ConfigId::from_random(2)), 2)
        );
        assert_eq!(said(&delete(&mut cluster, 1)), "config a is used by service web (generation 1)");

        // Until the service is gone, and with it all that could be gone back to.
        cluster.apply(CommandKind::DeleteService { id, expected: None });
        cluster.plan_out();
        assert_eq!(cluster.state.service(id), None);
        assert_eq!(delete(&mut cluster, 1).outcome, Ok(Outcome::Done));
        assert!(matches!(delete(&mut cluster, 1).outcome, Err(Rejection::NotFound { .. })));
        assert!(made(&mut cluster, 3, "a", "z").outcome.is_ok());
        assert_eq!(crate::invariant::check(&cluster.state), []);
        let bytes = rmp_serde::to_vec_named(&cluster.state).unwrap();
        assert_eq!(rmp_serde::from_slice::<ClusterState>(&bytes).unwrap(), cluster.state);
    }

    #[test]
    fn all_configs_together_are_bounded() {
        let mut cluster = Cluster::new(1);
        let large = "x".repeat(skein_common::config::MAX_CONFIG_BYTES);
        let fit = MAX_ALL_CONFIG_BYTES / large.len();
        for number in 0..fit {
            assert!(made(&mut cluster, number as u64 + 1, &format!("c{number}"), &large).outcome.is_ok());
        }
        assert!(said(&made(&mut cluster, 9_999, "more", &large)).contains("all configs together"));
    }
}
