//! Every field of a spec arrives in the engine.

use std::time::Duration;

use bollard::models::{HostConfig, RestartPolicyNameEnum};
use skein_agent::runtime::ContainerConfig;
use skein_common::{
    Resources,
    service::{Mount, MountKind, MountOptions},
};

use crate::{
    life::with_health,
    sandbox::{PORT, Sandbox, daemon, published, sample, with_environment},
};

fn mount(kind: MountKind, source: &str, target: &str, read_only: bool) -> Mount {
    Mount {
        kind,
        source: source.to_owned(),
        target: target.to_owned(),
        read_only,
        options: MountOptions::default(),
    }
}

fn everything() -> (ContainerConfig, u16) {
    let (mut config, port) =
        published(with_environment(with_health(sample()), &[("A", "b=c"), ("SKEIN_SLOT", "a lie")]));
    config.resources.limit = Resources { cpu_millis: 64_500, memory_bytes: 64 << 20 };
    config.resources.reservation = Resources { cpu_millis: 250, memory_bytes: 32 << 20 };
    let container = &mut config.container;
    container.entrypoint = vec!["/skein-sample".to_owned()];
    container.command = vec!["--exit-code".to_owned(), "3".to_owned()];
    container.labels.insert("team".to_owned(), "geese".to_owned());
    container.user = "1000:1000".to_owned();
    container.working_dir = "/tmp".to_owned();
    container.stop_signal = "SIGINT".to_owned();
    container.stop_grace = Duration::from_millis(2500);
    container.mounts = vec![
        mount(MountKind::Bind, "/etc", "/host-etc", true),
        mount(MountKind::Volume, "", "/anonymous", false),
        mount(MountKind::Tmpfs, "", "/scratch", false),
    ];
    (config, port)
}

#[tokio::test]
async fn all_of_a_spec_arrives() {
    let sandbox = Sandbox::new().await;
    let (config, port) = everything();
    let id = sandbox.run(&config).await;
    let container = daemon().await.inspect_container(&id, None).await.expect("it is there");

    let made = container.config.expect("a config");
    assert_eq!(made.entrypoint.as_deref(), Some(&config.container.entrypoint[..]));
    assert_eq!(made.cmd.as_deref(), Some(&config.container.command[..]));
    assert_eq!(made.user.as_deref(), Some("1000:1000"));
    assert_eq!(made.working_dir.as_deref(), Some("/tmp"));
    assert_eq!(made.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(made.stop_timeout, Some(3));
    assert_eq!(made.hostname.as_deref(), Some("web-1"));
    let environment = made.env.expect("variables");
    for variable in [
        "A=b=c".to_owned(),
        "SKEIN_SERVICE=web".to_owned(),
        "SKEIN_SLOT=1".to_owned(),
        format!("SKEIN_INSTANCE={}", config.identity.instance),
        format!("SKEIN_NODE={}", sandbox.owner.node),
    ] {
        assert_eq!(environment.iter().filter(|have| **have == variable).count(), 1, "{variable}");
    }
    assert!(!environment.contains(&"SKEIN_SLOT=a lie".to_owned()));
    assert_eq!(made.labels.expect("labels").get("team").map(String::as_str), Some("geese"));
    let check = made.healthcheck.expect("a check");
    assert_eq!((check.interval, check.retries), (Some(200_000_000), Some(2)));

    let mounts = container.mounts.expect("mounts");
    let has = |kind: &str, target: &str| {
        mounts
            .iter()
            .any(|mount| mount.typ.as_deref() == Some(kind) && mount.destination.as_deref() == Some(target))
    };
    assert!(has("bind", "/host-etc") && has("volume", "/anonymous"));
    check_host_config(&container.host_config.expect("a host config"), port);
}

fn check_host_config(host: &HostConfig, port: u16) {
    assert_eq!(
        (host.cpu_period, host.cpu_quota, host.cpu_shares),
        (Some(100_000), Some(6_450_000), Some(256))
    );
    // Without swap accounting the engine drops the second.
    assert!(host.memory == Some(64 << 20) && matches!(host.memory_swap, Some(-1 | 0x400_0000)), "{host:?}");
    assert_eq!((host.pids_limit, host.init), (Some(4096), Some(false)));
    let policy = host.restart_policy.as_ref().and_then(|policy| policy.name);
    assert_eq!(policy, Some(RestartPolicyNameEnum::NO));
    let log = host.log_config.as_ref().expect("a log driver");
    assert_eq!(log.typ.as_deref(), Some("json-file"));
    assert_eq!(log.config.as_ref().map(std::collections::HashMap::len), Some(2));
    let bindings = host.port_bindings.as_ref().expect("ports");
    let bound = bindings[&format!("{PORT}/tcp")].as_ref().expect("bound");
    assert_eq!(bound[0].host_ip.as_deref(), Some("0.0.0.0"));
    assert_eq!(bound[0].host_port.as_deref(), Some(port.to_string().as_str()));
    assert!(host.mounts.as_ref().is_some_and(|mounts| mounts.len() == 3));
}

/// Files of devices that are on every machine.
#[tokio::test]
async fn devices_are_handed_over_to_whom_they_were_given() {
    use skein_agent::runtime::docker::DevicePaths;
    use skein_common::placement::DeviceShare;
    let mut sandbox = Sandbox::new().await;
    let path = |device, path: &str| (("fpga".to_owned(), device), vec![path.to_owned()]);
    let known = DevicePaths::from([path(0, "/dev/full"), path(1, "/dev/null")]);
    sandbox.runtime = sandbox.runtime.clone().with_devices(known);
    let mut config = sample();
    config.resources.pids = Some(77);
    let share = |name: &str, device, millis| DeviceShare { name: name.to_owned(), device, millis };
    config.devices = vec![share("fpga", 0, 250), share("gpu", 1, 1000), share("gpu", 3, 1000)];
    let id = sandbox.run(&config).await;
    let container = daemon().await.inspect_container(&id, None).await.expect("it is there");
    let environment = container.config.and_then(|made| made.env).expect("variables");
    for variable in [
        "DOCKER_RESOURCE_FPGA=0",
        "SKEIN_RESOURCE_FPGA_MILLIS=250",
        "DOCKER_RESOURCE_GPU=1,3",
        "NVIDIA_VISIBLE_DEVICES=1,3",
    ] {
        assert!(environment.iter().any(|known| known == variable), "{variable}: {environment:?}");
    }
    let host = container.host_config.expect("a host config");
    assert_eq!(host.pids_limit, Some(77));
    let devices = host.devices.expect("devices");
    let paths: Vec<_> = devices.iter().filter_map(|device| device.path_on_host.as_deref()).collect();
    assert_eq!(paths, ["/dev/full"], "the other one is somebody else's");
}
