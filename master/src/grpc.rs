//! The API: one file a service, each rpc decode → call → encode, and the pieces they share.
//!
//! Invariant: wire types live here and in `sessions`; what goes further in is domain values. Errors
//! leave through [`crate::status::CallError`] only.
//! Deliberately not here: the servers and their limits (`server.rs`).

pub mod agent;
mod autoscale;
mod balance;
pub mod cluster;
pub mod config;
pub mod decode;
pub mod event;
mod explain;
pub mod instance;
pub mod node;
pub mod page;
mod plan;
pub mod proxy;
pub mod read;
pub mod service;
pub mod usage;
pub mod view;
pub mod watch;
pub mod write;

use tonic::{Response, Status};

use crate::{exec::ExecCalls, leadership::Seat, logs::LogCalls, store::Store};
use proxy::Proxy;
use watch::Watches;

type Answer<T> = Result<Response<T>, Status>;

/// Work that takes a while, off the threads that serve streams.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is going down, and this call with it.
        Err(_) => std::future::pending().await,
    }
}

/// What every service of the API needs.
#[derive(Debug)]
pub struct Api {
    store: Store,
    seat: Seat,
    watches: Watches,
    proxy: Proxy,
    logs: LogCalls,
    exec: ExecCalls,
}

impl Api {
    #[must_use]
    pub fn new(store: Store, seat: Seat, watches: Watches) -> Self {
        let proxy = Proxy::new(store.clone(), seat.clone());
        let logs = LogCalls::new(store.clone(), proxy.clone());
        let exec = ExecCalls::new(store.clone(), proxy.clone());
        Self { store, seat, watches, proxy, logs, exec }
    }
}
