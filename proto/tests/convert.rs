//! Conversions round-trip, and bad input is answered with every violation.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use skein_common::config::{ConfigMount, ConfigRef};
use skein_common::{
    Resources, Timestamp, Violations,
    assignment::{Assignment, AssignmentContent, AssignmentUpdate, Known},
    endpoint::{BalancedPort, Endpoint, EndpointsUpdate, ServiceEndpoints},
    id::{InstanceId, ServiceId},
    instance::{Desired, InstanceReport, News, Observed, Phase, PortBinding, Progress, Readiness, Restarts},
    load::{Counts, Endings, FrontLoad, InstanceLoad, Latencies, LoadReport, Out, OutCause, PortLoad},
    placement::{Affinity, DeviceShare, Direction, GenericRequest, TopologyKey, TopologySpread},
    service::*,
};
use skein_proto::{InvalidMessage, v1};

prop_compose! {
    fn resources()(cpu_millis in 0..10_000u64, memory_bytes in 0..1u64 << 40) -> Resources {
        Resources { cpu_millis, memory_bytes }
    }
}

fn text_map() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[A-Z]{1,4}", ".{0,8}", 0..4)
}

fn duration() -> impl Strategy<Value = Duration> {
    (0..100_000u64).prop_map(Duration::from_millis)
}

fn healthcheck() -> impl Strategy<Value = Option<Healthcheck>> {
    let test = prop_oneof![
        Just(HealthTest::Disabled),
        prop::collection::vec("[a-z/]{1,9}", 1..4).prop_map(HealthTest::Exec),
        "[a-z ]{1,20}".prop_map(HealthTest::Shell),
    ];
    prop::option::of((test, duration(), duration(), 0..9u32, duration(), duration()).prop_map(
        |(test, interval, timeout, retries, start_period, start_interval)| Healthcheck {
            test,
            interval,
            timeout,
            retries,
            start_period,
            start_interval,
        },
    ))
}

prop_compose! {
    fn container()(
        image in "[a-z]{1,9}(:[0-9]{1,3})?", command in prop::collection::vec(".{0,6}", 0..3),
        environment in text_map(), labels in text_map(), healthcheck in healthcheck(),
        read_only in any::<bool>(), stop_grace in duration(), probes in probes(),
    ) -> ContainerSpec {
        ContainerSpec {
            image, command, environment, labels, healthcheck, stop_grace, probes,
            entrypoint: vec!["/run".into()],
            user: "1000:1000".into(),
            working_dir: "/srv".into(),
            mounts: vec![Mount { kind: MountKind::Volume, source: "data".into(), target: "/data".into(), read_only, options: mount_options(read_only) }],
            stop_signal: "SIGINT".into(),
            hostname: "web".into(),
            init: read_only,
            read_only,
            tty: !read_only,
            stdin_open: read_only,
            cap_add: vec!["NET_ADMIN".into()],
            cap_drop: vec!["ALL".into()],
            groups: vec!["daemon".into()],
            extra_hosts: vec!["db:10.0.0.1".into()],
            dns: vec!["10.0.0.2".into()],
            dns_search: vec!["example.org".into()],
            dns_options: vec!["ndots:1".into()],
            sysctls: [("net.core.somaxconn".into(), "1024".into())].into(),
            ulimits: vec![Ulimit { name: "nofile".into(), soft: 1024, hard: -1 }],
            configs: vec![ConfigMount {
                config: "app".into(), target: "/etc/app".into(), uid: 7, gid: 8,
                id: read_only.then(|| skein_common::ConfigId::from_random(9)), mode: read_only.then_some(0o440),
            }],
        }
    }
}

fn probes() -> impl Strategy<Value = Probes> {
    let headers = BTreeMap::from([("Host".to_owned(), "web".to_owned())]);
    let test = prop_oneof![
        (1..u16::MAX).prop_map(move |port| ProbeTest::Http {
            port,
            path: "/x".into(),
            headers: headers.clone()
        }),
        (1..u16::MAX).prop_map(|port| ProbeTest::Tcp { port }),
        (1..u16::MAX).prop_map(|port| ProbeTest::Grpc { port, service: "a.B".into() }),
        prop::collection::vec("[a-z]{1,9}", 1..3).prop_map(ProbeTest::Exec),
    ];
    let seconds = || (1..=600u64).prop_map(Duration::from_secs);
    let probe = (test, seconds(), seconds(), 1..9u32, duration(), seconds()).prop_map(
        |(test, interval, timeout, retries, start_period, start_interval)| Probe {
            test,
            interval,
            timeout,
            retries,
            successes: 1,
            start_period,
            start_interval,
        },
    );
    prop::collection::vec(prop::option::of(probe), 3).prop_map(|mut probes| Probes {
        startup: probes.pop().unwrap(),
        readiness: probes.pop().unwrap().map(|probe| Probe { successes: 2, ..probe }),
        liveness: probes.pop().unwrap(),
    })
}

