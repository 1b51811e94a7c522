//! The kernel's table of network interfaces, `/proc/net/dev`.
//!
//! Why not sysinfo: it reads a dozen files for each interface, and a node has one for each
//! container, whose traffic would be counted a second and a third time on the bridge.
//!
//! Invariant: a table of another shape gives zeros, never an error.

/// Bytes since the interfaces came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    pub receive_bytes: u64,
    pub transmit_bytes: u64,
}

/// Columns after the interface's name.
const RECEIVE_BYTES: usize = 0;
const TRANSMIT_BYTES: usize = 8;

/// The sum over the interfaces that `counts`.
pub fn total(table: &str, counts: impl Fn(&str) -> bool) -> Traffic {
    let mut total = Traffic::default();
    for (_, traffic) in interfaces(table).filter(|(name, _)| counts(name)) {
        total.receive_bytes = total.receive_bytes.wrapping_add(traffic.receive_bytes);
        total.transmit_bytes = total.transmit_bytes.wrapping_add(traffic.transmit_bytes);
    }
    total
}

pub fn interfaces(table: &str) -> impl Iterator<Item = (&str, Traffic)> {
    table.lines().filter_map(|line| {
        let (name, columns) = line.split_once(':')?;
        let mut columns = columns.split_whitespace();
        let receive_bytes = columns.nth(RECEIVE_BYTES)?.parse().ok()?;
        let transmit_bytes = columns.nth(TRANSMIT_BYTES - RECEIVE_BYTES - 1)?.parse().ok()?;
        Some((name.trim(), Traffic { receive_bytes, transmit_bytes }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "Inter-|   Receive                        |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo: 100 1 0 0 0 0 0 0 100 1 0 0 0 0 0 0
  eth0:1000 2 0 0 0 0 0 0 2000 3 0 0 0 0 0 0
vethab: 7 2 0 0 0 0 0 0 8 3 0 0 0 0 0 0
broken: 7 x
";

    #[test]
    fn sums_what_counts() {
        let names: Vec<_> = interfaces(TABLE).map(|(name, _)| name).collect();
        assert_eq!(names, ["lo", "eth0", "vethab"]);
        let all = total(TABLE, |name| name != "lo");
        assert_eq!(all, Traffic { receive_bytes: 1007, transmit_bytes: 2008 });
        assert_eq!(total("nonsense", |_| true), Traffic::default());
    }
}
