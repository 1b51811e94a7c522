//! `/metrics` over a real socket.

use std::{net::Ipv4Addr, time::Duration};

use skein_common::{
    InstanceId,
    load::{Counts, Endings, FrontLoad, Latencies, Out, OutCause},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::proxy::{MeasuredInstance, MeasuredPort};

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn it_answers_what_it_knows_and_nothing_else() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let serving = tokio::spawn(serve_on(listener, None, stop.clone()));
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let answer = ask(address, &get("/metrics")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("version=0.0.4"), "{answer}");
    assert!(answer.contains("\nskein_agent_build_info{version="), "{answer}");
    assert!(ask(address, &get("/")).await.starts_with("HTTP/1.1 404"));
    let post = "POST /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    assert!(ask(address, post).await.starts_with("HTTP/1.1 405"));
    assert!(ask(address, "\u{1}garbage\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    stop.cancel();
    serving.await.unwrap();
}

#[test]
fn every_figure_has_its_series() {
    let mut latencies = Latencies::default();
    for micros in [100, 600, 600, 40_000_000] {
        latencies.record(Duration::from_micros(micros));
    }
    let counts = Counts {
        tries: 9,
        retries: 2,
        endings: Endings { ok: 3, server_errors: 1, unreachable: 5, ..Endings::default() },
        bytes_in: 10,
        bytes_out: 20,
        ejections: 1,
        latencies,
    };
    let instance = InstanceId::from_random(1);
    let measured = MeasuredInstance {
        instance,
        in_flight: 4,
        out: Some(Out { cause: OutCause::Unreachable, remaining: Duration::from_secs(3) }),
        counts,
        latency_sum: Duration::from_millis(1_500),
    };
    let port = MeasuredPort {
        name: "shop_web".to_owned(),
        container_port: 80,
        published: Some(8080),
        front: FrontLoad { waiting: 1, refused: 2, connections: 30, connected: 3 },
        instances: vec![measured],
    };
    let mut text = Exposition::default();
    balancer::write(&mut text, &[port]);
    let text = text.finish();
    let of_port = "{service=\"shop_web\",port=\"80\",published=\"8080\"}";
    let of_instance = |more: &str| {
        format!("{{service=\"shop_web\",port=\"80\",published=\"8080\",instance=\"{instance}\"{more}}}")
    };
    for (name, labels, value) in [
        ("endpoints", of_port.to_owned(), "1"),
        ("waiting_requests", of_port.to_owned(), "1"),
        ("refused_requests_total", of_port.to_owned(), "2"),
        ("connections", of_port.to_owned(), "3"),
        ("connections_total", of_port.to_owned(), "30"),
        ("in_flight_requests", of_instance(""), "4"),
        ("instance_out", of_instance(",cause=\"unreachable\""), "1"),
        ("tries_total", of_instance(""), "9"),
        ("retries_total", of_instance(""), "2"),
        ("ejections_total", of_instance(""), "1"),
        ("received_bytes_total", of_instance(""), "10"),
        ("sent_bytes_total", of_instance(""), "20"),
        ("requests_total", of_instance(",class=\"ok\""), "3"),
        ("requests_total", of_instance(",class=\"unreachable\""), "5"),
        ("latency_seconds_bucket", of_instance(",le=\"0.000512\""), "1"),
        ("latency_seconds_bucket", of_instance(",le=\"0.001024\""), "3"),
        ("latency_seconds_bucket", of_instance(",le=\"33.554432\""), "3"),
        ("latency_seconds_bucket", of_instance(",le=\"+Inf\""), "4"),
        ("latency_seconds_sum", of_instance(""), "1.5"),
        ("latency_seconds_count", of_instance(""), "4"),
    ] {
        let line = format!("\nskein_balancer_{name}{labels} {value}\n");
        assert!(text.contains(&line), "{line} is missing in\n{text}");
    }
    let families = text.lines().filter(|line| line.starts_with("# TYPE "));
    let names: std::collections::BTreeSet<&str> =
        families.clone().filter_map(|line| line.split(' ').nth(2)).collect();
    assert_eq!(names.len(), families.count(), "a family is told once");
}