fn restarts(total: u32) -> Restarts {
    let at = Timestamp::from_unix_ms(1_700_000_000_000);
    Restarts { total, streak: 2, in_window: 3, recent: vec![at; 2], not_before: at }
}

fn mount_options(some: bool) -> MountOptions {
    let texts = BTreeMap::from([("o".to_owned(), "ro".to_owned())]);
    let options = MountOptions {
        no_copy: true,
        subpath: "a".into(),
        driver: "local".into(),
        driver_options: texts.clone(),
        labels: texts,
        ..MountOptions::default()
    };
    if some { options } else { MountOptions::default() }
}

fn publish() -> impl Strategy<Value = Publish> {
    prop_oneof![
        prop::option::of(1..u16::MAX).prop_map(|port| Publish::Ingress { port }),
        (1..u16::MAX).prop_map(|port| Publish::Host { port }),
    ]
}

prop_compose! {
    fn update()(
        parallelism in 0..9u32, delay in duration(), monitor in duration(), progress_deadline in duration(),
        max_failure_permille in 0..=1000u16, canary in 0..3u32, auto_promote in any::<bool>(),
    ) -> UpdatePolicy {
        UpdatePolicy {
            parallelism, delay, monitor, progress_deadline, max_failure_permille, canary, auto_promote,
            order: if auto_promote { UpdateOrder::StartFirst } else { UpdateOrder::StopFirst },
            failure_action: if auto_promote { FailureAction::Rollback } else { FailureAction::Pause },
        }
    }
}

fn schedule() -> Schedule {
    Schedule {
        time_zone: "Europe/Berlin".into(),
        concurrency: Concurrency::Replace,
        missed: MissedRuns::Skip,
        starting_deadline: Some(Duration::from_secs(30)),
        suspend: true,
        keep_completed: 0,
        ..Schedule::new("30 2 * * mon-fri")
    }
}

fn dependencies() -> Vec<Dependency> {
    let conditions = [
        DependencyCondition::Started,
        DependencyCondition::Healthy,
        DependencyCondition::CompletedSuccessfully,
    ];
    let dependency = |condition| Dependency { service: format!("{condition:?}"), condition };
    conditions.map(dependency).into()
}

/// Every algorithm, by chance.
fn balance(dice: u16) -> BalancePolicy {
    let by = [HashBy::Source, HashBy::Path, HashBy::Header("X-User".into()), HashBy::Cookie("user".into())];
    let hash = |by: &HashBy| Algorithm::ConsistentHash { by: by.clone() };
    let mut algorithms =
        vec![Algorithm::RoundRobin, Algorithm::Random, Algorithm::LeastRequests, Algorithm::Adaptive];
    algorithms.extend(by.iter().map(hash));
    let dice = usize::from(dice);
    BalancePolicy {
        mode: BalanceMode::Http,
        algorithm: algorithms.swap_remove(dice % 8),
        ejection: Ejection { failures: 3, time: Duration::from_secs(7) },
        slow_start: Duration::from_millis(1500),
        limits: BalanceLimits { in_flight: 9, pending: 0 },
        retries: 1,
        timeouts: BalanceTimeouts {
            request: Duration::from_secs(9),
            hold: Some(Duration::from_secs(30)),
            ..BalanceTimeouts::default()
        },
        upstream: if dice.is_multiple_of(2) { Upstream::H2c } else { Upstream::Http1 },
        send_proxy: false,
        proxy_from: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        weights: vec![NodeWeight { label: "zone".into(), value: "a".into(), weight: 300 }],
        canary_permille: Some(50),
        check: (dice % 3 == 0).then(|| ActiveCheck { rise: 5, ..ActiveCheck::default() }),
        affinity: (dice % 8 < 4).then_some(Duration::from_secs(90)),
    }
}

