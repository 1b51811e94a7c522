//! What the balancer measures, as metrics: a series for each service, port and instance.
//!
//! Invariant: counters of one instance only grow while it is an endpoint of this node; its series go with it.

use std::time::Duration;

use skein_common::load::{Counts, Latencies, OutCause, bucket_start};

use super::exposition::{Exposition, Kind};
use crate::proxy::{MeasuredInstance, MeasuredPort};

/// Upper bounds of the histogram are 2ⁿ µs: from half a millisecond to 33 s.
const BOUNDS: std::ops::RangeInclusive<u32> = 9..=25;

/// Labels of one series.
struct Series<'a> {
    service: &'a str,
    port: String,
    published: String,
    instance: String,
}

impl Series<'_> {
    fn labels(&self) -> [(&str, &str); 4] {
        [
            ("service", self.service),
            ("port", &self.port),
            ("published", &self.published),
            ("instance", &self.instance),
        ]
    }
}

pub fn write(text: &mut Exposition, ports: &[MeasuredPort]) {
    write_ports(text, ports);
    let instances: Vec<(Series<'_>, &MeasuredInstance)> = ports
        .iter()
        .flat_map(|port| port.instances.iter().map(move |instance| (series(port, instance), instance)))
        .collect();
    write_gauges(text, &instances);
    write_counters(text, &instances);
    write_endings(text, &instances);
    let name = "skein_balancer_latency_seconds";
    text.family(
        name,
        Kind::Histogram,
        "Time from the choice of the instance to the head of its answer, or to its connection.",
    );
    for (series, instance) in &instances {
        write_histogram(text, name, series, &instance.counts.latencies, instance.latency_sum);
    }
}

fn series<'a>(port: &'a MeasuredPort, instance: &MeasuredInstance) -> Series<'a> {
    Series {
        service: &port.name,
        port: port.container_port.to_string(),
        published: port.published.map(|port| port.to_string()).unwrap_or_default(),
        instance: instance.instance.to_string(),
    }
}

fn write_ports(text: &mut Exposition, ports: &[MeasuredPort]) {
    type Figure = fn(&MeasuredPort) -> u64;
    let families: [(&str, Kind, &str, Figure); 5] = [
        ("skein_balancer_endpoints", Kind::Gauge, "Instances that requests may go to.", |port| {
            port.instances.len() as u64
        }),
        ("skein_balancer_waiting_requests", Kind::Gauge, "Requests that wait for an instance.", |port| {
            port.front.waiting.into()
        }),
        ("skein_balancer_refused_requests_total", Kind::Counter, "Requests that got no instance.", |port| {
            port.front.refused
        }),
        ("skein_balancer_connections", Kind::Gauge, "Clients that are connected.", |port| {
            port.front.connected.into()
        }),
        ("skein_balancer_connections_total", Kind::Counter, "Clients that have connected.", |port| {
            port.front.connections
        }),
    ];
    for (name, kind, help, figure) in families {
        text.family(name, kind, help);
        for port in ports {
            let (number, published) = (
                port.container_port.to_string(),
                port.published.map(|port| port.to_string()).unwrap_or_default(),
            );
            let labels = [("service", port.name.as_str()), ("port", &number), ("published", &published)];
            text.sample(name, &labels, &[], figure(port));
        }
    }
}

fn write_gauges(text: &mut Exposition, instances: &[(Series<'_>, &MeasuredInstance)]) {
    let name = "skein_balancer_in_flight_requests";
    text.family(name, Kind::Gauge, "Requests under way; in mode tcp connections.");
    for (series, instance) in instances {
        text.sample(name, &series.labels(), &[], instance.in_flight);
    }
    let name = "skein_balancer_instance_out";
    text.family(name, Kind::Gauge, "1 = the instance gets no requests from this node, for this cause.");
    for (series, out) in instances.iter().filter_map(|(series, instance)| Some((series, instance.out?))) {
        let cause = match out.cause {
            OutCause::ServerErrors => "server_errors",
            OutCause::Unreachable => "unreachable",
            OutCause::Late => "late",
            OutCause::Broken => "broken",
            OutCause::Check => "check",
        };
        text.sample(name, &series.labels(), &[("cause", cause)], 1);
    }
}

fn write_counters(text: &mut Exposition, instances: &[(Series<'_>, &MeasuredInstance)]) {
    type Figure = fn(&Counts) -> u64;
    let families: [(&str, &str, Figure); 5] = [
        ("skein_balancer_tries_total", "Requests sent its way, retries included.", |counts| counts.tries),
        ("skein_balancer_retries_total", "Of these, requests that had failed elsewhere.", |counts| {
            counts.retries
        }),
        ("skein_balancer_ejections_total", "Times it was put out for a while.", |counts| counts.ejections),
        ("skein_balancer_received_bytes_total", "From clients: bodies, in mode tcp everything.", |counts| {
            counts.bytes_in
        }),
        ("skein_balancer_sent_bytes_total", "To clients: bodies, in mode tcp everything.", |counts| {
            counts.bytes_out
        }),
    ];
    for (name, help, figure) in families {
        text.family(name, Kind::Counter, help);
        for (series, instance) in instances {
            text.sample(name, &series.labels(), &[], figure(&instance.counts));
        }
    }
}

fn write_endings(text: &mut Exposition, instances: &[(Series<'_>, &MeasuredInstance)]) {
    let name = "skein_balancer_requests_total";
    text.family(name, Kind::Counter, "How tries ended; in mode tcp a connection is ok.");
    for (series, instance) in instances {
        let ends = &instance.counts.endings;
        for (class, count) in [
            ("ok", ends.ok),
            ("client_error", ends.client_errors),
            ("server_error", ends.server_errors),
            ("unreachable", ends.unreachable),
            ("late", ends.late),
            ("broken", ends.broken),
            ("abandoned", ends.abandoned),
        ] {
            text.sample(name, &series.labels(), &[("class", class)], count);
        }
    }
}

fn write_histogram(
    text: &mut Exposition,
    name: &str,
    series: &Series<'_>,
    latencies: &Latencies,
    sum: Duration,
) {
    let bucket = format!("{name}_bucket");
    let mut counts = latencies.counts().peekable();
    let mut below = 0;
    for bound in BOUNDS.map(|doubling| Duration::from_micros(1 << doubling)) {
        while let Some((_, count)) = counts.next_if(|(index, _)| bucket_start(index + 1) <= bound) {
            below += count;
        }
        text.sample(&bucket, &series.labels(), &[("le", &bound.as_secs_f64().to_string())], below);
    }
    let all = latencies.count();
    text.sample(&bucket, &series.labels(), &[("le", "+Inf")], all);
    text.sample(&format!("{name}_sum"), &series.labels(), &[], sum.as_secs_f64());
    text.sample(&format!("{name}_count"), &series.labels(), &[], all);
}
