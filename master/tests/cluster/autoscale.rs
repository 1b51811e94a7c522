//! What would be decided, asked of a real master.

use prost_types::Timestamp;
use skein_proto::v1::{self, external_target::Target};

use crate::harness::*;

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: 1_700_000_000 + seconds, nanos: 0 })
}

fn cpu_policy() -> v1::AutoscalePolicy {
    let targets = v1::AutoscaleTargets { cpu_percent: Some(50.0), ..Default::default() };
    v1::AutoscalePolicy { max: 10, targets: Some(targets), ..Default::default() }
}

fn instance(cpu_millis: Option<f64>) -> v1::InstanceSample {
    let reading = |value| v1::MetricSample { metric: "cpu".into(), value, at: at(-5), ..Default::default() };
    v1::InstanceSample {
        ready: true,
        started: at(-3600),
        readings: cpu_millis.map(reading).into_iter().collect(),
        cpu_reserved_millis: Some(1000.0),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_says_what_it_would_decide() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.autoscale(0);
    let request = v1::EvaluateRequest {
        policy: Some(cpu_policy()),
        current: 3,
        instances: vec![instance(Some(900.0)), instance(Some(800.0)), instance(None)],
        now: at(0),
        ..Default::default()
    };
    // 850 of 1000 is 85 %; with the silent one idle 56 %: within 50 ± 10 % it is not, 3 · 1.12 = 4.
    let answer = client.evaluate(request.clone()).await.unwrap().into_inner();
    assert_eq!((answer.replicas, answer.reason.as_str()), (4, "AsMeasured"), "{answer:?}");
    assert_eq!(answer.proposals[0].missing, 1);
    assert!(answer.explanation.starts_with("3 → 4; cpu 85 of 50 → 4, 1 without a reading"), "{answer:?}");
    assert!(!answer.alternatives.is_empty());

    // Nothing is told: it stays. A wish of a minute ago holds it up.
    let silent = v1::EvaluateRequest { instances: vec![instance(None); 3], ..request.clone() };
    let answer = client.evaluate(silent).await.unwrap().into_inner();
    assert_eq!((answer.replicas, answer.reason.as_str(), answer.wish), (3, "MetricsBroken", None));
    let idle = v1::EvaluateRequest {
        instances: vec![instance(Some(0.0)); 3],
        wishes: vec![v1::PastWish { at: at(-60), replicas: 2 }],
        ..request
    };
    let answer = client.evaluate(idle).await.unwrap().into_inner();
    assert_eq!((answer.replicas, answer.reason.as_str(), answer.wish), (2, "DownWindow", Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forecast_is_told_and_raises() {
    let cluster = Cluster::start(1).await;
    let external = v1::ExternalTarget { name: "queue".into(), target: Some(Target::AverageValue(10.0)) };
    let targets = v1::AutoscaleTargets { external: vec![external], ..Default::default() };
    // 2 instances' worth, and 6 for the first ten minutes of each hour, which comes in a minute.
    let sample = |minute: i64| v1::DemandSample {
        at: at(minute * 60 - 600 * 60),
        instances: if minute % 60 < 10 { 6.0 } else { 2.0 },
    };
    let request = v1::EvaluateRequest {
        policy: Some(v1::AutoscalePolicy { max: 10, targets: Some(targets), ..Default::default() }),
        current: 2,
        instances: vec![instance(None); 2],
        metrics: vec![v1::MetricSample { metric: "queue".into(), value: 20.0, ..Default::default() }],
        now: at(0),
        demand: (0..600).map(sample).collect(),
        ..Default::default()
    };
    let answer = cluster.autoscale(0).evaluate(request).await.unwrap().into_inner();
    let forecast = answer.proposals.iter().find(|proposal| proposal.forecast).unwrap();
    assert_eq!(
        (forecast.model.as_str(), forecast.moves, forecast.replicas),
        ("hourly season", true, Some(6))
    );
    assert_eq!(answer.replicas, 6, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_named_by_its_field() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.autoscale(0);
    let reading =
        |metric: &str, value| v1::MetricSample { metric: metric.into(), value, ..Default::default() };
    let good =
        v1::EvaluateRequest { policy: Some(cpu_policy()), current: 1, now: at(0), ..Default::default() };
    let odd = |metrics| v1::EvaluateRequest { metrics, ..good.clone() };
    let past = |seconds: &[i64]| v1::EvaluateRequest {
        demand: seconds.iter().map(|ago| v1::DemandSample { at: at(-ago), instances: 1.0 }).collect(),
        ..good.clone()
    };
    for (request, field) in [
        (v1::EvaluateRequest::default(), "policy"),
        (v1::EvaluateRequest { now: None, ..good.clone() }, "now"),
        (odd(vec![reading("requests", f64::NAN)]), "metrics[0].value"),
        (odd(vec![reading("requests", -1.0)]), "metrics[0].value"),
        (past(&[60, 120]), "demand[1].at"),
        (past(&[240, 180, 60]), "demand[2].at"),
        (past(&[240, 180, 120, 170]), "demand[3].at"),
        (odd(vec![reading("speed", 1.0)]), "metrics[0].metric"),
        (odd(vec![reading("cpu", 1.0)]), "metrics[0].metric"),
        (odd(vec![reading("load", 1.0), reading("load", 1.0)]), "metrics[1].metric"),
        (v1::EvaluateRequest { wishes: vec![v1::PastWish::default()], ..good.clone() }, "wishes[0].at"),
        (
            v1::EvaluateRequest {
                policy: Some(v1::AutoscalePolicy { min: Some(11), ..cpu_policy() }),
                ..good.clone()
            },
            "policy.min",
        ),
    ] {
        let status = client.evaluate(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{field}");
        assert!(status.message().contains(field), "{field}: {}", status.message());
    }
}
