//! What is refused and what is warned about, with its place.

use super::*;

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
    (
        "deploy: { mode: global-job, replicas: 2 }",
        "4:43: services.web.deploy.replicas: a global-job service has one instance on every node: remove replicas",
    ),
    (
        "x-skein: { job: { parallelism: 2 } }",
        "4:21: services.web.x-skein.job: belongs to deploy.mode replicated-job or global-job",
    ),
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
    ("pids_limit: 99999999", "4:17: services.web.pids_limit: 99999999 is not between 1 and 4194304"),
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
    (
        "depends_on: [wbe]",
        "4:18: services.web.depends_on[0]: there is no service wbe in the files; did you mean web?",
    ),
    ("depends_on: [web]", "4:17: services.web.depends_on: web -> web: each would wait for the other"),
    (
        "depends_on: { web: { condition: healthy } }",
        "4:37: services.web.depends_on.web.condition: \"healthy\" is not one of service_started, service_healthy, \
             service_completed_successfully",
    ),
    (
        "depends_on: { web: { condition: service_completed_successfully } }",
        "4:17: services.web.depends_on: web never completes: it is no job, set its deploy.mode to replicated-job\n4:17: \
             services.web.depends_on: web -> web: each would wait for the other",
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
         14:1: warning: networks: ignored: all services share one flat network"
    );
}
