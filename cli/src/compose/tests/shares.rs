//! Weights, what canaries get, checks and how long a request is held.

use std::time::Duration;

use skein_common::service::{ActiveCheck, NodeWeight};

use super::{findings, stack};

fn compose(balance: &str) -> String {
    format!("name: shop\nservices:\n  web:\n    image: x\n    x-skein:\n      balance: {balance}\n")
}

#[test]
fn shares_and_checks_are_read() {
    let text = compose(
        "{ mode: http, affinity: 10m, weights: [{ label: size=large, weight: 300 }, { label: zone=b, weight: 0 }], \
         canary_share: 0.05, timeouts: { hold: 30s }, check: { path: /healthz, fall: 5, interval: 500ms } }",
    );
    let policy = stack(&text).services.remove(0).spec.balance;
    let rule =
        |label: &str, value: &str, weight| NodeWeight { label: label.into(), value: value.into(), weight };
    assert_eq!(policy.weights, [rule("size", "large", 300), rule("zone", "b", 0)]);
    assert_eq!((policy.canary_permille, policy.timeouts.hold), (Some(50), Some(Duration::from_secs(30))));
    assert_eq!(policy.affinity, Some(Duration::from_secs(600)));
    let check = ActiveCheck {
        path: Some("/healthz".to_owned()),
        interval: Duration::from_millis(500),
        fall: 5,
        ..ActiveCheck::default()
    };
    assert_eq!(policy.check, Some(check));
    let of = |text: &str| stack(&compose(text)).services.remove(0).spec.balance.check;
    assert_eq!(of("{ check: tcp }"), Some(ActiveCheck::default()));
    assert_eq!(of("{ check: /up }").unwrap().path.as_deref(), Some("/up"));
    assert_eq!(of("{}"), None);
}

#[test]
fn what_is_wrong_is_said_at_its_place() {
    for (balance, said) in [
        ("{ weights: [{ label: zone, weight: 1 }] }", "expected a node's label: NAME=VALUE"),
        ("{ weights: [{ label: a=b, weight: 2000000 }] }", "2000000 is more than 1000000"),
        ("{ canary_share: 2 }", "expected a part from 0 to 1"),
        ("{ check: { path: healthz } }", "\"healthz\" is not a path: it begins with /"),
        ("{ check: { interval: 1ms } }", "at least 100 ms"),
        ("{ mode: http, upstream: h2c, check: /up }", "can be checked by connecting"),
        ("{ affinity: 10ms }", "at least 1 s"),
        ("{ affinity: 1m, algorithm: consistent_hash }", "use one of them"),
        ("{ timeouts: { hold: 1h } }", "more than 600 s"),
    ] {
        let found = findings(&compose(balance));
        assert!(found.contains(said), "{balance}: {found}");
    }
}
