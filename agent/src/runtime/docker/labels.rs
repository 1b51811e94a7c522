//! Whose a container is and which attempt of which instance: Docker labels, both ways.
//!
//! Invariant: a container without this owner's cluster *and* node label is foreign; nothing
//! in `docker` acts on it. What `write` writes, `read` reads back.

use std::{collections::HashMap, str::FromStr};

use skein_common::{InstanceId, service::Generation};

use super::super::{Identity, Owner};

const CLUSTER: &str = "io.skein.cluster";
const NODE: &str = "io.skein.node";
const SERVICE: &str = "io.skein.service";
const SERVICE_NAME: &str = "io.skein.service-name";
const SLOT: &str = "io.skein.slot";
pub(super) const INSTANCE: &str = "io.skein.instance";
const ATTEMPT: &str = "io.skein.attempt";
const GENERATION: &str = "io.skein.generation";

/// Adds ours to the user's; ours win.
pub(super) fn write(labels: &mut HashMap<String, String>, owner: Owner, identity: &Identity) {
    let ours = [
        (CLUSTER, owner.cluster.to_string()),
        (NODE, owner.node.to_string()),
        (SERVICE, identity.service.to_string()),
        (SERVICE_NAME, identity.service_name.clone()),
        (SLOT, identity.slot.to_string()),
        (INSTANCE, identity.instance.to_string()),
        (ATTEMPT, identity.attempt.to_string()),
        (GENERATION, identity.generation.to_string()),
    ];
    labels.extend(ours.map(|(name, value)| (name.to_owned(), value)));
}

/// Values of the engine's `label` filter that select the owner's containers, or of those only
/// one instance's.
pub(super) fn filter(owner: Owner, only: Option<InstanceId>) -> Vec<String> {
    let owners = [format!("{CLUSTER}={}", owner.cluster), format!("{NODE}={}", owner.node)];
    owners.into_iter().chain(only.map(|instance| format!("{INSTANCE}={instance}"))).collect()
}

/// Whether the owner made it.
pub(super) fn belongs_to(labels: &HashMap<String, String>, owner: Owner) -> bool {
    field(labels, CLUSTER) == Some(owner.cluster) && field(labels, NODE) == Some(owner.node)
}

/// `None` when a label is missing or unreadable.
pub(super) fn read(labels: &HashMap<String, String>) -> Option<Identity> {
    Some(Identity {
        instance: field(labels, INSTANCE)?,
        attempt: field(labels, ATTEMPT)?,
        service: field(labels, SERVICE)?,
        service_name: labels.get(SERVICE_NAME)?.clone(),
        slot: field(labels, SLOT)?,
        generation: Generation(field(labels, GENERATION)?),
    })
}

fn field<T: FromStr>(labels: &HashMap<String, String>, name: &str) -> Option<T> {
    labels.get(name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use skein_common::{ClusterId, NodeId, ServiceId};

    use super::*;

    fn identity() -> Identity {
        Identity {
            instance: InstanceId::from_random(1),
            attempt: 2,
            service: ServiceId::from_random(3),
            service_name: "web".to_owned(),
            slot: 4,
            generation: Generation(5),
        }
    }

    const OWNER: fn(u64, u64) -> Owner =
        |cluster, node| Owner { cluster: ClusterId::from_random(cluster), node: NodeId::from_random(node) };

    #[test]
    fn what_is_written_is_read() {
        let mut labels = HashMap::from([("io.skein.node".to_owned(), "a lie".to_owned())]);
        write(&mut labels, OWNER(1, 2), &identity());
        assert_eq!(read(&labels), Some(identity()));
        assert!(belongs_to(&labels, OWNER(1, 2)));
        assert!(!belongs_to(&labels, OWNER(1, 3)), "another node");
        assert!(!belongs_to(&labels, OWNER(3, 2)), "another cluster");
    }

    #[test]
    fn a_missing_or_broken_label_is_no_identity() {
        for name in [SERVICE, SERVICE_NAME, SLOT, INSTANCE, ATTEMPT, GENERATION] {
            let mut labels = HashMap::new();
            write(&mut labels, OWNER(1, 2), &identity());
            labels.remove(name);
            assert_eq!(read(&labels), None, "{name} missing");
            if name != SERVICE_NAME {
                labels.insert(name.to_owned(), "?".to_owned());
                assert_eq!(read(&labels), None, "{name} broken");
            }
        }
    }
}
