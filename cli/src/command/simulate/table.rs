//! The figures of a replay, for people.

use std::fmt::Write as _;

use super::{replay::Report, trace::Trace};

pub(super) fn render(trace: &Trace, report: &Report) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<24}{value}");
    };
    row("nodes", trace.nodes.len().to_string());
    row("instances asked for", report.asked.to_string());
    row("placed", (report.asked - report.rejected).to_string());
    row("rejected", report.rejected.to_string());
    row("cpu allocated", format!("{:.2} %", report.usage.cpu_millis.percent()));
    if trace.has_memory {
        row("memory allocated", format!("{:.2} %", report.usage.memory_bytes.percent()));
    }
    for (name, amount) in &report.usage.generic {
        row(&format!("{name} allocated"), format!("{:.2} %", amount.percent()));
    }
    for (demand, percent) in [("100", report.gpu_percent_at_100), ("130", report.gpu_percent_at_130)] {
        if let Some(percent) = percent {
            row(&format!("gpu at {demand} % demand"), format!("{percent:.2} %"));
        }
    }
    if report.usage.stranded_percent > 0.0 {
        row("gpu stranded", format!("{:.2} %", report.usage.stranded_percent));
    }
    row("placements per second", format!("{:.0}", report.placements_per_second));
    row("decision p50", format!("{:.1} µs", report.p50_us));
    row("decision p99", format!("{:.1} µs", report.p99_us));
    for ignored in &trace.ignored {
        row("left out", ignored.clone());
    }
    text
}
