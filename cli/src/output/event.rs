//! Events as rows, and as single lines while they are followed.

use serde_json::Value;
use skein_common::Timestamp;
use skein_proto::v1::{Event, Severity};

use super::{Column, Row, column, json, text, wide};

impl Row for Event {
    const COLUMNS: &'static [Column] = &[
        column("TIME"),
        column("SEVERITY"),
        column("REASON"),
        column("SUBJECT"),
        wide("REVISION"),
        wide("ACTOR"),
        column("MESSAGE"),
    ];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        let subject = self.subject.clone().unwrap_or_default();
        let name = if subject.name.is_empty() { &subject.id } else { &subject.name };
        vec![
            text::instant(self.at.as_ref()).map(|at| at.to_string()).unwrap_or_default(),
            severity(self).to_owned(),
            self.reason.clone(),
            format!("{}/{name}", subject.kind),
            self.revision.to_string(),
            self.actor.clone(),
            self.message.clone(),
        ]
    }

    fn name(&self) -> String {
        self.sequence.to_string()
    }

    fn json(&self) -> Value {
        json::of_message("Event", self)
    }
}

fn severity(event: &Event) -> &'static str {
    match event.severity() {
        Severity::Warning => "warning",
        Severity::Info | Severity::Unspecified => "info",
    }
}
