//! What other people hold on this machine is theirs: names, ports, paths, containers.

use std::{collections::HashMap, net::TcpListener};

use bollard::{models::ContainerCreateBody, query_parameters::CreateContainerOptionsBuilder};
use skein_agent::runtime::{ContainerRuntime, Owner, RuntimeError, container_name};
use skein_common::{
    NodeId,
    instance::PortBinding,
    service::{Mount, MountKind, MountOptions, Protocol},
};

use crate::sandbox::{FOREIGN_LABEL, IMAGE, PORT, Sandbox, daemon, published, sample};

fn rejected(error: &RuntimeError, part: &str) -> bool {
    matches!(error, RuntimeError::Rejected(why) if why.contains(part))
}

#[tokio::test]
async fn a_foreign_container_of_our_name_is_not_touched() {
    let sandbox = Sandbox::new().await;
    let config = sample();
    let name = container_name(&config.identity);
    let docker = daemon().await;
    let foreign = docker
        .create_container(
            Some(CreateContainerOptionsBuilder::new().name(&name).build()),
            ContainerCreateBody {
                image: Some(IMAGE.to_owned()),
                labels: Some(HashMap::from([(FOREIGN_LABEL.to_owned(), sandbox.owner.cluster.to_string())])),
                ..ContainerCreateBody::default()
            },
        )
        .await
        .expect("made")
        .id;
    let before = docker.inspect_container(&foreign, None).await.expect("it is there");

    let error = sandbox.runtime.create(sandbox.owner, &config).await.expect_err("the name is taken");
    assert!(rejected(&error, &foreign[..12]), "{error}");
    assert_eq!(docker.inspect_container(&foreign, None).await.expect("still there"), before);
    assert_eq!(sandbox.view(&foreign).await, None);
    assert!(sandbox.runtime.list(sandbox.owner, None).await.expect("a list").is_empty());
}

#[tokio::test]
async fn another_nodes_container_is_foreign() {
    let sandbox = Sandbox::new().await;
    let config = sample();
    let id = sandbox.create(&config).await;
    let other = Owner { node: NodeId::from_random(rand::random()), ..sandbox.owner };
    assert_eq!(sandbox.runtime.inspect(other, &id).await, Ok(None));
    assert_eq!(sandbox.runtime.list(other, None).await, Ok(Vec::new()));
    let error = sandbox.runtime.create(other, &config).await.expect_err("the name is taken");
    assert!(rejected(&error, "not ours"), "{error}");
}

#[tokio::test]
async fn a_port_another_container_has_is_rejected_and_leaves_nothing() {
    let sandbox = Sandbox::new().await;
    let (holder, port) = published(sample());
    sandbox.run(&holder).await;
    let mut config = sample();
    config.ports = holder.ports;
    let id = sandbox.create(&config).await;
    let error = sandbox.runtime.start(&id).await.expect_err("the port is taken");
    assert!(rejected(&error, &port.to_string()), "{error}");
    assert_eq!(sandbox.view(&id).await, None, "it would keep its name for nothing");
}

#[tokio::test]
async fn a_port_a_process_has_is_rejected_and_leaves_nothing() {
    let sandbox = Sandbox::new().await;
    let process = TcpListener::bind("0.0.0.0:0").expect("a port");
    let host_port = process.local_addr().expect("its number").port();
    let mut config = sample();
    config.ports = vec![PortBinding { container_port: PORT, host_port, protocol: Protocol::Tcp }];
    let id = sandbox.create(&config).await;
    let error = sandbox.runtime.start(&id).await.expect_err("the port is taken");
    assert!(rejected(&error, &host_port.to_string()), "{error}");
    assert_eq!(sandbox.view(&id).await, None);
}

#[tokio::test]
async fn a_path_that_is_not_there_is_rejected() {
    let sandbox = Sandbox::new().await;
    let bind = |source: &str, target: &str| Mount {
        kind: MountKind::Bind,
        source: source.to_owned(),
        target: target.to_owned(),
        read_only: true,
        options: MountOptions::default(),
    };
    let mut config = sample();
    config.container.mounts = vec![bind("/no/such/path", "/data")];
    let error = sandbox.runtime.create(sandbox.owner, &config).await.expect_err("nothing to mount");
    assert!(rejected(&error, "/no/such/path"), "{error}");

    // A directory over a file shows only at the start.
    config.container.mounts = vec![bind("/etc", "/skein-sample")];
    let id = sandbox.create(&config).await;
    let error = sandbox.runtime.start(&id).await.expect_err("cannot be mounted");
    assert!(rejected(&error, "not a directory"), "{error}");
    assert_eq!(sandbox.view(&id).await, None);
}

#[tokio::test]
async fn an_image_that_is_nowhere_says_so() {
    let sandbox = Sandbox::new().await;
    // Nobody listens there: the daemon is refused at once.
    let image = "127.0.0.1:1/no/such:image";
    let mut config = sample();
    config.container.image = image.to_owned();
    assert_eq!(sandbox.runtime.has_image(image).await, Ok(false));
    let is_image =
        |error: &RuntimeError| matches!(error, RuntimeError::Image { image: named, .. } if named == image);
    let error = sandbox.runtime.create(sandbox.owner, &config).await.expect_err("no image");
    assert!(is_image(&error), "{error}");
    let error = sandbox.runtime.pull(image).await.expect_err("no registry");
    assert!(is_image(&error), "{error}");
}
