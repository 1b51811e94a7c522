//! Constraints, as tables.

use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn each_operator_holds_as_it_says() {
    let set = labels(&[("zone", "a"), ("cores", "16"), (POOL_LABEL, "spot")]);
    let agent = labels(&[("zone", "hidden"), ("kernel", "5.10.0-rc2"), ("driver", "v535.104")]);
    let node = ConstraintSubject {
        id: "x",
        name: "n1",
        address: "10.1.2.3",
        os: "linux",
        arch: "amd64",
        labels: &set,
        agent_labels: &agent,
    };
    for (text, holds) in [
        ("node.labels.zone == a", true),
        ("node.labels.zone==b", false),
        ("node.labels.zone != b", true),
        ("node.labels.disk == ssd", false),
        ("node.labels.disk != ssd", true),
        ("node.hostname == n1", true),
        ("node.platform.arch != amd64", false),
        ("node.pool == spot", true),
        ("node.pool in (spot, reserved)", true),
        ("node.labels.zone notin (a,b)", false),
        ("node.labels.disk notin (hdd)", true),
        ("node.labels.zone exists", true),
        ("node.labels.disk exists", false),
        ("node.labels.disk !exists", true),
        ("node.name regex ^n[0-9]+$", true),
        ("node.name regex ^m", false),
        ("node.labels.cores >= 16", true),
        ("node.labels.cores < 16", false),
        ("node.labels.cores>8.5", true),
        ("node.labels.zone <= 3", false),
        ("node.labels.kernel version >= 5.4, < 5.10", true),
        ("node.labels.kernel version >= 5.10", false),
        ("node.labels.driver version == 535.104.0", true),
        ("node.labels.zone version > 0", false),
        ("node.address == 10.1.0.0/16", true),
        ("node.ip != 10.2.0.0/16", true),
        ("node.address in (192.168.0.0/24, 10.1.2.3)", true),
        ("node.address == ::/0", false),
        ("node.address == 0.0.0.0/0", true),
    ] {
        let constraint: Constraint = text.parse().expect(text);
        assert_eq!(constraint.holds(node), holds, "{text}");
        assert_eq!(constraint.to_string().parse(), Ok(constraint), "{text}");
    }
}

#[test]
fn malformed_text_says_what_is_expected() {
    for (text, expected) in [
        ("zone", "is not a constraint"),
        ("node.labels. == a", "is unknown"),
        ("node.color == red", "is unknown"),
        ("node.id ==", "is not a constraint"),
        ("node.id like x", "is not a constraint"),
        ("node.id exists x", "is not a constraint"),
        ("node.labels.a in a, b", "is not a list"),
        ("node.labels.a in (a,,b)", "is not a list"),
        ("node.labels.a regex (", "is not a regular expression"),
        ("node.labels.a < many", "is not a number"),
        ("node.labels.a version >= new", "is not a version range"),
        ("node.address == 10.0.0.0/33", "is not a network"),
    ] {
        let error = text.parse::<Constraint>().expect_err(text);
        assert!(error.to_string().contains(expected), "{text}: {error}");
    }
}
