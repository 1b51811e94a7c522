//! Several Compose files into one: what a later file says goes over what an earlier one says.
//!
//! Invariant: pure, on trees whose variables are replaced already; every node keeps the place it
//! was written at. Maps merge key by key, most lists grow, and what stands for one thing
//! (a command, the mount of a path, a config by its source) is replaced.
//! Deliberately not here: what the values mean; a wrong one is refused when it is read.

use super::yaml::{Entry, Node, Scalar, Value};

/// How the values of a key are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Maps by key, lists one behind the other, anything else replaced.
    Deep,
    /// The later one only.
    Replace,
    /// `KEY=value` lists and maps alike, by key.
    Pairs(char),
    /// A name or a list of names, one behind the other.
    Names,
    /// A list of names, or a map by name.
    Attachments,
    /// Mounts, by the path in the container.
    Mounts,
    /// Configs and secrets, by the object they show.
    Sources,
    /// By driver: options of another driver mean nothing.
    Logging,
}

/// Of a key in a service, by its path there.
fn rule(path: &str) -> Rule {
    match path {
        "command" | "entrypoint" | "healthcheck.test" | "x-skein.schedule" => Rule::Replace,
        "environment" | "labels" | "deploy.labels" | "annotations" | "sysctls" => Rule::Pairs('='),
        "extra_hosts" => Rule::Pairs(':'),
        "env_file" | "dns" | "dns_search" | "tmpfs" => Rule::Names,
        "networks" | "depends_on" => Rule::Attachments,
        "volumes" => Rule::Mounts,
        "configs" | "secrets" => Rule::Sources,
        "logging" => Rule::Logging,
        _ if path.starts_with("ulimits.") => Rule::Replace,
        _ => Rule::Deep,
    }
}

/// The root of one file over the root of another.
pub fn roots(base: Node, over: Node) -> Node {
    let place = |path: &str| match path.split('.').collect::<Vec<_>>().as_slice() {
        ["services", _, inner @ ..] if !inner.is_empty() => rule(&inner.join(".")),
        _ => Rule::Deep,
    };
    deep(base, over, "", &place)
}

fn merge(base: Node, over: Node, path: &str, place: &dyn Fn(&str) -> Rule) -> Node {
    // `ports:` says nothing, so it takes nothing away.
    if is_empty(&over) {
        return base;
    }
    if is_empty(&base) {
        return over;
    }
    match place(path) {
        Rule::Deep => deep(base, over, path, place),
        Rule::Replace => over,
        Rule::Pairs(separator) => pairs(base, over, separator),
        Rule::Names => append(as_list(base), as_list(over)),
        Rule::Attachments => attachments(base, over, path, place),
        Rule::Mounts => by_identity(base, over, &mount_target),
        Rule::Sources => by_identity(base, over, &|item| text_of(item, "source")),
        Rule::Logging if driver(&base) != driver(&over) && driver(&over).is_some() => over,
        Rule::Logging => deep(base, over, path, place),
    }
}

fn deep(base: Node, over: Node, path: &str, place: &dyn Fn(&str) -> Rule) -> Node {
    match (base.value, over.value) {
        (Value::Map(mut entries), Value::Map(others)) => {
            for other in others {
                let path = if path.is_empty() { other.key.clone() } else { format!("{path}.{}", other.key) };
                match entries.iter_mut().find(|entry| entry.key == other.key) {
                    Some(entry) => {
                        let known = std::mem::replace(&mut entry.value, nothing(&other.value));
                        let said_again = !is_empty(&other.value);
                        entry.value = merge(known, other.value, &path, place);
                        if said_again && !matches!(entry.value.value, Value::Map(_)) {
                            entry.key_at = other.key_at;
                        }
                    }
                    None => entries.push(other),
                }
            }
            Node { at: base.at, value: Value::Map(entries) }
        }
        (base_value @ Value::List(_), over_value @ Value::List(_)) => {
            append(Node { at: base.at, value: base_value }, Node { at: over.at, value: over_value })
        }
        (_, value) => Node { at: over.at, value },
    }
}

