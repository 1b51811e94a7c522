//! JSON values as YAML for people.
//!
//! Invariant: what is written reads back as the same value by any YAML 1.1 or 1.2 reader: text
//! that could be anything else is quoted.

use serde_json::Value;

pub fn render(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Array(items) if items.is_empty() => text.push_str("[]\n"),
        Value::Object(entries) if entries.is_empty() => text.push_str("{}\n"),
        Value::Array(_) | Value::Object(_) => block(value, 0, &mut text),
        scalar => text.push_str(&format!("{}\n", inline(scalar))),
    }
    text
}

/// A non-empty list or map, every line indented.
fn block(value: &Value, indent: usize, text: &mut String) {
    let space = "  ".repeat(indent);
    match value {
        Value::Array(items) => {
            for item in items {
                let mut inner = String::new();
                if is_block(item) {
                    block(item, indent + 1, &mut inner);
                    // The first line of the item stands behind its dash.
                    let rest = inner.get(2 * (indent + 1)..).unwrap_or_default();
                    text.push_str(&format!("{space}- {rest}"));
                } else {
                    text.push_str(&format!("{space}- {}\n", inline(item)));
                }
            }
        }
        Value::Object(entries) => {
            for (key, value) in entries {
                let key = scalar(key);
                if is_block(value) {
                    text.push_str(&format!("{space}{key}:\n"));
                    block(value, indent + 1, text);
                } else {
                    text.push_str(&format!("{space}{key}: {}\n", inline(value)));
                }
            }
        }
        _ => {}
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
        _ => false,
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// Bare when it can only be text; else with JSON's quotes, which YAML shares.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 10] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan"];
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./@".contains(c))
        && !WORDS.contains(&text.to_lowercase().as_str());
    // A timestamp or an image with a tag is text too, and readable without quotes.
    let is_colon_safe = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./@:".contains(c))
        && !text.ends_with(':');
    if is_plain || is_colon_safe && text.contains(':') {
        return text.to_owned();
    }
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_well() {
        let value = json!({
            "name": "shop_web", "replicas": 3, "empty": {}, "none": [],
            "container": { "image": "nginx:1.27", "environment": { "MODE": "0440", "yes": "no", "TEXT": "a: b\n" } },
            "ports": [{ "port": 80, "mode": "HOST" }, { "port": 81 }], "words": ["a", "-x", "", "2"],
            "nested": [["a"], []]
        });
        let expected = r#"container:
  environment:
    MODE: "0440"
    TEXT: "a: b\n"
    "yes": "no"
  image: nginx:1.27
empty: {}
name: shop_web
nested:
  - - a
  - []
none: []
ports:
  - mode: HOST
    port: 80
  - port: 81
replicas: 3
words:
  - a
  - "-x"
  - ""
  - "2"
"#;
        let mut sorted = value;
        sorted.sort_all_objects();
        assert_eq!(render(&sorted), expected);
        assert_eq!(render(&json!([])), "[]\n");
        assert_eq!(render(&json!("x")), "x\n");
    }
}