/// One of everything, the choices by chance.
fn autoscale(dice: u16) -> AutoscalePolicy {
    let secs = Duration::from_secs;
    let policies = vec![
        RatePolicy { amount: RateAmount::Instances(3), period: secs(7) },
        RatePolicy { amount: RateAmount::Percent(dice.into()), period: secs(9) },
    ];
    let selects = [RateSelect::Max, RateSelect::Min, RateSelect::Disabled];
    let alpha_permille = u32::from(dice) % 1001;
    let weighted = Combination::Weighted { alpha_permille, beta_permille: 1001 - alpha_permille };
    let mut policy = AutoscalePolicy {
        min: 0,
        mode: AutoscaleMode::ALL[usize::from(dice) % 5],
        capacity_milli: Some(12_500),
        combination: if dice.is_multiple_of(2) { Combination::Largest } else { weighted },
        tolerance_up_permille: 50,
        tolerance_down_permille: dice % 1000,
        up: ScaleRules {
            window: secs(3),
            select: selects[usize::from(dice) % 3],
            policies: policies.clone(),
        },
        down: ScaleRules { window: secs(0), select: RateSelect::Min, policies },
        cooldown: secs(5),
        burst: BurstPolicy { threshold_percent: 0, window: secs(4) },
        activation: 2,
        warm_up: secs(1),
        floors: vec![ScheduledFloor {
            cron: "0 8 * * mon".into(),
            time_zone: "Europe/Berlin".into(),
            lasts: secs(60),
            min: 3,
        }],
        forecast: ForecastPolicy { quantile_permille: 1 + dice % 999, horizon: Some(secs(90)), only: true },
        ..AutoscalePolicy::new(40)
    };
    for metric in [Metric::Requests, Metric::InFlight, Metric::LatencyP95, Metric::Load] {
        policy.targets.push(Target { metric, value_milli: u64::from(dice) });
    }
    policy
}

#[test]
fn a_policy_is_filled_in_with_what_users_expect_and_numbers_must_be_numbers() {
    let targets = v1::AutoscaleTargets { cpu_percent: Some(70.0), ..Default::default() };
    let wire = v1::AutoscalePolicy { max: 9, targets: Some(targets), ..Default::default() };
    let policy = AutoscalePolicy::try_from(wire.clone()).unwrap();
    assert_eq!(policy, AutoscalePolicy::new(9).with(Metric::Cpu, 70));
    for bad in [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300] {
        let targets = v1::AutoscaleTargets { cpu_percent: Some(bad), ..Default::default() };
        let wire = v1::AutoscalePolicy { targets: Some(targets), ..wire.clone() };
        let found = AutoscalePolicy::try_from(wire).unwrap_err().to_string();
        assert!(found.contains("policy.targets.cpu"), "{bad}: {found}");
        let wire = v1::AutoscalePolicy {
            combination: 0,
            alpha: Some(bad),
            beta: Some(0.0),
            ..v1::AutoscalePolicy::from(&policy)
        };
        let found = AutoscalePolicy::try_from(wire).unwrap_err().to_string();
        assert!(found.contains("policy.alpha"), "{bad}: {found}");
    }
}

proptest! {
    #[test]
    fn policies_round_trip(dice in 1..u16::MAX) {
        let external = |name: &str, spread| Metric::External { name: name.into(), spread };
        let others =
            [Metric::Cpu, Metric::Memory, external("queue", Spread::Whole), external("lag", Spread::Each)];
        let mut policy = autoscale(dice);
        policy.targets.extend(others.map(|metric| Target { metric, value_milli: u64::from(dice) }));
        policy.targets.sort_by(|one, other| one.metric.cmp(&other.metric));
        let mut back = AutoscalePolicy::try_from(v1::AutoscalePolicy::from(&policy)).unwrap();
        back.targets.sort_by(|one, other| one.metric.cmp(&other.metric));
        prop_assert_eq!(back, policy);
    }
}

/// One with everything, one with little.
fn routes(port: u16) -> Vec<Route> {
    let certificate = ConfigRef { config: "cert".into(), id: None };
    let tls = RouteTls { key: Some(ConfigRef::named("key")), certificate, redirect_from: Some(8080) };
    let route = Route { host: "*.example".into(), path: "/api".into(), port, listen: 8443, tls: Some(tls) };
    let plain = Route { host: String::new(), path: "/".into(), port, listen: HTTP_PORT, tls: None };
    vec![route, plain]
}

