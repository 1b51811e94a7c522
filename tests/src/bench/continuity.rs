//! Requests that fail while everything that may happen to a service happens to it; one row a step.

use anyhow::Result;

use super::{
    Plan,
    figure::{Figure, Table, Target, Unit},
};
use crate::{
    continuity::{self, Step},
    deployment::{Deployment, Flags},
    traffic::Shape,
};

/// Masters stay dead for so many times a round of load: a minute when everything is measured.
const DEAD_ROUNDS: u32 = 15;
const SHAPE: Shape = Shape { kept: 24, per_second: 600, fresh_per_second: 60 };

/// # Errors
/// When a step does not come to its end.
pub async fn measure(plan: &Plan) -> Result<Table> {
    let mut skein = Deployment::start(3, 3, &Flags::default()).await?;
    let steps = Step::every(plan.load * DEAD_ROUNDS);
    let (taken, all) = continuity::run(&mut skein, &steps, SHAPE).await?;
    let title = format!(
        "Requests that fail, of {}: {} a second on {} kept connections and {} on new ones, through 3 nodes",
        all.answered + all.failed,
        SHAPE.per_second,
        SHAPE.kept,
        SHAPE.fresh_per_second
    );
    let mut table = Table::new(title, "answered");
    let count = |number: usize| {
        let mut figure = Figure::new(Unit::Count);
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        figure.add(number as f64);
        figure
    };
    for step in taken {
        let name = format!("{:?}", step.step);
        table.add(&name, count(step.failed), Some(count(step.answered)), Some(Target::AtMost(0.0)));
    }
    for reason in &all.reasons {
        eprintln!("failed: {reason}");
    }
    skein.abandon();
    Ok(table)
}
