//! Keys of a service, group by group.

use super::*;

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
fn services_come_behind_what_they_depend_on() {
    let text = "services:\n  web: { image: x, depends_on: { api: { condition: service_healthy }, off: { condition: \
                service_started, required: false } } }\n  other: { image: x }\n  api: { image: x, depends_on: [db] }\n  db: { \
                image: x }\n";
    let stack = stack(text);
    let names: Vec<&str> = stack.services.iter().map(|service| service.key.as_str()).collect();
    assert_eq!(names, ["other", "db", "api", "web"]);
    let of_web = stack.services[3].depends_on.clone();
    assert_eq!(of_web, [Dependency { service: "api".to_owned(), condition: Condition::Healthy }]);
    let job = "services:\n  web: { image: x, depends_on: { job: { condition: service_completed_successfully } } }\n  job: { \
               image: x, deploy: { mode: replicated-job } }\n";
    assert_eq!(findings(job), "");
    let circle = "services:\n  a: { image: x, depends_on: [b] }\n  b: { image: x, depends_on: [c] }\n  c: { image: x, \
                  depends_on: [b] }\n";
    assert_eq!(findings(circle), "3:30: services.b.depends_on: b -> c -> b: each would wait for the other");
}

#[test]
fn probes_and_what_they_leave_out() {
    let probes = |body: &str| {
        let text = web(&format!("x-skein: {{ probes: {{ {body} }} }}"));
        stack(&text).services[0].spec.container.probes.clone()
    };
    let http = |path: &str, headers: &[(&str, &str)]| ProbeTest::Http {
        port: 80,
        path: path.to_owned(),
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    };
    assert_eq!(probes("liveness: { http: 80 }").liveness, Some(Probe::new(http("/", &[]))));
    let seconds = Duration::from_secs;
    let full = "startup: { grpc: { port: 81, service: a.B }, interval: 2s, timeout: 3s, retries: 4, start_period: 5s, \
                start_interval: 100ms }, readiness: { http: { port: 80, path: /x, headers: { Host: web } }, successes: 2, \
                interval: 200ms }, liveness: { exec: [pg_isready, -q] }";
    let Probes { startup, readiness, liveness } = probes(full);
    let expected = Probe {
        test: ProbeTest::Grpc { port: 81, service: "a.B".to_owned() },
        interval: seconds(2),
        timeout: seconds(3),
        retries: 4,
        successes: 1,
        start_period: seconds(5),
        start_interval: Duration::from_millis(100),
    };
    assert_eq!(startup, Some(expected));
    let readiness = readiness.unwrap();
    assert_eq!((readiness.test, readiness.successes), (http("/x", &[("Host", "web")]), 2));
    assert_eq!(readiness.start_interval, Duration::from_millis(200), "never longer than the interval");
    let words = ["pg_isready", "-q"].map(str::to_owned).to_vec();
    assert_eq!(liveness, Some(Probe::new(ProbeTest::Exec(words))));
}

#[test]
fn probes_that_make_no_sense_are_named() {
    for (body, message) in [
        ("liveness: { interval: 1s }", "expected exactly one of http, tcp, grpc, exec"),
        ("liveness: { tcp: 80, http: 80 }", "expected exactly one of http, tcp, grpc, exec"),
        ("liveness: { tcp: 0 }", "1 to 65535"),
        ("liveness: { http: { path: / } }", "port is required"),
        ("liveness: { tcp: 80, interval: 1ms }", "between 100ms and 86400s"),
        ("liveness: { tcp: 80, successes: 2 }", "only a readiness probe"),
        ("livenes: { tcp: 80 }", "did you mean liveness"),
    ] {
        let text = web(&format!("x-skein: {{ probes: {{ {body} }} }}"));
        let report = findings(&text);
        assert!(report.contains(message), "{body}: {report}");
    }
}

#[test]
fn processes_are_limited_in_either_place() {
    for (body, pids) in [
        ("deploy: { resources: { limits: { pids: 100 } } }", Some(100)),
        ("pids_limit: 200", Some(200)),
        ("pids_limit: -1", None),
        ("deploy: { resources: { limits: { pids: 0 } } }", None),
        ("deploy: { resources: { limits: { cpus: '1' } } }", None),
    ] {
        assert_eq!(stack(&web(body)).services[0].spec.resources.pids, pids, "{body}");
    }
}

#[test]
fn a_job_has_a_schedule() {
    let job =
        |extension: &str| only(&format!("deploy: {{ mode: replicated-job }}\nx-skein: {{ {extension} }}"));
    assert_eq!(job("schedule: '@daily'").schedule, Some(Schedule::new("@daily")));
    let whole = "schedule: { cron: '30 2 * * mon-fri', time_zone: Europe/Berlin, concurrency: forbid, missed: skip, \
                 starting_deadline: 1h, suspend: true, keep_completed: 5, keep_failed: 0 }, job: { gang: true }";
    let schedule = Schedule {
        time_zone: "Europe/Berlin".to_owned(),
        concurrency: Concurrency::Forbid,
        missed: MissedRuns::Skip,
        starting_deadline: Some(Duration::from_secs(3_600)),
        suspend: true,
        keep_completed: 5,
        keep_failed: 0,
        ..Schedule::new("30 2 * * mon-fri")
    };
    let spec = job(whole);
    assert_eq!((spec.schedule, spec.job.gang), (Some(schedule), true));
    for (extension, then) in [
        ("schedule: 'x y'", "services.web.x-skein.schedule: \"x y\" is no cron line"),
        (
            "schedule: { cron: '@daily', time_zone: X }",
            "services.web.x-skein.schedule.time_zone: \"X\" is not a time zone",
        ),
        ("schedule: { time_zone: UTC }", "services.web.x-skein.schedule: cron is required"),
        (
            "schedule: { cron: '@daily', concurrency: never }",
            "\"never\" is not one of allow, forbid, replace",
        ),
    ] {
        let text = format!(
            "services:\n  web: {{ image: x, deploy: {{ mode: replicated-job }}, x-skein: {{ {extension} }} }}\n"
        );
        let said = findings(&text);
        assert!(said.contains(then), "{extension}: {said}");
    }
    let no_job = findings("services:\n  web: { image: x, x-skein: { schedule: '@daily' } }\n");
    assert!(no_job.contains("services.web.x-skein.schedule: a replicated service never ends"), "{no_job}");
}

#[test]
fn the_masters_are_told_who_waits_for_whom() {
    let text = "services:\n  web: { image: x, depends_on: { db: { condition: service_healthy } } }\n  db: { image: x }\n";
    let spec = stack(text).services[1].spec.clone();
    let wanted = skein_common::service::Dependency {
        service: format!("{}_db", stack(text).name),
        condition: DependencyCondition::Healthy,
    };
    assert_eq!(spec.depends_on, [wanted]);
}