/// What is listed twice is listed once.
fn append(base: Node, over: Node) -> Node {
    match (base.value, over.value) {
        (Value::List(mut items), Value::List(others)) => {
            for other in others {
                if !items.iter().any(|item| is_same(item, &other)) {
                    items.push(other);
                }
            }
            Node { at: base.at, value: Value::List(items) }
        }
        (_, value) => Node { at: over.at, value },
    }
}

fn pairs(base: Node, over: Node, separator: char) -> Node {
    deep(as_map(base, separator), as_map(over, separator), "", &|_| Rule::Replace)
}

fn attachments(base: Node, over: Node, path: &str, place: &dyn Fn(&str) -> Rule) -> Node {
    match (&base.value, &over.value) {
        (Value::List(_), Value::List(_)) => append(base, over),
        _ => deep(as_map(base, '\0'), as_map(over, '\0'), path, place),
    }
}

/// Items that stand for the same thing are replaced where they are; others are added.
fn by_identity(base: Node, over: Node, identity: &dyn Fn(&Node) -> Option<String>) -> Node {
    match (base.value, over.value) {
        (Value::List(mut items), Value::List(others)) => {
            for other in others {
                let wanted = identity(&other);
                match items.iter_mut().find(|item| wanted.is_some() && identity(item) == wanted) {
                    Some(item) => *item = other,
                    None => items.push(other),
                }
            }
            Node { at: base.at, value: Value::List(items) }
        }
        (_, value) => Node { at: over.at, value },
    }
}

/// `data:/path:ro` and `target: /path` are mounts of `/path`.
fn mount_target(item: &Node) -> Option<String> {
    match &item.value {
        Value::Scalar(scalar) => {
            let parts: Vec<&str> = scalar.text.split(':').collect();
            parts.get(usize::from(parts.len() > 1)).map(|target| (*target).to_owned())
        }
        _ => text_of(item, "target"),
    }
}

/// A text itself, or the text at a key of a map.
fn text_of(item: &Node, key: &str) -> Option<String> {
    match &item.value {
        Value::Scalar(scalar) => Some(scalar.text.clone()),
        Value::Map(entries) => match &entries.iter().find(|entry| entry.key == key)?.value.value {
            Value::Scalar(scalar) => Some(scalar.text.clone()),
            _ => None,
        },
        Value::List(_) => None,
    }
}

fn driver(node: &Node) -> Option<String> {
    match &node.value {
        Value::Map(_) => text_of(node, "driver"),
        _ => None,
    }
}

/// A list of `KEY=value` as a map; anything that is no such list stays as it is.
fn as_map(node: Node, separator: char) -> Node {
    let Node { at, value } = node;
    let items = match value {
        Value::List(items) if items.iter().all(|item| matches!(item.value, Value::Scalar(_))) => items,
        value => return Node { at, value },
    };
    let entry = |item: Node| {
        let text = text_of(&item, "").unwrap_or_default();
        let (key, value) = match text.split_once(separator) {
            Some((key, value)) => (key.to_owned(), Scalar { text: value.to_owned(), plain: false }),
            None => (text, Scalar { text: String::new(), plain: true }),
        };
        Entry { key, key_at: item.at, value: Node { at: item.at, value: Value::Scalar(value) } }
    };
    let mut entries: Vec<Entry> = Vec::new();
    for entry in items.into_iter().map(entry) {
        entries.retain(|known| known.key != entry.key);
        entries.push(entry);
    }
    Node { at, value: Value::Map(entries) }
}

fn as_list(node: Node) -> Node {
    match node.value {
        Value::Scalar(_) => Node { at: node.at, value: Value::List(vec![node]) },
        _ => node,
    }
}

