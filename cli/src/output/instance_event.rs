//! Steps of an instance as rows.

use serde_json::Value;
use skein_common::Timestamp;
use skein_proto::v1::{Desired, InstanceEvent};

use super::{Column, Row, column, json, text, wide};

impl Row for InstanceEvent {
    const COLUMNS: &'static [Column] = &[
        column("AGE"),
        column("ATTEMPT"),
        column("PHASE"),
        column("WANTED"),
        column("ACTOR"),
        wide("REVISION"),
        column("CAUSE"),
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let wanted = match self.desired() {
            Desired::Run | Desired::Unspecified => String::new(),
            desired => text::enum_word(desired.as_str_name(), "DESIRED_"),
        };
        vec![
            text::age(self.at.as_ref(), now),
            self.attempt.to_string(),
            text::enum_word(self.phase().as_str_name(), "PHASE_"),
            wanted,
            self.actor.clone(),
            self.revision.to_string(),
            self.cause.clone(),
        ]
    }

    fn name(&self) -> String {
        self.revision.to_string()
    }

    fn json(&self) -> Value {
        json::of_message("InstanceEvent", self)
    }
}
