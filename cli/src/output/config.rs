//! Configs as rows.

use serde_json::Value;
use skein_common::Timestamp;
use skein_proto::v1::Config;

use super::{Column, Row, column, json, text, wide};

impl Row for Config {
    const COLUMNS: &'static [Column] =
        &[column("NAME"), column("ID"), column("SIZE"), column("AGE"), wide("LABELS")];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let spec = self.spec.clone().unwrap_or_default();
        vec![
            spec.name.clone(),
            self.id.clone(),
            text::bytes(self.size_bytes),
            text::age(self.created_at.as_ref(), now),
            text::pairs(&spec.labels),
        ]
    }

    fn name(&self) -> String {
        self.spec.clone().unwrap_or_default().name
    }

    fn json(&self) -> Value {
        json::of_message("Config", self)
    }
}
