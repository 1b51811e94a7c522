//! Placeholders of a spec, filled in for one container: in its environment, its host name and
//! the sources of its mounts, as Swarm does.

use skein_common::placeholder::Names;

use super::super::{ContainerConfig, Owner};

pub(super) fn filled(owner: Owner, node_name: &str, config: &ContainerConfig) -> ContainerConfig {
    let mut config = config.clone();
    let identity = &config.identity;
    let names = Names {
        node_id: owner.node,
        node_name,
        service_id: identity.service,
        service_name: &identity.service_name,
        instance_id: identity.instance,
        slot: identity.slot,
    };
    let container = &mut config.container;
    container.hostname = names.fill(&container.hostname);
    for value in container.environment.values_mut() {
        *value = names.fill(value);
    }
    for mount in &mut container.mounts {
        mount.source = names.fill(&mount.source);
    }
    config
}

#[cfg(test)]
mod tests {
    use skein_common::{
        ClusterId, InstanceId, NodeId, ServiceId,
        service::{ContainerSpec, Generation, ResourceRequirements},
    };

    use super::{super::super::Identity, *};

    #[test]
    fn fills_names_into_environment_and_hostname() {
        let owner = Owner { cluster: ClusterId::from_random(1), node: NodeId::from_random(2) };
        let identity = Identity {
            instance: InstanceId::from_random(3),
            attempt: 1,
            service: ServiceId::from_random(4),
            service_name: "web".to_owned(),
            slot: 2,
            generation: Generation(1),
        };
        let mut container = ContainerSpec::new("nginx");
        container.hostname = "{{.Node.Hostname}}".to_owned();
        container.environment.insert("WHO".to_owned(), "{{.Service.Name}}.{{.Task.Slot}}".to_owned());
        let config = ContainerConfig {
            identity,
            container,
            resources: ResourceRequirements::default(),
            ports: Vec::new(),
            devices: Vec::new(),
            files: Vec::new(),
        };
        let container = filled(owner, "n1", &config).container;
        assert_eq!(container.hostname, "n1");
        assert_eq!(container.environment.get("WHO").map(String::as_str), Some("web.2"));
    }
}
