//! What is wrong with an input, field by field.
//!
//! Invariant: validation reports *all* violations at once, each with the path of its field
//! in protobuf spelling (`spec.container.image`).

use std::fmt;

use serde::{Deserialize, Serialize};

/// One field and what is wrong with it (google.rpc.BadRequest.FieldViolation).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldViolation {
    /// Path of the field, dots between names, `[i]` for list items.
    pub field: String,
    /// Why it is refused and what would be accepted.
    pub description: String,
}

/// A non-empty list of violations, as an error.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Violations(pub Vec<FieldViolation>);

impl Violations {
    /// Adds one violation.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(FieldViolation { field: field.into(), description: description.into() });
    }

    /// `value` when nothing was added, the violations otherwise.
    ///
    /// # Errors
    /// Itself, when it is not empty.
    pub fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, violation) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", violation.field, violation.description)?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}
