//! Demand, capacity and forecast as an SVG picture.
//!
//! Invariant: at most [`COLUMNS`] points a line, each the largest of its part of the time, so that no peak is lost.

use std::fmt::Write as _;

use super::{replay::Report, series::Series};

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 400.0;
const MARGIN: f64 = 40.0;
const COLUMNS: usize = 1000;

pub fn render(series: &Series, report: &Report, capacity: f64) -> String {
    let provided: Vec<Option<f64>> =
        report.ready.iter().map(|ready| Some(f64::from(*ready) * capacity)).collect();
    let demand: Vec<Option<f64>> = series.demand.iter().copied().map(Some).collect();
    let lines = [
        ("demand", "#3b6ea8", largest(&demand)),
        ("capacity", "#5a9a5a", largest(&provided)),
        ("forecast", "#c77f2e", largest(&report.foreseen)),
    ];
    let top = lines.iter().flat_map(|(_, _, line)| line).flatten().copied().fold(1e-9, f64::max);
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, (name, colour, line)) in lines.iter().enumerate() {
        for path in paths(line, top) {
            let _ = writeln!(
                picture,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.2\" points=\"{path}\"/>"
            );
        }
        let x = MARGIN + 90.0 * f64::from(u8::try_from(index).unwrap_or_default());
        let _ = writeln!(picture, "<text x=\"{x}\" y=\"20\" fill=\"{colour}\">{name}</text>");
    }
    let end = series.start + series.step * u32::try_from(series.demand.len()).unwrap_or(u32::MAX);
    let foot = HEIGHT - 12.0;
    let _ = writeln!(picture, "<text x=\"{MARGIN}\" y=\"{foot}\">{}</text>", series.start);
    let _ = writeln!(picture, "<text x=\"{}\" y=\"{foot}\" text-anchor=\"end\">{end}</text>", WIDTH - MARGIN);
    let _ = writeln!(
        picture,
        "<text x=\"{}\" y=\"20\" text-anchor=\"end\">highest {top:.1}; unserved {:.3} %, provisioned ÷ demand \
         {:.3}</text>",
        WIDTH - MARGIN,
        report.unserved_percent,
        report.provisioned_over_demand
    );
    picture + "</svg>\n"
}

/// The largest of each column.
fn largest(line: &[Option<f64>]) -> Vec<Option<f64>> {
    let width = line.len().div_ceil(COLUMNS).max(1);
    let most = |part: &[Option<f64>]| part.iter().flatten().copied().reduce(f64::max);
    line.chunks(width).map(most).collect()
}

/// One for each part without gaps.
fn paths(line: &[Option<f64>], top: f64) -> Vec<String> {
    let step = (WIDTH - 2.0 * MARGIN) / f64::from(u32::try_from(line.len().max(2) - 1).unwrap_or(u32::MAX));
    let mut paths = vec![String::new()];
    for (column, value) in (0u32..).zip(line) {
        let Some(value) = value else {
            paths.push(String::new());
            continue;
        };
        let x = MARGIN + step * f64::from(column);
        let y = HEIGHT - MARGIN - value / top * (HEIGHT - 2.0 * MARGIN);
        if let Some(path) = paths.last_mut() {
            let _ = write!(path, "{x:.1},{y:.1} ");
        }
    }
    paths.retain(|path| !path.is_empty());
    paths
}
