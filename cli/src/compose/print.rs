//! A tree as it was understood: what `skein stack config` shows.
//!
//! Invariant: a file made of it reads as the same stack; a dollar sign is doubled, because it
//! would begin a variable.

use serde_json::{Map, Number};

use super::{
    scalar::Meaning,
    yaml::{Node, Scalar, Value},
};

pub fn value(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Scalar(scalar) => of_scalar(scalar),
        Value::List(items) => serde_json::Value::Array(items.iter().map(value).collect()),
        Value::Map(entries) => {
            let entries = entries.iter().map(|entry| (entry.key.clone(), value(&entry.value)));
            serde_json::Value::Object(entries.collect::<Map<_, _>>())
        }
    }
}

fn of_scalar(scalar: &Scalar) -> serde_json::Value {
    let number = match scalar.meaning() {
        Meaning::Null => return serde_json::Value::Null,
        Meaning::Bool(value) => return serde_json::Value::Bool(value),
        Meaning::Integer(value) => Number::from_i128(value),
        Meaning::Float(value) => Number::from_f64(value),
        Meaning::Text => None,
    };
    number
        .map_or_else(|| serde_json::Value::String(scalar.text.replace('$', "$$")), serde_json::Value::Number)
}
