//! Tables over whole files; the parts have their own beside them.

use std::{path::PathBuf, time::Duration};

use proptest::prelude::{Strategy as Generator, prop, prop_assert, proptest};
use skein_common::{
    Resources,
    placement::{Affinity, Direction, GenericRequest, Strategy, TopologyKey, TopologySpread},
    service::{
        Disruption, FailureAction, HealthTest, Mode, Mount, MountKind, MountOptions, PlacementPolicy,
        Protocol, Publish, RestartCondition, UpdateOrder, UpdatePolicy,
    },
};

use super::*;

fn environment() -> BTreeMap<String, String> {
    [("TAG", "1.27"), ("EMPTY", ""), ("REPLICAS", "4"), ("HOME", "/users/ann"), ("OUTSIDE", "from outside")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn read_file(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("/srv/shop/.env") => Ok("FROM_DOTENV=dot\nTAG=lost to the environment\n".to_owned()),
        Some("/srv/shop/web.env") => Ok("# comment\nA=file\nB=\"quoted\"\nOUTSIDE\nNOWHERE\n".to_owned()),
        Some("/srv/shop/bad.env") => Ok("A=1\nB C=2\n".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn read_as(stack: Option<&str>, text: &str) -> Result<Stack, Vec<Diagnostic>> {
    read(&Input {
        files: &[Source { name: "compose.yaml".to_owned(), text: text.to_owned() }],
        folder: Path::new("/srv/shop"),
        stack,
        environment: &environment(),
        read_file: &read_file,
    })
}

fn stack(text: &str) -> Stack {
    read_as(None, text).unwrap_or_else(|found| panic!("{text}\n{}", lines(&found)))
}

fn lines(found: &[Diagnostic]) -> String {
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The findings, without the name of the file, as text.
fn findings(text: &str) -> String {
    let found = match read_as(None, text) {
        Ok(stack) => stack.warnings,
        Err(found) => found,
    };
    lines(&found).replace("compose.yaml:", "")
}

/// A file with one service `web` whose body is given, indented by four.
fn web(body: &str) -> String {
    let body: String = body.lines().map(|line| format!("    {line}\n")).collect();
    format!("services:\n  web:\n    image: nginx\n{body}")
}

fn only(body: &str) -> ServiceSpec {
    stack(&web(body)).services.remove(0).spec
}

const FULL: &str = r#"
version: "3.8"
name: shop
x-defaults: &defaults
  deploy: &deploy
    replicas: 2
services:
  web:
    <<: *defaults
    image: nginx:${TAG:-latest}
    command: serve --greeting 'hello $$USER' # a comment
    entrypoint: ["/entry", "-x"]
    env_file: web.env
    environment:
      MODE: "0440"
      A: environment
      PORT: 8080
      DEBUG: true
      DOT: ${FROM_DOTENV}
    labels:
      - team=web
      - bare
    ports:
      - "8080:80"
      - target: 53
        published: 5353
        protocol: udp
        mode: host
    volumes:
      - data:/var/lib/data
      - ./site:/usr/share/nginx/html:ro
      - ~/certs:/certs
      - /var/cache
      - type: tmpfs
        target: /scratch
    tmpfs: /run
    healthcheck:
      test: ["CMD", "/check", "--fast"]
      interval: 1m30s
      timeout: 2s
      retries: 5
      start_period: 500ms
    stop_signal: SIGINT
    stop_grace_period: 20s
    user: "1000:1000"
    working_dir: /app
    deploy:
      <<: *deploy
      labels: { tier: front }
      resources:
        limits: { cpus: "1.5", memory: 512M }
        reservations: { cpus: '0.25', memory: 64M }
      restart_policy: { condition: on-failure, delay: 3s, max_attempts: 4, window: 1m }
      placement:
        constraints: [node.labels.zone == a, node.platform.arch!=arm64]
  every:
    image: agent
    deploy: { mode: global }
volumes:
  data:
"#;

#[test]
fn a_full_file() {
    let stack = stack(FULL);
    assert_eq!(stack.name, "shop");
    let [web, every] = stack.services.as_slice() else { panic!("{:?}", stack.services) };
    let (spec, container) = (&web.spec, &web.spec.container);
    assert_eq!(spec.name, "shop_web");
    let labels: Vec<_> = spec.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(labels, ["skein.stack=shop", "tier=front"]);
    assert_eq!(spec.mode, Mode::Replicated { replicas: 2 });
    assert_eq!(container.image, "nginx:1.27");
    assert_eq!(container.command, ["serve", "--greeting", "hello $USER"]);
    assert_eq!(container.entrypoint, ["/entry", "-x"]);
    let environment: Vec<_> = container.environment.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        environment,
        [
            "A=environment",
            "B=\"quoted\"",
            "DEBUG=true",
            "DOT=dot",
            "MODE=0440",
            "OUTSIDE=from outside",
            "PORT=8080"
        ]
    );
    let labels: Vec<_> = container.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(labels, ["bare=", "team=web"]);
    assert_eq!((container.user.as_str(), container.working_dir.as_str()), ("1000:1000", "/app"));
    assert_eq!((container.stop_signal.as_str(), container.stop_grace), ("SIGINT", Duration::from_secs(20)));
    let mounts: Vec<(MountKind, &str, &str, bool)> = container
        .mounts
        .iter()
        .map(|m| (m.kind, m.source.as_str(), m.target.as_str(), m.read_only))
        .collect();
    assert_eq!(
        mounts,
        [
            (MountKind::Volume, "shop_data", "/var/lib/data", false),
            (MountKind::Bind, "/srv/shop/site", "/usr/share/nginx/html", true),
            (MountKind::Bind, "/users/ann/certs", "/certs", false),
            (MountKind::Volume, "", "/var/cache", false),
            (MountKind::Tmpfs, "", "/scratch", false),
            (MountKind::Tmpfs, "", "/run", false),
        ]
    );
    let check = container.healthcheck.as_ref().unwrap();
    assert_eq!(check.test, HealthTest::Exec(vec!["/check".to_owned(), "--fast".to_owned()]));
    assert_eq!((check.interval, check.retries), (Duration::from_secs(90), 5));
    assert_eq!((check.timeout, check.start_period), (Duration::from_secs(2), Duration::from_millis(500)));
    assert_eq!(spec.resources.limit, Resources { cpu_millis: 1500, memory_bytes: 512 << 20 });
    assert_eq!(spec.resources.reservation, Resources { cpu_millis: 250, memory_bytes: 64 << 20 });
    assert_eq!(spec.restart.condition, RestartCondition::OnFailure);
    assert_eq!((spec.restart.delay, spec.restart.max_attempts), (Some(Duration::from_secs(3)), Some(4)));
    assert_eq!(spec.restart.window, Duration::from_secs(60));
    let constraints: Vec<String> = spec.placement.constraints.iter().map(ToString::to_string).collect();
    assert_eq!(constraints, ["node.labels.zone == a", "node.platform.arch != arm64"]);
    let ports: Vec<_> = spec.ports.iter().map(|p| (p.container_port, p.protocol, p.publish)).collect();
    assert_eq!(
        ports,
        [
            (53, Protocol::Udp, Publish::Host { port: 5353 }),
            (80, Protocol::Tcp, Publish::Ingress { port: Some(8080) })
        ]
    );
    assert_eq!((every.spec.name.as_str(), every.spec.mode), ("shop_every", Mode::Global));
    assert_eq!(
        lines(&stack.warnings),
        "compose.yaml:2:1: warning: version: ignored: every version of the format is read the same way\n\
         compose.yaml:13:15: warning: services.web.env_file: web.env: the quotes around B are part of its value"
    );
}

#[test]
fn the_stack_has_a_name() {
    let text = "services: { web: { image: nginx } }";
    let named = format!("name: own\n{text}");
    let by_variable = format!("name: s${{REPLICAS}}\n{text}");
    for (given, text, name) in [
        (Some("given"), named.as_str(), "given"),
        (None, named.as_str(), "own"),
        (None, by_variable.as_str(), "s4"),
        (None, text, "shop"),
    ] {
        assert_eq!(read_as(given, text).unwrap().name, name);
    }
    for (given, text) in [(Some("no spaces"), text), (Some(""), text), (None, "name: -x\nservices: {}")] {
        assert!(lines(&read_as(given, text).unwrap_err()).contains("is not a name for a stack"), "{given:?}");
    }
    for (folder, name) in [("My Shop!", Some("myshop")), ("__x", Some("x")), ("é", None)] {
        assert_eq!(name_of_folder(&PathBuf::from("/srv").join(folder)).as_deref(), name);
    }
}

/// Each error of a service, with its place; its keys begin on line 4, column 5.
const ERRORS_OF_A_SERVICE: &[(&str, &str)] = &[
    ("imgae: x", "4:5: services.web.imgae: unknown key; did you mean image?"),
    ("comand: x", "4:5: services.web.comand: unknown key; did you mean command?"),
    ("deploy:\n  replica: 2", "5:7: services.web.deploy.replica: unknown key; did you mean replicas?"),
    ("x-skein:\n  priorty: 2", "5:7: services.web.x-skein.priorty: unknown key; did you mean priority?"),
    (
        "x-skein: { priority: 101 }",
        "4:26: services.web.x-skein.priority: expected a whole number from 0 to 100, found \"101\"",
    ),
    (
        "x-skein: { strategy: pack }",
        "4:26: services.web.x-skein.strategy: \"pack\" is not one of spread, binpack, balanced",
    ),
    (
        "x-skein: { affinity: [{ across: node }] }",
        "4:27: services.web.x-skein.affinity[0]: service is required: the name of a service, or self",
    ),
    (
        "x-skein: { spread: [zone] }",
        "4:25: services.web.x-skein.spread[0]: \"zone\" is no part of the cluster: use node, node.pool or \
             node.labels.NAME",
    ),
    (
        "x-skein: { disruption: { max_unavailable: 1, min_available: 1 } }",
        "4:28: services.web.x-skein.disruption: expected either max_unavailable or min_available",
    ),
    (
        "x-skein: { devices: { gpu: 1.5 } }",
        "4:32: services.web.x-skein.devices.gpu: expected whole devices (2), or a share of one (0.5)",
    ),
    (
        "deploy: { update_config: { max_failure_ratio: 1.5 } }",
        "4:51: services.web.deploy.update_config.max_failure_ratio: expected a part from 0 to 1, such as 0.25, found \
             \"1.5\"",
    ),
    (
        "deploy: { rollback_config: { failure_action: rollback } }",
        "4:50: services.web.deploy.rollback_config.failure_action: a rollback cannot be rolled back: use pause or \
             continue",
    ),
    (
        "deploy: { placement: { preferences: [node.labels.zone] } }",
        "4:42: services.web.deploy.placement.preferences[0]: expected a map of keys and values, found \
             \"node.labels.zone\"",
    ),
    ("ulimits: { nofile: { soft: 1 } }", "4:24: services.web.ulimits.nofile: soft and hard are required"),
    ("extra_hosts: [db]", "4:19: services.web.extra_hosts[0]: \"db\" is not NAME:ADDRESS"),
    ("dns: resolver", "4:10: services.web.dns: \"resolver\" is not an address"),
    (
        "restart: sometimes",
        "4:14: services.web.restart: \"sometimes\" is not one of no, always, unless-stopped, on-failure[:N]",
    ),
    ("image: other", "4:5: services.web.image: given twice; the first is on line 3"),
    ("command: [a, {b: c}]", "4:18: services.web.command[1]: expected text, found a map"),
    ("command: echo 'open", "4:14: services.web.command: a quote or an escape is not closed"),
    ("stop_grace_period: 10", "4:24: services.web.stop_grace_period: 10 has no unit: write for example 10s"),
    (
        "deploy:\n  replicas: many",
        "5:17: services.web.deploy.replicas: expected a whole number from 0 to 4294967295, found \"many\"",
    ),
    (
        "deploy: { mode: global, replicas: 2 }",
        "4:39: services.web.deploy.replicas: a global service has one instance on every node: remove replicas",
    ),
    ("deploy: { mode: replicated-job }", "4:21: services.web.deploy.mode: jobs are not supported yet"),
    (
        "deploy:\n  resources:\n    limits:\n      memory: lots",
        "7:19: services.web.deploy.resources.limits.memory: \"lots\" is not a size: write for example 512M, \
             1.5G or a number of bytes",
    ),
    (
        "deploy: { restart_policy: { condition: always } }",
        "4:44: services.web.deploy.restart_policy.condition: \"always\" is not one of any, on-failure, none",
    ),
    (
        "deploy: { placement: { constraints: [node.colour == red] } }",
        "4:42: services.web.deploy.placement.constraints[0]: \"node.colour\" is unknown: use node.id, node.name, \
             node.hostname, node.address, node.platform.os, node.platform.arch, node.pool or node.labels.NAME",
    ),
    (
        "deploy: { labels: { skein.stack: x } }",
        "4:23: services.web.deploy.labels: the label skein.stack is set by the stack itself",
    ),
    (
        "ports: ['127.0.0.1:80:80']",
        "4:13: services.web.ports[0]: the address 127.0.0.1 cannot be honoured: a service listens on every \
             node; remove it to open the port everywhere",
    ),
    (
        "ports: [{ target: 80, mode: host }]",
        "4:13: services.web.ports[0]: published is required with mode: host",
    ),
    (
        "ports: [{ published: 80 }]",
        "4:13: services.web.ports[0]: target is required: the port in the container",
    ),
    (
        "volumes: ['dta:/data']",
        "4:15: services.web.volumes[0]: the volume dta is not declared; declare it under the top-level volumes, \
             or write ./dta for a folder",
    ),
    ("volumes: ['/a:/b:nocopy']", "4:15: services.web.volumes[0]: an option of another kind of mount is set"),
    (
        "volumes: ['/a:/b:swift']",
        "4:15: services.web.volumes[0]: the option swift is not supported: use ro, rw, nocopy or a kind of propagation",
    ),
    (
        "volumes: [{ type: tmpfs, target: /t, volume: { nocopy: true } }]",
        "4:50: services.web.volumes[0].volume: options for type: volume, but the type is another",
    ),
    (
        "tmpfs: '/t:size=lots'",
        "4:12: services.web.tmpfs: \"lots\" is not a size: write for example 512M, 1.5G or a number of bytes",
    ),
    (
        "volumes: ['a:b:c:d']",
        "4:15: services.web.volumes[0]: \"a:b:c:d\" has too many colons: SOURCE:TARGET[:ro]",
    ),
    (
        "healthcheck: { test: [curl, localhost] }",
        "4:26: services.web.healthcheck.test: expected [CMD, program, argument...], [CMD-SHELL, line], [NONE] \
             or one line of text",
    ),
    ("pids_limit: 5", "4:5: services.web.pids_limit: not supported yet"),
    (
        "networks: [back]",
        "4:16: services.web.networks[0]: the network back is not declared under the top-level networks",
    ),
    ("user: ${USER_ID:?set it}", "4:11: services.web.user: the variable USER_ID must be set: set it"),
    (
        "command: costs 5$",
        "4:14: services.web.command: a $ must begin a variable such as ${NAME}; write $$ for a dollar sign",
    ),
    (
        "env_file: none.env",
        "4:15: services.web.env_file: /srv/shop/none.env cannot be read: entity not found",
    ),
    ("env_file: [bad.env]", "/srv/shop/bad.env:2:1: the variable name \"B C\" has white space in it"),
    ("ports: ['80:1', '80:2']", "4:21: services.web.ports[1]: 80/tcp is published twice"),
    ("working_dir: app", "4:18: services.web.working_dir: \"app\" is not an absolute path"),
    (
        "labels: { io.skein.x: '1' }",
        "4:13: services.web.labels: \"io.skein.x\": labels that begin with io.skein. are reserved",
    ),
    (
        "deploy: { resources: { limits: { memory: 1M } } }",
        "4:46: services.web.deploy.resources.limits.memory: at least 6291456 (6 MiB), Docker's minimum",
    ),
];

/// Each error of a file, with its place.
const ERRORS_OF_A_FILE: &[(&str, &str)] = &[
    ("service:\n  web: {image: x}", "1:1: service: unknown key; did you mean services?"),
    ("services:\n  web:\n    command: x\n", "2:3: services.web: image is required"),
    ("services:\n  - web\n", "2:3: services: expected a map of keys and values, found a list"),
    ("services:\n  web: nginx\n", "2:8: services.web: expected a map of keys and values, found \"nginx\""),
    ("- a\n", "1:1: expected a map of keys and values, found a list"),
    ("services:\n  web: {image: a}\n---\nx: 1", "3:1: a second document begins here; a Compose file has one"),
    (
        "include: [x.yaml]\nservices: {web: {image: x}}",
        "1:1: include: not supported: put the services into one file",
    ),
];

#[test]
fn errors_name_place_and_key() {
    let services = ERRORS_OF_A_SERVICE.iter().map(|(body, expected)| (web(body), *expected));
    let files = ERRORS_OF_A_FILE.iter().map(|(text, expected)| ((*text).to_owned(), *expected));
    let mut wrong = String::new();
    for (text, expected) in services.chain(files) {
        let found = findings(&text);
        if found != expected {
            wrong.push_str(&format!("{text}found:    {found}\nexpected: {expected}\n\n"));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert_eq!(findings(""), " the file is empty");
    assert_eq!(findings("name: x"), " services is missing: there is nothing to run");
}

#[test]
fn text_that_is_no_yaml_is_refused() {
    for (text, expected) in [
        ("a: &a [*a]", "refers to a node it stands in"),
        ("services: [unclosed", "not valid YAML"),
        ("services:\n\tweb: x", "not valid YAML"),
        ("services: !reset null", "the tag !reset is not supported"),
        ("services: *none", "not valid YAML"),
        ("services: {<<: 3}", "<< takes a map"),
        ("? [a]\n: b", "a key must be text"),
    ] {
        let found = findings(text);
        assert!(found.contains(expected), "{text}: {found}");
    }
}

#[test]
fn all_errors_at_once() {
    let text = "services:\n  web:\n    imag: x\n    ports: [x]\n  db:\n    image: a b\n    deploy: { replicas: -1 }\n";
    assert_eq!(
        findings(text),
        "2:3: services.web: image is required\n\
         3:5: services.web.imag: unknown key; did you mean image?\n\
         4:13: services.web.ports[0]: \"x\" is not a port: a number from 1 to 65535\n\
         7:25: services.db.deploy.replicas: expected a whole number from 0 to 4294967295, found \"-1\""
    );
}

#[test]
fn warnings_are_given_once_with_all_lines() {
    let text = "services:\n  a:\n    image: x\n    devices: [a]\n    build: .\n  b:\n    image: x\n    devices: [a]\n  \
                c:\n    image: x\n    devices: [a]\n    privileged: false\n    networks: [default]\nnetworks:\n  \
                default:\n  back: { driver: overlay }\n";
    assert_eq!(
        findings(text),
        "4:5: warning: services.a.devices: ignored, as docker stack deploy does (also lines 8, 11)\n\
         5:5: warning: services.a.build: ignored: images are built beforehand, as for docker stack deploy\n\
         15:3: warning: networks.default: ignored: all services share one flat network\n\
         16:3: warning: networks.back: ignored: all services share one flat network"
    );
}

#[test]
fn numbers_that_docker_changes_are_warned_about() {
    let spec = only("environment:\n  MODE: 0440\n  VERSION: 1.10\n  SAFE: '0440'\n  TRUTH: yes");
    let found: Vec<_> = spec.container.environment.values().map(String::as_str).collect();
    assert_eq!(found, ["288", "0440", "yes", "1.1"]);
    assert_eq!(
        findings(&web("environment:\n  MODE: 0440\n  VERSION: 1.10\n")),
        "5:13: warning: services.web.environment.MODE: 0440 is the number 288, as Docker reads it; write '0440' to \
         keep it as it is\n\
         6:16: warning: services.web.environment.VERSION: 1.10 is the number 1.1, as Docker reads it; write '1.10' \
         to keep it as it is"
    );
}

#[test]
fn variables_become_what_the_key_wants() {
    let spec = only(
        "deploy:\n  replicas: ${REPLICAS}\nenvironment:\n  - EMPTY=\n  - OUTSIDE\n  - GONE\n  - X=${REPLICAS}",
    );
    assert_eq!(spec.replicas(), Some(4));
    let found: Vec<_> = spec.container.environment.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(found, ["EMPTY=", "OUTSIDE=from outside", "X=4"]);
    assert_eq!(
        findings(&web("user: ${NOBODY}\ncommand: ${NOBODY} x")),
        "4:11: warning: services.web.user: the variable NOBODY is not set: empty"
    );
}

#[test]
fn empty_means_absent() {
    let spec = only("ports:\nvolumes:\ncommand:\ndeploy:\nhealthcheck:\nenvironment:\n");
    assert_eq!(spec.mode, Mode::Replicated { replicas: 1 });
    assert!(
        spec.ports.is_empty() && spec.container.mounts.is_empty() && spec.container.healthcheck.is_none()
    );
}

#[test]
fn healthchecks() {
    for (body, test) in [
        ("healthcheck: { test: curl -f localhost }", HealthTest::Shell("curl -f localhost".to_owned())),
        ("healthcheck: { test: [CMD-SHELL, 'a || b'] }", HealthTest::Shell("a || b".to_owned())),
        ("healthcheck: { test: [NONE] }", HealthTest::Disabled),
        ("healthcheck: { disable: true }", HealthTest::Disabled),
        ("healthcheck: { test: [CMD, x] , disable: false }", HealthTest::Exec(vec!["x".to_owned()])),
    ] {
        assert_eq!(only(body).container.healthcheck.map(|check| check.test), Some(test), "{body}");
    }
}

#[test]
fn volumes_take_their_name_on_the_node() {
    let text =
        |declaration: &str| format!("{}volumes:\n  data: {declaration}\n", web("volumes: ['data:/d']"));
    for (declaration, source) in [
        ("", "shop_data"),
        ("{ driver: local }", "shop_data"),
        ("{ name: own }", "own"),
        ("{ external: true }", "data"),
        ("{ external: { name: old } }", "old"),
        ("{ external: true, name: given }", "given"),
        ("{ external: false }", "shop_data"),
    ] {
        let mount = stack(&text(declaration)).services[0].spec.container.mounts[0].clone();
        let expected = Mount {
            kind: MountKind::Volume,
            source: source.to_owned(),
            target: "/d".to_owned(),
            read_only: false,
            options: MountOptions::default(),
        };
        assert_eq!(mount, expected, "{declaration}");
    }
    let driver =
        stack(&text("{ driver: rexray/ebs }")).services[0].spec.container.mounts[0].options.driver.clone();
    assert_eq!(driver, "rexray/ebs");
}

#[test]
fn options_of_mounts() {
    let body = "volumes:\n  - data:/a:nocopy\n  - { type: volume, source: nfs, target: /b, volume: { subpath: x } }\n  - \
                /c:/c:ro,rshared\n  - { type: bind, source: /d, target: /d, bind: { propagation: slave } }\n  - { type: tmpfs, \
                target: /e, tmpfs: { size: 64M, mode: 0700 } }\n  - { type: volume, target: /f, volume: { labels: [a=b] } }\ntmpfs: \
                ['/g:size=1k,mode=755,noexec']";
    let volumes = "volumes: { data: , nfs: { driver: local, driver_opts: { type: nfs, size: 1 }, labels: { team: a } } }\n";
    let stack = stack(&(web(body) + volumes));
    let mounts = &stack.services[0].spec.container.mounts;
    let options = |position: usize| mounts[position].options.clone();
    let none = MountOptions::default;
    let map =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    assert_eq!(options(0), MountOptions { no_copy: true, ..none() });
    let nfs = MountOptions {
        subpath: "x".to_owned(),
        driver_options: map(&[("type", "nfs"), ("size", "1")]),
        labels: map(&[("team", "a")]),
        ..none()
    };
    assert_eq!(options(1), nfs);
    assert_eq!(options(2), MountOptions { propagation: "rshared".to_owned(), ..none() });
    assert!(mounts[2].read_only);
    assert_eq!(options(3), MountOptions { propagation: "slave".to_owned(), ..none() });
    assert_eq!(options(4), MountOptions { size_bytes: 64 << 20, mode: 0o700, ..none() });
    assert_eq!(options(5), MountOptions { labels: map(&[("a", "b")]), ..none() });
    assert_eq!(options(6), MountOptions { size_bytes: 1024, mode: 0o755, ..none() });
    assert_eq!(
        lines(&stack.warnings).replace("compose.yaml:", ""),
        "11:13: warning: services.web.tmpfs[0]: the option noexec is ignored"
    );
}

#[test]
fn process_settings() {
    let body = "hostname: '{{.Node.Hostname}}'\ninit: true\nread_only: true\ntty: yes\ncap_add: [NET_ADMIN]\n\
                cap_drop: [ALL]\ngroup_add: [7, staff]\nextra_hosts: ['db:10.0.0.1', 'v6=[::1]']\ndns: 1.1.1.1\n\
                dns_search: [a, b]\nsysctls: { net.core.somaxconn: 1024 }\nulimits: { nproc: 65535, nofile: { soft: 1, \
                hard: 2 } }\n";
    let container = only(body).container;
    assert_eq!(container.hostname, "{{.Node.Hostname}}");
    assert!(container.init && container.read_only && container.tty && !container.stdin_open);
    assert_eq!(
        (container.cap_add, container.cap_drop),
        (vec!["NET_ADMIN".to_owned()], vec!["ALL".to_owned()])
    );
    assert_eq!(container.groups, ["7", "staff"]);
    assert_eq!(container.extra_hosts, ["db:10.0.0.1", "v6:::1"]);
    assert_eq!((container.dns, container.dns_search.len()), (vec!["1.1.1.1".to_owned()], 2));
    assert_eq!(container.sysctls.get("net.core.somaxconn").map(String::as_str), Some("1024"));
    let limits: Vec<_> = container.ulimits.iter().map(|l| (l.name.as_str(), l.soft, l.hard)).collect();
    assert_eq!(limits, [("nofile", 1, 2), ("nproc", 65535, 65535)]);
}

#[test]
fn placeholders_are_kept_and_unknown_ones_told() {
    let body = "environment: ['A={{.Task.Slot}}', 'B={{.Node.Labels.zone}}', 'C={{.State}}']\nvolumes: \
                ['/srv/{{.Service.Name}}:/d']";
    let container = only(body).container;
    assert_eq!(container.environment.get("A").map(String::as_str), Some("{{.Task.Slot}}"));
    assert_eq!(container.mounts[0].source, "/srv/{{.Service.Name}}");
    assert_eq!(
        findings(&web(body)),
        "4:18: warning: services.web.environment: nobody fills in {{.Node.Labels.zone}}: it stays as it is"
    );
}

#[test]
fn restart_counts_without_a_policy() {
    for (text, condition, attempts) in [
        ("always", RestartCondition::Any, None),
        ("unless-stopped", RestartCondition::Any, None),
        ("on-failure", RestartCondition::OnFailure, None),
        ("on-failure:3", RestartCondition::OnFailure, Some(3)),
        ("'no'", RestartCondition::Any, None),
    ] {
        let restart = only(&format!("restart: {text}")).restart;
        assert_eq!((restart.condition, restart.max_attempts), (condition, attempts), "{text}");
    }
    let both = "restart: on-failure\ndeploy: { restart_policy: { condition: none } }";
    assert_eq!(only(both).restart.condition, RestartCondition::None);
    assert!(findings(&web(both)).ends_with("ignored: deploy.restart_policy is set"));
}

#[test]
fn rollouts_and_placement() {
    let body = "deploy:\n  update_config: { parallelism: 0, order: start-first, delay: 10s, monitor: 0s, \
                max_failure_ratio: 0.25, failure_action: rollback }\n  rollback_config: { order: stop-first }\n  placement:\n    \
                constraints: [node.role == manager, 'engine.labels.disk == ssd']\n    preferences: [{ spread: \
                node.labels.zone }]\n    max_replicas_per_node: 2\n  resources: { reservations: { generic_resources: [{ \
                discrete_resource_spec: { kind: GPU, value: 2 } }] } }\n";
    let spec = only(body);
    let update = spec.update;
    assert_eq!((update.parallelism, update.order), (0, UpdateOrder::StartFirst));
    assert_eq!((update.delay, update.monitor), (Duration::from_secs(10), Duration::from_secs(5)));
    assert_eq!((update.max_failure_permille, update.failure_action), (250, FailureAction::Rollback));
    assert_eq!(spec.rollback, Some(UpdatePolicy::default()));
    let placement = spec.placement;
    assert_eq!(
        placement.constraints.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["node.labels.disk == ssd"]
    );
    assert_eq!(placement.preferences, [TopologyKey::Label("zone".to_owned())]);
    assert_eq!(placement.max_replicas_per_node, Some(2));
    assert_eq!(
        placement.generic.iter().map(|g| (g.name.as_str(), g.count, g.millis)).collect::<Vec<_>>(),
        [("gpu", 2, 1000)]
    );
}

#[test]
fn the_extension() {
    let body = "deploy: { update_config: { parallelism: 3 } }\nx-skein:\n  priority: 80\n  strategy: binpack\n  affinity: \
                [web, { service: other_db, across: node.labels.zone, weight: 20 }]\n  anti_affinity: self\n  spread:\n    - \
                node.labels.zone\n    - { across: node, max_skew: 2, min_domains: 3 }\n  tolerations: gpu\n  devices: { gpu: \
                0.25, fpga: { count: 2, models: [a] } }\n  disruption: { min_available: 1 }\n  canary: { instances: 2, \
                promote: auto }\n  progress_deadline: 2m\n";
    let spec = only(body);
    let zone = TopologyKey::Label("zone".to_owned());
    let affinity = |service: &str, key: &TopologyKey, direction, weight| Affinity {
        service: service.to_owned(),
        key: key.clone(),
        direction,
        weight,
    };
    let expected = PlacementPolicy {
        priority: 80,
        strategy: Some(Strategy::Binpack),
        affinities: vec![
            affinity("shop_web", &TopologyKey::Node, Direction::Near, None),
            affinity("other_db", &zone, Direction::Near, Some(20)),
            affinity("shop_web", &TopologyKey::Node, Direction::Away, None),
        ],
        spread: vec![
            TopologySpread { key: zone, max_skew: 1, min_domains: 0 },
            TopologySpread { key: TopologyKey::Node, max_skew: 2, min_domains: 3 },
        ],
        tolerations: vec!["gpu".to_owned()],
        generic: vec![
            GenericRequest { name: "gpu".to_owned(), count: 1, millis: 250, models: Vec::new() },
            GenericRequest { name: "fpga".to_owned(), count: 2, millis: 1000, models: vec!["a".to_owned()] },
        ],
        ..PlacementPolicy::default()
    };
    assert_eq!(spec.placement, expected);
    assert_eq!(spec.disruption, Some(Disruption::MinAvailable(1)));
    let update = UpdatePolicy {
        parallelism: 3,
        canary: 2,
        auto_promote: true,
        progress_deadline: Duration::from_secs(120),
        ..UpdatePolicy::default()
    };
    assert_eq!(spec.update, update);
    assert_eq!(only("x-skein: { canary: 1, disruption: { max_unavailable: 2 } }").update.canary, 1);
}

#[test]
fn no_billion_laughs() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let items = format!("*a{}, ", level - 1).repeat(10);
        text.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    assert!(findings(&text).contains("more than 100000 values"));
    let mut deep = "a0: &a0 [x]\n".to_owned();
    for level in 1..200 {
        deep.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    assert!(findings(&deep).contains("nested more than 64 deep"));
    assert!(!findings(&"[".repeat(5000)).is_empty());
    assert!(findings(&"#".repeat(yaml::MAX_BYTES + 1)).contains("more than 1048576"));
}

fn read_both(first: &str, second: &str) -> Result<Stack, Vec<Diagnostic>> {
    let file = |name: &str, text: &str| Source { name: name.to_owned(), text: text.to_owned() };
    read(&Input {
        files: &[file("a.yaml", first), file("b.yaml", second)],
        folder: Path::new("/srv/shop"),
        stack: None,
        environment: &environment(),
        read_file: &read_file,
    })
}

#[test]
fn several_files_are_one() {
    let first = web("environment: [A=1, B=$TAG]\nports: ['80:80']\nvolumes: ['data:/d', './x:/x']")
        + "volumes: { data: }\n";
    let second = "services:\n  web:\n    image: other:$TAG\n    environment: { B: 2 }\n    ports: ['80:80', '90:90']\n    \
                  volumes: ['/tmp:/d']\n  extra: { image: x }\n";
    let stack = read_both(&first, second).unwrap_or_else(|found| panic!("{}", lines(&found)));
    let names: Vec<&str> = stack.services.iter().map(|service| service.spec.name.as_str()).collect();
    assert_eq!(names, ["shop_web", "shop_extra"]);
    let spec = &stack.services[0].spec;
    assert_eq!(spec.container.image, "other:1.27");
    let environment: Vec<_> = spec.container.environment.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(environment, ["A=1", "B=2"]);
    assert_eq!(spec.ports.iter().map(|port| port.container_port).collect::<Vec<_>>(), [80, 90]);
    let mounts: Vec<_> =
        spec.container.mounts.iter().map(|m| (m.source.as_str(), m.target.as_str())).collect();
    assert_eq!(mounts, [("/tmp", "/d"), ("/srv/shop/x", "/x")]);
    assert_eq!(stack.document()["services"]["web"]["environment"]["B"], 2);
}

#[test]
fn findings_name_the_file_they_are_in() {
    let broken = "services:\n  web:\n    imgae: x\n    build: .\n  db: { image: y,  replicas: 2 }\n";
    let found = read_both(&web("build: ."), broken).unwrap_err();
    assert_eq!(
        lines(&found),
        "b.yaml:3:5: services.web.imgae: unknown key; did you mean image?\n\
         b.yaml:4:5: warning: services.web.build: ignored: images are built beforehand, as for docker stack deploy\n\
         b.yaml:5:20: services.db.replicas: unknown key here; it stands under deploy"
    );
    assert_eq!(lines(&read_both("services: {}", "[").unwrap_err()).split(':').next(), Some("b.yaml"));
    assert_eq!(lines(&read_both("services: {}", "").unwrap_err()), "b.yaml: the file is empty");
}

#[test]
fn what_is_shown_reads_as_the_same() {
    let shown = stack(FULL).document();
    let text = crate::output::yaml::render(&shown);
    let again = read_as(None, &text).unwrap_or_else(|found| panic!("{text}\n{}", lines(&found)));
    let specs =
        |stack: Stack| stack.services.into_iter().map(|s| (s.key, s.spec)).collect::<BTreeMap<_, _>>();
    assert_eq!(specs(again), specs(stack(FULL)));
}

/// Pieces that Compose files are made of, to reach deeper than arbitrary text would.
fn yamlish() -> impl Generator<Value = String> {
    let word = prop::sample::select(vec![
        "services",
        "web",
        "image",
        "ports",
        "volumes",
        "deploy",
        "replicas",
        "environment",
        "healthcheck",
        "test",
        "command",
        "networks",
        "80:80",
        "0440",
        "~",
        "true",
        "1m30s",
        "512M",
        "${A:-b}",
        "$$",
        "${",
        "*a",
        "&a",
        "<<",
        "./x:/y:ro",
        "node.labels.a == b",
        "- ",
        ": ",
        ":\n  ",
        "\n    ",
        "\n",
        "{",
        "}",
        "[",
        "]",
        ",",
        "'",
        "\"",
        "#",
        "|",
        ">",
        "!!str",
        "---",
        "\t",
        "é",
        "x-skein",
        "name",
        "tmpfs",
        "type",
        "target",
        "published",
        "mode",
    ]);
    prop::collection::vec(word, 0..60).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}|(?s).{0,200}") {
        let _ = read_as(None, &text);
    }

    #[test]
    fn arbitrary_pieces_never_panic(text in yamlish()) {
        let _ = read_as(None, &text);
        let _ = read_as(None, &format!("services:\n  web:\n    image: x\n    {text}"));
    }

    #[test]
    fn arbitrary_values_never_panic(key in prop::sample::select(vec![
        "image", "command", "entrypoint", "environment", "env_file", "labels", "ports", "volumes", "healthcheck",
        "stop_signal", "stop_grace_period", "user", "working_dir", "deploy", "networks", "tmpfs",
    ]), value in "\\PC{0,40}") {
        let _ = read_as(None, &web(&format!("{key}: {value}")));
        let quoted = value.replace('\'', "''");
        let _ = read_as(None, &web(&format!("{key}: '{quoted}'")));
        let _ = read_as(None, &web(&format!("{key}: ['{quoted}', {{ '{quoted}': '{quoted}' }}]")));
    }

    #[test]
    fn what_is_read_is_valid(replicas in 0u32..1000, port in 1u16.., name in "[a-z][a-z0-9_-]{0,20}") {
        let text = format!("services:\n  {name}:\n    image: x\n    ports: ['{port}:80']\n    deploy: {{replicas: {replicas}}}");
        if let Ok(stack) = read_as(None, &text) {
            for service in stack.services {
                prop_assert!(service.spec.violations().0.is_empty());
            }
        }
    }
}
