//! `skein balance`: how requests are shared out, and why an instance gets none.

use std::time::Duration;

use serde_json::Value;
use skein_common::Timestamp;
use skein_proto::v1::{BalanceAlgorithm, EndpointBalance, LoadCounts, PortBalance};

use crate::{
    app::App,
    failure::Failure,
    live::{self, Source},
    output::{Column, Format, Row, column, json, pretty, text, wide, yaml},
};

/// Show how requests are shared among instances, as balancers measured it lately
///
/// SHARE is what weights say, GOT what was sent in the window; latencies are to the head of an answer, in mode tcp to
/// the connection. OUT says why an instance gets no requests, or none from some nodes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein balance                         all services with ports
  skein balance shop_web --watch
  skein balance shop_web --by-node      each node's balancer for itself
  skein balance shop_web -o json        classes of errors, bytes, retries, latencies")]
pub struct Args {
    /// Only this service, by name or id
    #[arg(value_name = "SERVICE", default_value = "", hide_default_value = true)]
    service: String,
    /// Each balancing node for itself, instead of their sum
    #[arg(long)]
    by_node: bool,
    /// Of the time before now, at most 60s
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    window: Duration,
    #[command(flatten)]
    repeat: super::top::Repeat,
}

/// # Errors
/// Whatever the command ends with.
pub async fn run(app: &App, args: Args) -> Result<(), Failure> {
    let fetch = || app.api.balance(&args.service, args.window, args.by_node);
    if matches!(app.format, Format::Json | Format::Yaml) && !args.repeat.watch {
        let ports = fetch().await?;
        let value = Value::Array(ports.iter().map(|port| json::of_message("PortBalance", port)).collect());
        let text = if app.format == Format::Json { pretty(&value) } else { yaml::render(&value) };
        return Ok(app.terminal.print(&text)?);
    }
    let rows = || async { Ok(fetch().await?.iter().flat_map(rows).collect::<Vec<_>>()) };
    live::list(app, args.repeat.watch, Source::Every(args.repeat.interval), rows).await
}

/// One instance behind one port, on one node or over all.
struct EndpointRow {
    port: PortBalance,
    endpoint: EndpointBalance,
}

/// A port without any instance is a row too: somebody may wait there.
fn rows(port: &PortBalance) -> Vec<EndpointRow> {
    let head = PortBalance { endpoints: Vec::new(), ..port.clone() };
    let row = |endpoint: &EndpointBalance| EndpointRow { port: head.clone(), endpoint: endpoint.clone() };
    if port.endpoints.is_empty() {
        return vec![row(&EndpointBalance::default())];
    }
    port.endpoints.iter().map(row).collect()
}

impl Row for EndpointRow {
    const COLUMNS: &'static [Column] = &[
        column("INSTANCE"),
        column("PORT"),
        column("BY"),
        column("ON"),
        wide("ADDRESS"),
        wide("ALGORITHM"),
        column("WEIGHT"),
        column("SHARE"),
        column("GOT"),
        column("RATE"),
        column("IN-FLIGHT"),
        column("P50"),
        column("P95"),
        column("P99"),
        column("FAILED"),
        wide("RETRIES"),
        column("OUT"),
    ];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        let (port, endpoint) = (&self.port, &self.endpoint);
        let counts = endpoint.counts.clone().unwrap_or_default();
        let algorithm = BalanceAlgorithm::try_from(port.algorithm).unwrap_or_default();
        vec![
            self.name(),
            match port.published_port {
                0 => port.container_port.to_string(),
                published => format!("{published}->{}", port.container_port),
            },
            if port.node_name.is_empty() { nodes(port.nodes) } else { port.node_name.clone() },
            endpoint.node_name.clone(),
            endpoint.address.clone(),
            text::enum_word(algorithm.as_str_name(), "BALANCE_ALGORITHM_"),
            endpoint.weight.to_string(),
            percent(endpoint.share),
            if counts.tries == 0 { "-".to_owned() } else { percent(endpoint.measured_share) },
            format!("{:.1}/s", endpoint.rate),
            endpoint.in_flight.to_string(),
            latency(endpoint.p50.as_ref()),
            latency(endpoint.p95.as_ref()),
            latency(endpoint.p99.as_ref()),
            failed(&counts).to_string(),
            counts.retries.to_string(),
            self.out(),
        ]
    }

    fn name(&self) -> String {
        match self.endpoint.instance_name.as_str() {
            "" => format!("{}: none", self.port.service_name),
            name => name.to_owned(),
        }
    }

    fn json(&self) -> Value {
        json::of_message("EndpointBalance", &self.endpoint)
    }
}

impl EndpointRow {
    fn out(&self) -> String {
        let mut said = self.endpoint.out.clone();
        if self.endpoint.instance_id.is_empty() {
            let front = self.port.front.unwrap_or_default();
            said.push("no instance".to_owned());
            said.extend((front.waiting > 0).then(|| format!("{} requests wait", front.waiting)));
            said.extend((front.refused > 0).then(|| format!("{} were refused", front.refused)));
        }
        if self.port.nodes == 0 {
            said.push("no balancer has reported".to_owned());
        }
        said.join("; ")
    }
}

fn nodes(count: u32) -> String {
    if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") }
}

fn failed(counts: &LoadCounts) -> u64 {
    let unanswered = counts.unreachable.saturating_add(counts.late).saturating_add(counts.broken);
    unanswered.saturating_add(counts.server_errors)
}

fn percent(part: f64) -> String {
    format!("{:.1}%", part * 100.0)
}

/// `0.8ms`, `120ms`, `3.2s`
fn latency(wire: Option<&prost_types::Duration>) -> String {
    let Some(latency) = wire.and_then(|wire| Duration::try_from(*wire).ok()) else { return "-".to_owned() };
    let millis = latency.as_secs_f64() * 1_000.0;
    match millis {
        ..10.0 => format!("{millis:.1}ms"),
        10.0..1_000.0 => format!("{millis:.0}ms"),
        _ => format!("{:.1}s", millis / 1_000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_read_as_people_do() {
        for (micros, shown) in [(800, "0.8ms"), (12_400, "12ms"), (3_210_000, "3.2s")] {
            let wire = skein_proto::convert::duration_to_wire(Duration::from_micros(micros));
            assert_eq!(latency(Some(&wire)), shown);
        }
        assert_eq!(latency(None), "-");
    }
}