/// One of everything a policy can say.
fn placement() -> PlacementPolicy {
    let zone = TopologyKey::Label("zone".into());
    PlacementPolicy {
        constraints: vec!["node.labels.zone == a".parse().unwrap()],
        priority: 70,
        strategy: Some(skein_common::placement::Strategy::Balanced),
        max_replicas_per_node: Some(2),
        spread: vec![TopologySpread { key: zone.clone(), max_skew: 2, min_domains: 3 }],
        preferences: vec![zone.clone(), TopologyKey::Node],
        affinities: vec![Affinity {
            service: "db".into(),
            key: zone,
            direction: Direction::Near,
            weight: Some(30),
        }],
        generic: vec![GenericRequest {
            name: "gpu".into(),
            count: 1,
            millis: 250,
            models: vec!["T4".into()],
        }],
        tolerations: vec!["gpu".into()],
    }
}

prop_compose! {
    fn spec()(
        name in "[a-z][a-z0-9_]{0,20}", labels in text_map(), container in container(),
        replicas in prop::option::of(0..50u32), reservation in resources(),
        delay in prop::option::of(duration()), max_attempts in prop::option::of(0..9u32), window in duration(),
        publish in publish(), container_port in 1..u16::MAX, update in update(),
    ) -> ServiceSpec {
        ServiceSpec {
            name, labels, container,
            mode: match replicas {
                Some(0) => Mode::Job { completions: 3, parallelism: 2 },
                Some(replicas) => Mode::Replicated { replicas },
                None => Mode::Global,
            },
            job: if replicas == Some(0) {
                JobPolicy { backoff_limit: 2, active_deadline: Some(window), ttl_after_finished: None, gang: false }
            } else {
                JobPolicy::default()
            },
            schedule: (replicas == Some(0)).then(schedule),
            depends_on: dependencies(),
            resources: ResourceRequirements { reservation, limit: Resources::ZERO, pids: replicas.map(|replicas| replicas + 1) },
            restart: RestartPolicy { condition: RestartCondition::OnFailure, delay, max_attempts, window },
            placement: placement(),
            // Runs of a schedule cannot share a port.
            ports: vec![PortSpec {
                container_port,
                protocol: Protocol::Udp,
                publish: if replicas == Some(0) { Publish::Ingress { port: None } } else { publish },
            }, PortSpec { container_port, protocol: Protocol::Tcp, publish: Publish::Ingress { port: None } }],
            routes: if replicas == Some(0) { Vec::new() } else { routes(container_port) },
            update,
            rollback: replicas.map(|_| UpdatePolicy { canary: 0, failure_action: FailureAction::Continue, ..update }),
            disruption: replicas.map(Disruption::MinAvailable),
            balance: balance(container_port),
            autoscale: replicas.filter(|replicas| *replicas > 0).map(|_| autoscale(container_port)),
        }
    }
}

