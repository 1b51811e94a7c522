//! Whatever the text says, reading it ends with a stack or with findings.

use proptest::prelude::{Strategy as Generator, prop, prop_assert, proptest};

use super::*;

#[test]
fn no_billion_laughs() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let items = format!("*a{}, ", level - 1).repeat(10);
        text.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    assert!(findings(&text).contains("more than 100000 values"));
    let mut deep = "a0: &a0 [x]\n".to_owned();
    for level in 1..200 {
        deep.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    assert!(findings(&deep).contains("nested more than 64 deep"));
    assert!(!findings(&"[".repeat(5000)).is_empty());
    assert!(findings(&"#".repeat(yaml::MAX_BYTES + 1)).contains("more than 1048576"));
}

/// Pieces that Compose files are made of, to reach deeper than arbitrary text would.
fn yamlish() -> impl Generator<Value = String> {
    let word = prop::sample::select(vec![
        "services",
        "web",
        "image",
        "ports",
        "volumes",
        "deploy",
        "replicas",
        "environment",
        "healthcheck",
        "test",
        "command",
        "networks",
        "80:80",
        "0440",
        "~",
        "true",
        "1m30s",
        "512M",
        "${A:-b}",
        "$$",
        "${",
        "*a",
        "&a",
        "<<",
        "./x:/y:ro",
        "node.labels.a == b",
        "- ",
        ": ",
        ":\n  ",
        "\n    ",
        "\n",
        "{",
        "}",
        "[",
        "]",
        ",",
        "'",
        "\"",
        "#",
        "|",
        ">",
        "!!str",
        "---",
        "\t",
        "é",
        "x-skein",
        "name",
        "tmpfs",
        "type",
        "target",
        "published",
        "mode",
    ]);
    prop::collection::vec(word, 0..60).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}|(?s).{0,200}") {
        let _ = read_as(None, &text);
    }

    #[test]
    fn arbitrary_pieces_never_panic(text in yamlish()) {
        let _ = read_as(None, &text);
        let _ = read_as(None, &format!("services:\n  web:\n    image: x\n    {text}"));
    }

    #[test]
    fn arbitrary_values_never_panic(key in prop::sample::select(vec![
        "image", "command", "entrypoint", "environment", "env_file", "labels", "ports", "volumes", "healthcheck",
        "stop_signal", "stop_grace_period", "user", "working_dir", "deploy", "networks", "tmpfs",
    ]), value in "\\PC{0,40}") {
        let _ = read_as(None, &web(&format!("{key}: {value}")));
        let quoted = value.replace('\'', "''");
        let _ = read_as(None, &web(&format!("{key}: '{quoted}'")));
        let _ = read_as(None, &web(&format!("{key}: ['{quoted}', {{ '{quoted}': '{quoted}' }}]")));
    }

    #[test]
    fn what_is_read_is_valid(replicas in 0u32..1000, port in 1u16.., name in "[a-z][a-z0-9_-]{0,20}") {
        let text = format!("services:\n  {name}:\n    image: x\n    ports: ['{port}:80']\n    deploy: {{replicas: {replicas}}}");
        if let Ok(stack) = read_as(None, &text) {
            for service in stack.services {
                prop_assert!(service.spec.violations().0.is_empty());
            }
        }
    }
}
