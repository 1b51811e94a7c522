//! Reports of all sessions → one command at a time.
//!
//! Invariant: what was accepted is proposed until it is committed or leadership ends; then every
//! session has ended too, and agents tell everything again in their next Hello. Proposing twice is
//! harmless: progress only grows. Whatever arrives while a command commits is the next one.

use std::{error::Error, time::Duration};

use skein_common::instance::News;
use skein_master_core::{
    ClusterState, Command, CommandKind,
    command::{Actor, Report},
};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{clock, store::Store};

/// Messages of sessions that wait; a session whose message finds no room waits, and its agent too.
const QUEUE: usize = 1024;
/// Reports in one command: some hundred bytes each.
const MAX_REPORTS: usize = 4096;
/// After a command that was not committed.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Where sessions put what their agents report.
#[derive(Debug, Clone)]
pub struct Reports(mpsc::Sender<Vec<Report>>);

impl Reports {
    /// Waits for room; `false` when the observer has ended.
    pub async fn send(&self, reports: Vec<Report>) -> bool {
        reports.is_empty() || self.0.send(reports).await.is_ok()
    }
}

/// The leader's observer.
#[derive(Debug)]
pub struct Observer {
    store: Store,
    queue: mpsc::Receiver<Vec<Report>>,
}

impl Observer {
    #[must_use]
    pub fn new(store: Store) -> (Self, Reports) {
        let (sender, queue) = mpsc::channel(QUEUE);
        (Self { store, queue }, Reports(sender))
    }

    /// Until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = self.observe() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn observe(&mut self) {
        while let Some(mut reports) = self.queue.recv().await {
            while reports.len() < MAX_REPORTS
                && let Ok(more) = self.queue.try_recv()
            {
                reports.extend(more);
            }
            let state = self.store.snapshot();
            reports.retain(|report| is_news(&state, report));
            drop(state);
            // One Hello may bring more than a command should hold.
            for part in reports.chunks(MAX_REPORTS) {
                self.commit(part).await;
            }
        }
    }

    async fn commit(&self, reports: &[Report]) {
        loop {
            let kind = CommandKind::Observe { reports: reports.to_vec() };
            let actor = Actor::Controller("observer".to_owned());
            let command = Command { request: None, at: clock::now(), actor, kind };
            match self.store.propose(command).await {
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn Error, "reports not committed; proposed again");
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    }
}

/// Whether the state does not say so already: after a change of leader agents repeat everything.
fn is_news(state: &ClusterState, report: &Report) -> bool {
    state.instance(report.instance).is_some_and(|instance| match &report.news {
        _ if instance.node != Some(report.node) => false,
        News::Gone => true,
        News::Observed(observed) => instance.observed != *observed,
    })
}
