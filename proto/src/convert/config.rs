//! Configs and their mounts.

use skein_common::{
    ConfigId,
    config::{ConfigMount, ConfigSpec},
};

use crate::v1;

impl From<v1::ConfigSpec> for ConfigSpec {
    fn from(wire: v1::ConfigSpec) -> Self {
        let labels = wire.labels.into_iter().collect();
        Self { name: wire.name, labels, content: wire.content.to_vec().into() }
    }
}

impl From<&ConfigSpec> for v1::ConfigSpec {
    fn from(spec: &ConfigSpec) -> Self {
        Self {
            name: spec.name.clone(),
            labels: spec.labels.clone().into_iter().collect(),
            content: spec.content.to_vec().into(),
        }
    }
}

/// An id that is none counts as absent: masters look the name up anyway.
impl From<v1::ConfigMount> for ConfigMount {
    fn from(wire: v1::ConfigMount) -> Self {
        let v1::ConfigMount { config, config_id, target, uid, gid, mode } = wire;
        Self { config, id: config_id.parse::<ConfigId>().ok(), target, uid, gid, mode }
    }
}

impl From<&ConfigMount> for v1::ConfigMount {
    fn from(mount: &ConfigMount) -> Self {
        Self {
            config: mount.config.clone(),
            config_id: mount.id.map(|id| id.to_string()).unwrap_or_default(),
            target: mount.target.clone(),
            uid: mount.uid,
            gid: mount.gid,
            mode: mount.mode,
        }
    }
}
