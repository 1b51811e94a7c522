//! What the liveness controller concluded about nodes.

use skein_common::{
    event::Severity,
    node::{Liveness, Node},
};

use super::{Answer, Step};
use crate::command::{Outcome, Verdict};

/// Verdicts on nodes that are gone or have changed since, and repeated ones, change nothing.
pub(super) fn judge(step: &mut Step<'_>, verdicts: &[Verdict]) -> Answer {
    for verdict in verdicts {
        let Some(before) = step.state.nodes.get(&verdict.node).cloned() else { continue };
        if verdict.drawn_from.is_some_and(|revision| revision != before.modified_revision) {
            continue;
        }
        if before.liveness == verdict.liveness && before.liveness_reason == verdict.reason {
            continue;
        }
        let mut node = Node { liveness_reason: verdict.reason.clone(), ..Node::clone(&before) };
        if before.liveness != verdict.liveness {
            node.liveness = verdict.liveness;
            node.liveness_at = step.state.time;
        }
        step.put_node(node.clone());
        tell(step, &node);
    }
    Ok(Outcome::Done)
}

fn tell(step: &mut Step<'_>, node: &Node) {
    let name = &node.description.name;
    let (severity, reason, message) = match node.liveness {
        Liveness::Ready => (Severity::Info, "NodeReady", format!("node {name} is back")),
        Liveness::Unknown => {
            (Severity::Warning, "NodeUnknown", format!("node {name} is late: {}", node.liveness_reason))
        }
        Liveness::Down => {
            (Severity::Warning, "NodeDown", format!("node {name} is given up: {}", node.liveness_reason))
        }
    };
    step.node_event(severity, reason, node, message);
}