proptest! {
    #[test]
    fn specs_round_trip(spec in spec()) {
        prop_assert_eq!(ServiceSpec::try_from(v1::ServiceSpec::from(&spec)), Ok(spec));
    }

    #[test]
    fn endpoint_updates_round_trip(id in 1..u64::MAX, from in prop::option::of(any::<u64>()), port in 1..u16::MAX, publish in any::<bool>()) {
        let endpoint = Endpoint { instance: InstanceId::from_random(id), host: "n1".into(), port, weight: 7 };
        let ports = vec![BalancedPort {
            container_port: port,
            protocol: Protocol::Udp,
            published: publish.then_some(port),
            endpoints: vec![endpoint],
        }];
        let service = ServiceId::from_random(id);
        let update = EndpointsUpdate {
            term: 3,
            generation: 9,
            from,
            services: vec![ServiceEndpoints { service, name: "web".into(), stack: "shop".into(), address: Some(std::net::Ipv4Addr::from_bits(port.into())), policy: balance(port), ports, routes: routes(port) }],
            removals: vec![ServiceId::from_random(5)],
        };
        prop_assert_eq!(EndpointsUpdate::try_from(v1::EndpointsUpdate::from(&update)), Ok(update));
    }

    #[test]
    fn load_reports_round_trip(
        id in 1..u64::MAX,
        figures in prop::array::uniform12(any::<u64>()),
        (front, connected, in_flight) in any::<(u32, u32, u32)>(),
        buckets in prop::collection::btree_map(0usize..200, 1..u64::MAX, 0..5),
        out in prop::option::of((0usize..5, duration())),
    ) {
        let [tries, retries, ok, client_errors, server_errors, unreachable, late, broken, abandoned, bytes_in, bytes_out, ejections] = figures;
        let causes = [OutCause::ServerErrors, OutCause::Unreachable, OutCause::Late, OutCause::Broken, OutCause::Check];
        let counts = Counts {
            tries,
            retries,
            endings: Endings { ok, client_errors, server_errors, unreachable, late, broken, abandoned },
            bytes_in,
            bytes_out,
            ejections,
            latencies: Latencies::from_counts(buckets),
        };
        let out = out.map(|(cause, remaining)| Out { cause: causes[cause], remaining });
        let port = PortLoad {
            service: ServiceId::from_random(id),
            container_port: 80,
            published: (tries % 2 == 0).then_some(8080),
            front: FrontLoad { waiting: front, refused: late, connections: ok, connected },
            instances: vec![InstanceLoad { instance: InstanceId::from_random(id), in_flight, out, counts }],
        };
        let report = LoadReport { at: Timestamp::from_unix_ms(id >> 20), interval: Duration::from_millis(id >> 30), ports: vec![port] };
        prop_assert_eq!(LoadReport::try_from(v1::LoadReport::from(&report)), Ok(report));
    }

    #[test]
    fn assignment_updates_round_trip(spec in spec(), attempt in 1..9u32, id in 1..u64::MAX, delta in any::<bool>()) {
        let assignment = Assignment {
            instance: InstanceId::from_random(id),
            service: ServiceId::from_random(id),
            service_name: spec.name,
            slot: 3,
            generation: Generation(2),
            desired: Desired::Stop,
            container: spec.container,
            resources: spec.resources,
            restart: spec.restart,
            ports: vec![PortBinding { container_port: 80, host_port: 20_000, protocol: Protocol::Tcp }],
            devices: vec![DeviceShare { name: "gpu".to_owned(), device: 1, millis: 500 }],
            attempt,
            known: Known { was_ready: delta, readiness: Readiness(attempt), restarts: restarts(attempt) },
        };
        let removals = vec![InstanceId::from_random(7)];
        let content = if delta {
            AssignmentContent::Delta { from: 8, upserts: vec![assignment], removals }
        } else {
            AssignmentContent::Full(vec![assignment])
        };
        let update = AssignmentUpdate { term: 4, generation: 9, content };
        let back = match v1::session_response::Message::from(&update) {
            v1::session_response::Message::Set(set) => AssignmentUpdate::try_from(set),
            v1::session_response::Message::Delta(delta) => AssignmentUpdate::try_from(delta),
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(back, Ok(update));
    }
}

#[test]
fn what_was_observed_round_trips() {
    let progress = Progress { attempt: 3, phase: Phase::Ready };
    let observed = Observed {
        readiness: Readiness(7),
        restarts: restarts(2),
        ..Observed::of(progress, Timestamp::from_unix_ms(5))
    };
    for observed in [observed, Observed::of(progress, Timestamp::from_unix_ms(5))] {
        let wire = v1::Observed::from(&observed);
        assert_eq!(wire.is_ready(), observed.is_ready());
        let report = InstanceReport { instance: InstanceId::from_random(5), news: News::Observed(observed) };
        assert_eq!(InstanceReport::try_from(v1::InstanceReport::from(&report)), Ok(report));
    }
}

#[test]
fn a_probe_is_filled_in_at_the_door() {
    let probe = |test| v1::Probe { test, ..Default::default() };
    let probes = v1::Probes {
        startup: Some(probe(Some(v1::probe::Test::Http(v1::HttpProbe { port: 80, ..Default::default() })))),
        readiness: Some(probe(None)),
        liveness: Some(probe(Some(v1::probe::Test::Tcp(v1::TcpProbe { port: 70_000 })))),
    };
    let container = |probes| v1::ContainerSpec {
        image: "web".into(),
        probes: Some(Box::new(probes)),
        ..Default::default()
    };
    let spec = |probes| v1::ServiceSpec {
        name: "web".into(),
        container: Some(container(probes)),
        ..Default::default()
    };
    let Violations(found) = ServiceSpec::try_from(spec(probes.clone())).unwrap_err();
    let fields: Vec<_> = found.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["spec.container.probes.readiness.test", "spec.container.probes.liveness.tcp.port"]);
    let filled =
        ServiceSpec::try_from(spec(v1::Probes { startup: probes.startup, ..Default::default() })).unwrap();
    let http = ProbeTest::Http { port: 80, path: "/".into(), headers: BTreeMap::new() };
    assert_eq!(filled.container.probes.startup, Some(Probe::new(http)));
}

