//! Whether the engine's own network keeps its hardware address.
//!
//! Docker 20.10 on a new kernel leaves its bridge with the lowest address of its ports: when that port goes with its
//! container, the others answer to an address that nobody has, until their ARP entry runs out (seconds). Connections
//! through them fall silent. Told, not mended: the bridge is the engine's.

use std::{fs, path::Path};

/// The bridge of the network containers are put on.
const BRIDGE: &str = "/sys/class/net/docker0";
/// `NET_ADDR_SET`: somebody has set it, so it stays (Linux, Documentation/ABI/testing/sysfs-class-net).
const SET: &str = "3";

/// Warns when the address comes and goes with containers.
pub(super) fn check() {
    if is_loose(Path::new(BRIDGE)) {
        tracing::warn!(
            "docker0 has no hardware address of its own: connections may fall silent for seconds whenever a container \
             goes; run: ip link set dev docker0 address 02:42:ac:11:00:01"
        );
    }
}

fn is_loose(bridge: &Path) -> bool {
    fs::read_to_string(bridge.join("addr_assign_type")).is_ok_and(|kind| kind.trim() != SET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_was_set_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(!is_loose(folder.path()), "no such bridge");
        for (kind, loose) in [("0\n", true), ("1\n", true), ("2\n", true), ("3\n", false)] {
            fs::write(folder.path().join("addr_assign_type"), kind).expect("written");
            assert_eq!(is_loose(folder.path()), loose, "{kind}");
        }
    }
}
