//! Which key of the Compose file a field of the resulting spec came from.
//!
//! The cluster speaks of `spec.container.mounts[1].target`; the author wrote
//! `services.web.volumes[1]`. This is the way back, for the violations of any validator.

use super::diagnostic::Position;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub path: String,
    pub at: Position,
}

/// Origins of the fields of one service, by protobuf path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<(String, Origin)>);

impl Origins {
    pub fn add(&mut self, field: impl Into<String>, path: &str, at: Position) {
        self.0.push((field.into(), Origin { path: path.to_owned(), at }));
    }

    /// The origin of the field, or of the nearest field around it.
    pub fn find(&self, field: &str) -> Option<&Origin> {
        self.0
            .iter()
            .filter(|(known, _)| {
                field
                    .strip_prefix(known.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            })
            .max_by_key(|(known, _)| known.len())
            .map(|(_, origin)| origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_nearest_around() {
        let at = Position::start_of(0);
        let mut origins = Origins::default();
        origins.add("spec", "services.web", at);
        origins.add("spec.ports[1]", "services.web.ports[0]", at);
        origins.add("spec.container.image", "services.web.image", at);
        for (field, path) in [
            ("spec.container.image", "services.web.image"),
            ("spec.container.image_x", "services.web"),
            ("spec.ports[1].published_port", "services.web.ports[0]"),
            ("spec.ports[10].published_port", "services.web"),
            ("spec.name", "services.web"),
        ] {
            assert_eq!(origins.find(field).map(|origin| origin.path.as_str()), Some(path), "{field}");
        }
        assert_eq!(origins.find("other"), None);
    }
}