#[test]
fn every_violation_of_a_spec_is_reported() {
    let wire = v1::ServiceSpec {
        name: "-web".into(),
        container: Some(v1::ContainerSpec {
            stop_grace: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
            working_dir: "srv".into(),
            ..Default::default()
        }),
        placement: Some(v1::PlacementPolicy { constraints: vec!["zone".into()], ..Default::default() }),
        ports: vec![v1::PortSpec { container_port: 70_000, mode: 9, ..Default::default() }],
        ..Default::default()
    };
    let Violations(found) = ServiceSpec::try_from(wire).unwrap_err();
    let fields: Vec<_> = found.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.container.stop_grace",
            "spec.placement.constraints[0]",
            "spec.ports[0].mode",
            "spec.ports[0].container_port",
            "spec.name",
            "spec.container.image",
            "spec.container.working_dir",
        ]
    );
}

#[test]
fn a_peer_that_leaves_something_out_is_told_what() {
    let hello = v1::Hello { node_id: "x".into(), ..Default::default() };
    let error = skein_proto::convert::Hello::try_from(hello).unwrap_err();
    assert!(matches!(error, InvalidMessage::Invalid { field: "node_id", .. }), "{error}");
    let report = v1::InstanceReport { instance_id: InstanceId::from_random(5).to_string(), news: None };
    let error = skein_common::instance::InstanceReport::try_from(report).unwrap_err();
    assert_eq!(error, InvalidMessage::Missing { field: "news" });
}

#[test]
fn a_schedule_is_checked_where_it_comes_in() {
    let violations = |change: &dyn Fn(&mut v1::ServiceSpec)| {
        let mut spec = ServiceSpec {
            mode: Mode::Job { completions: 1, parallelism: 0 },
            ..ServiceSpec::new("a", ContainerSpec::new("x"))
        };
        spec.restart.condition = RestartCondition::OnFailure;
        spec.schedule = Some(Schedule::new("@daily"));
        let mut wire = v1::ServiceSpec::from(&spec);
        change(&mut wire);
        ServiceSpec::try_from(wire)
            .err()
            .map(|found| found.0.into_iter().map(|v| v.field).collect::<Vec<_>>())
    };
    let with = |cron: &'static str, zone: &'static str| {
        violations(&move |wire| {
            let schedule = v1::Schedule { cron: cron.into(), time_zone: zone.into(), ..Default::default() };
            wire.schedule = Some(schedule);
        })
    };
    assert_eq!(with("*/5 * * * *", "Asia/Tokyo"), None);
    for (cron, zone, field) in [
        ("61 * * * *", "", "spec.schedule.cron"),
        ("0 0 31 2 *", "", "spec.schedule.cron"),
        ("@daily", "Mars/Olympus", "spec.schedule.time_zone"),
    ] {
        assert_eq!(with(cron, zone), Some(vec![field.to_owned()]), "{cron} {zone}");
    }
    let no_job = violations(&|wire| {
        wire.mode = Some(v1::service_spec::Mode::Global(v1::GlobalMode {}));
        wire.job_policy = None;
    });
    assert_eq!(no_job, Some(vec!["spec.schedule".to_owned()]));
    let long = violations(&|wire| wire.name = "x".repeat(47));
    assert_eq!(long, Some(vec!["spec.name".to_owned()]));
    let unknown = violations(&|wire| wire.schedule.as_mut().unwrap().concurrency = 9);
    assert_eq!(unknown, Some(vec!["spec.schedule.concurrency".to_owned()]));
    let gang = violations(&|wire| {
        wire.job_policy.as_mut().unwrap().gang = true;
        wire.mode = Some(v1::service_spec::Mode::Job(v1::JobMode { completions: Some(4), parallelism: 2 }));
    });
    assert_eq!(gang, Some(vec!["spec.mode.job.parallelism".to_owned()]));
    let itself = violations(&|wire| {
        wire.depends_on = vec![v1::Dependency { service: "a".into(), condition: 0 }];
    });
    assert_eq!(itself, Some(vec!["spec.depends_on[0].service".to_owned()]));
}
