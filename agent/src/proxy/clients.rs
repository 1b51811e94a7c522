//! Which endpoint a client had, by its address: session affinity in mode tcp.
//!
//! Invariant: bounded. What has not been asked for in the policy's time is forgotten; when there are too many clients,
//! newcomers go where the algorithm says.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Clients of one port on one node: about 4 MB.
const CLIENTS_MAX: usize = 65_536;
/// Forgetting looks at all of them, so it is not done for every newcomer of a full table.
const FORGET_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// The endpoint's mark, and when it was last asked for.
    known: HashMap<IpAddr, (u64, Instant)>,
    forgot: Option<Instant>,
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The endpoint that this client had within `time`.
    pub(crate) fn had(&self, client: IpAddr, time: Duration, now: Instant) -> Option<u64> {
        let table = self.lock();
        let (mark, at) = table.known.get(&client.to_canonical())?;
        (now.duration_since(*at) <= time).then_some(*mark)
    }

    /// The client has this one now.
    pub(crate) fn has(&self, client: IpAddr, mark: u64, time: Duration, now: Instant) {
        let mut table = self.lock();
        let client = client.to_canonical();
        let is_full = table.known.len() >= CLIENTS_MAX && !table.known.contains_key(&client);
        if is_full && table.forgot.is_none_or(|at| now.duration_since(at) >= FORGET_EVERY) {
            table.forgot = Some(now);
            table.known.retain(|_, (_, at)| now.duration_since(*at) <= time);
        }
        if !is_full || table.known.len() < CLIENTS_MAX {
            table.known.insert(client, (mark, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn clients_are_known_for_a_time_and_bounded() {
        let (clients, began, time) = (Clients::default(), Instant::now(), Duration::from_secs(60));
        let at = |seconds| began + Duration::from_secs(seconds);
        clients.has(client(1), 7, time, at(0));
        assert_eq!(clients.had(client(1), time, at(60)), Some(7));
        assert_eq!(clients.had(client(1), time, at(61)), None);
        assert_eq!(clients.had(client(2), time, at(0)), None);
        for number in 2..=70_000 {
            clients.has(client(number), 8, time, at(30));
        }
        assert_eq!(clients.lock().known.len(), CLIENTS_MAX);
        assert_eq!(clients.had(client(70_000), time, at(30)), None, "no room");
        clients.has(client(70_000), 9, time, at(100));
        assert_eq!((clients.had(client(70_000), time, at(100)), clients.lock().known.len()), (Some(9), 1));
    }
}
