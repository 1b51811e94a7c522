//! Ratios and counts: the few floats of a decision.
//!
//! Invariant: nothing here is NaN, negative or infinite unless it was divided by nothing, and a count ends at
//! [`MOST`].

use skein_common::service::AutoscalePolicy;

/// No proposal is larger (Kubernetes' counts are `i32`).
pub const MOST: u32 = i32::MAX as u32;
/// What floats lose: 1.1 × 10 is 11, not 12.
const SLACK: f64 = 1e-9;

/// Exact below 2^53.
#[allow(clippy::cast_precision_loss)]
pub fn float(number: u64) -> f64 {
    number as f64
}

/// The next whole number of instances.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn ceil(number: f64) -> u32 {
    let slack = SLACK * number.abs().max(1.0);
    (number - slack).ceil().clamp(0.0, f64::from(MOST)) as u32
}

/// A number of thousandths, as a target is.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn milli(number: f64) -> u64 {
    (number * 1000.0).round().clamp(0.0, 9e18) as u64
}

/// The band around 1 in which nothing is changed, both ends inclusive.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    below: f64,
    above: f64,
}

impl Tolerance {
    pub fn of(policy: &AutoscalePolicy) -> Self {
        let part = |permille: u16| f64::from(permille) / 1000.0;
        Self {
            below: 1.0 - part(policy.tolerance_down_permille) - SLACK,
            above: 1.0 + part(policy.tolerance_up_permille) + SLACK,
        }
    }

    pub fn holds(&self, pressure: f64) -> bool {
        (self.below..=self.above).contains(&pressure)
    }

    /// Pressure above 1 never shrinks, below 1 never grows.
    pub fn keep_direction(&self, pressure: f64, wish: u32, current: u32) -> u32 {
        if pressure > 1.0 { wish.max(current) } else { wish.min(current) }
    }

    /// Where growing begins, and where shrinking begins.
    pub fn edges(&self, target_milli: u64) -> (u64, u64) {
        let edge = |part: f64| milli(float(target_milli) / 1000.0 * part);
        (edge(self.above), edge(self.below))
    }
}
