//! Who leads, as far as this master can tell.
//!
//! Invariant: a master calls itself leader only while a quorum has answered within the lease, and
//! calls another one leader only while it hears from it; so nobody waits on a leader that is cut
//! off. Leadership is no lock: only the log decides.
//! Deliberately not here: what a leader does with it (`leadership` of the crate, `controllers/`).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use openraft::{Instant as _, async_runtime::watch::WatchReceiver as _};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::raft::{MemberNode, Raft, Timing, TypeConfig, fatal::FatalHandler};

/// The leader, as this master sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leadership {
    pub leader_id: Option<u64>,
    pub leader: Option<MemberNode>,
    /// Only grows. At most one leader has it.
    pub term: u64,
    /// This master leads, and a quorum knows.
    pub is_self: bool,
}

/// When a leader last said something to this master.
#[derive(Debug, Clone, Default)]
pub struct LastHeard(Arc<Mutex<Option<Instant>>>);

impl LastHeard {
    pub fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn within(&self, time: Duration) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|heard| heard.elapsed() < time)
    }
}

/// Turns openraft's metrics into [`Leadership`].
pub struct Observer {
    pub raft: Raft,
    pub last_heard: LastHeard,
    pub timing: Timing,
    pub fatal: FatalHandler,
    pub leadership: watch::Sender<Leadership>,
}

impl Observer {
    pub async fn run(self, stop: CancellationToken) {
        let mut server = self.raft.server_metrics();
        let mut all = self.raft.metrics();
        // Just elected: the first answers of a quorum are awaited, and only `all` tells.
        let mut unconfirmed = false;
        let mut tick = tokio::time::interval(Duration::from_millis(self.timing.heartbeat_ms));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                changed = server.changed() => if changed.is_err() { break },
                changed = all.changed(), if unconfirmed => if changed.is_err() { break },
                _ = tick.tick() => {}
            }
            match self.observe() {
                Ok((seen, elected)) => {
                    unconfirmed = elected && !seen.is_self;
                    self.publish(seen);
                }
                Err(openraft::errors::Fatal::Stopped) => break,
                Err(fatal) => {
                    self.fatal.call(&format!("consensus has failed: {fatal}"));
                    break;
                }
            }
        }
        if !stop.is_cancelled() {
            self.fatal.call("consensus has ended by itself");
        }
        self.leadership.send_modify(|seen| *seen = Leadership { term: seen.term, ..Leadership::default() });
    }

    /// The leadership, and whether this master is elected, confirmed or not.
    fn observe(&self) -> Result<(Leadership, bool), openraft::errors::Fatal<TypeConfig>> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.running_state.clone()?;
        let lease = Duration::from_millis(self.timing.lease_ms());
        let is_self = metrics.current_leader == Some(metrics.id);
        let alive = if is_self {
            metrics.last_quorum_acked.is_some_and(|acked| acked.elapsed() < lease)
                || metrics.membership_config.voter_ids().count() == 1
        } else {
            // One heartbeat of grace beyond the time after which it would be deposed.
            self.last_heard.within(lease + Duration::from_millis(self.timing.heartbeat_ms))
        };
        let leader_id = metrics.current_leader.filter(|_| alive);
        let seen = Leadership {
            leader_id,
            leader: leader_id.and_then(|id| metrics.membership_config.get_node(&id).cloned()),
            term: metrics.current_term,
            is_self: is_self && alive,
        };
        Ok((seen, is_self))
    }

    fn publish(&self, seen: Leadership) {
        self.leadership.send_if_modified(|known| {
            if *known == seen {
                return false;
            }
            if known.leader_id != seen.leader_id || known.term != seen.term {
                tracing::info!(
                    leader = seen.leader.as_ref().map(|leader| leader.name.as_str()),
                    term = seen.term,
                    is_self = seen.is_self,
                    "leadership changed"
                );
            }
            *known = seen;
            true
        });
    }
}
