//! Service specs for tests, written short.
//!
//! Invariant: what a test does not say is absent on the wire, so the defaults of the API hold.
//! Deliberately not here: validation (the masters') and Compose files (the CLI's).

use std::time::Duration;

use skein_proto::convert::duration_to_wire;
use skein_proto::v1::{
    ContainerSpec, GlobalMode, JobMode, PlacementPolicy, PortSpec, ReplicatedMode, ResourceRequirements,
    Resources, RestartCondition, RestartPolicy, ServiceSpec, UpdatePolicy, service_spec::Mode,
};

/// The image that `tests/setup.sh` builds.
pub const SAMPLE_IMAGE: &str = "skein-sample:v1";
/// A newer one of it.
pub const SAMPLE_IMAGE_NEXT: &str = "skein-sample:v2";
const MIB: u64 = 1024 * 1024;

/// A spec under construction.
#[derive(Debug, Clone)]
pub struct Spec(ServiceSpec);

/// One replica of the sample image.
#[must_use]
pub fn service(name: &str) -> Spec {
    Spec(ServiceSpec {
        name: name.to_owned(),
        container: Some(ContainerSpec {
            image: SAMPLE_IMAGE.to_owned(),
            stop_grace: Some(duration_to_wire(Duration::from_secs(2))),
            ..ContainerSpec::default()
        }),
        ..ServiceSpec::default()
    })
}

impl Spec {
    #[must_use]
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.0.mode = Some(Mode::Replicated(ReplicatedMode { replicas: Some(replicas) }));
        self
    }

    /// Runs to completion so often.
    #[must_use]
    pub fn job(mut self, completions: u32, parallelism: u32) -> Self {
        self.0.mode = Some(Mode::Job(JobMode { completions: Some(completions), parallelism }));
        self
    }

    #[must_use]
    pub fn global(mut self) -> Self {
        self.0.mode = Some(Mode::Global(GlobalMode {}));
        self
    }

    #[must_use]
    pub fn image(self, image: &str) -> Self {
        self.container(|container| container.image = image.to_owned())
    }

    #[must_use]
    pub fn variable(self, name: &str, value: &str) -> Self {
        self.container(|container| {
            container.environment.insert(name.to_owned(), value.to_owned());
        })
    }

    /// Leads to the sample's port through a dynamic port of the node.
    #[must_use]
    pub fn port(mut self, container_port: u32) -> Self {
        self.0.ports.push(PortSpec { container_port, ..PortSpec::default() });
        self
    }

    #[must_use]
    pub fn reserve_memory_mib(mut self, mib: u64) -> Self {
        let resources = self.0.resources.get_or_insert_with(ResourceRequirements::default);
        resources.reservation.get_or_insert_with(Resources::default).memory_bytes = mib * MIB;
        self
    }

    #[must_use]
    pub fn constraint(mut self, constraint: &str) -> Self {
        self.0.placement.get_or_insert_with(PlacementPolicy::default).constraints.push(constraint.to_owned());
        self
    }

    #[must_use]
    pub fn restart(
        mut self,
        condition: RestartCondition,
        delay: Duration,
        max_attempts: Option<u32>,
    ) -> Self {
        self.0.restart = Some(RestartPolicy {
            condition: condition.into(),
            delay: Some(duration_to_wire(delay)),
            max_attempts,
            window: None,
        });
        self
    }

    #[must_use]
    pub fn update(mut self, update: UpdatePolicy) -> Self {
        self.0.update = Some(update);
        self
    }

    #[must_use]
    pub fn build(self) -> ServiceSpec {
        self.0
    }

    fn container(mut self, change: impl FnOnce(&mut ContainerSpec)) -> Self {
        change(self.0.container.get_or_insert_with(ContainerSpec::default));
        self
    }
}

impl From<Spec> for ServiceSpec {
    fn from(spec: Spec) -> Self {
        spec.0
    }
}
