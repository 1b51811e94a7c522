//! Tables over whole files; the parts have their own beside them.

mod arbitrary;
mod autoscale;
mod errors;
mod routes;
mod settings;
mod several;
mod shares;

use std::{path::PathBuf, time::Duration};

use skein_common::{
    Resources,
    placement::{Affinity, Direction, GenericRequest, Strategy, TopologyKey, TopologySpread},
    service::{
        Concurrency, DependencyCondition, Disruption, FailureAction, HealthTest, MissedRuns, Mode, Mount,
        MountKind, MountOptions, PlacementPolicy, Probe, ProbeTest, Probes, Protocol, Publish,
        RestartCondition, Schedule, UpdateOrder, UpdatePolicy,
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
        "compose.yaml:13:15: warning: services.web.env_file: web.env: the quotes around B are part of its value"
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