fn is_empty(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar(scalar) if scalar.is_null())
}

fn nothing(like: &Node) -> Node {
    Node { at: like.at, value: Value::Scalar(Scalar { text: String::new(), plain: true }) }
}

/// The same text, wherever it stands.
fn is_same(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::Scalar(a), Value::Scalar(b)) => a.text == b.text,
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b)),
        (Value::Map(a), Value::Map(b)) => {
            a.len() == b.len()
                && a.iter().all(|x| b.iter().any(|y| x.key == y.key && is_same(&x.value, &y.value)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compose::{print, yaml},
        output::yaml::render,
    };

    fn service(text: &str) -> Node {
        let text: String = text.lines().map(|line| format!("    {line}\n")).collect();
        yaml::parse(&format!("services:\n  web:\n{text}"), 0).unwrap().0.unwrap()
    }

    #[test]
    fn each_key_by_its_rule() {
        for (base, over, merged) in [
            ("image: a\nuser: x", "image: b", "image: b\nuser: x"),
            ("image: a", "image:", "image: a"),
            ("command: [a, b]", "command: c", "command: c"),
            (
                "healthcheck: { test: [CMD, a], retries: 3 }",
                "healthcheck: { test: b }",
                "healthcheck:\n  retries: 3\n  test: b",
            ),
            (
                "environment: [A=1, B=2, C]",
                "environment: { B: x, D: z }",
                "environment:\n  A: \"1\"\n  B: x\n  C: null\n  D: z",
            ),
            ("environment: { A: 1 }", "environment: [A=2]", "environment:\n  A: \"2\""),
            ("labels: [a=1]", "labels: [b=2]", "labels:\n  a: \"1\"\n  b: \"2\""),
            (
                "deploy: { labels: { a: x } }",
                "deploy: { replicas: 2, labels: [b=y] }",
                "deploy:\n  labels:\n    a: x\n    b: \"y\"\n  replicas: 2",
            ),
            ("ports: ['80:80']", "ports: ['80:80', '81:81']", "ports:\n  - \"80:80\"\n  - \"81:81\""),
            (
                "volumes: ['data:/d', './a:/b']",
                "volumes: [{ type: tmpfs, target: /d }, 'x:/c']",
                "volumes:\n  - target: /d\n    type: tmpfs\n  - \"./a:/b\"\n  - x:/c",
            ),
            (
                "configs: [a, b]",
                "configs: [{ source: b, target: /b }]",
                "configs:\n  - a\n  - source: b\n    target: /b",
            ),
            (
                "networks: [a]",
                "networks: { b: { aliases: [x] } }",
                "networks:\n  a: null\n  b:\n    aliases:\n      - x",
            ),
            ("networks: [a, b]", "networks: [b, c]", "networks:\n  - a\n  - b\n  - c"),
            ("env_file: a.env", "env_file: [b.env]", "env_file:\n  - a.env\n  - b.env"),
            (
                "logging: { driver: a, options: { x: '1' } }",
                "logging: { options: { z: '2' } }",
                "logging:\n  driver: a\n  options:\n    x: \"1\"\n    z: \"2\"",
            ),
            (
                "logging: { driver: a, options: { x: '1' } }",
                "logging: { driver: b }",
                "logging:\n  driver: b",
            ),
            (
                "ulimits: { nofile: { soft: 1, hard: 2 }, nproc: 3 }",
                "ulimits: { nofile: 5 }",
                "ulimits:\n  nofile: 5\n  nproc: 3",
            ),
            ("cap_add: [A]", "cap_add: [A, B]", "cap_add:\n  - A\n  - B"),
            ("image: a", "user: [wrong]", "image: a\nuser:\n  - wrong"),
        ] {
            let result = roots(service(base), service(over));
            let text = render(&print::value(&result)["services"]["web"]);
            assert_eq!(text.trim_end(), merged, "{base}\n{over}");
        }
    }
}
