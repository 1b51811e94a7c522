//! How containers reach services by name: a name server of this node, and virtual addresses on its loopback interface.
//!
//! Invariant: a name is answered only after its address is there and listened on. Without the right to add addresses
//! neither is offered: it is said once, and containers keep the engine's resolvers.
//! Deliberately not here: what a name means (`agent/core`, `names`), traffic (`proxy`).

mod askers;
mod forward;
mod loopback;
mod server;
mod wire;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use skein_agent_core::names::Zone;
use tokio::time;
use tokio_util::sync::CancellationToken;

pub(crate) use self::askers::{Addresses, Askers};
pub use self::loopback::Loopback;
use self::server::Server;
use crate::runtime::ContainerRuntime;

/// Of the network that containers are put on: its address is the node's as they see it.
const BRIDGE: &str = "docker0";
/// An address that is taken or not there yet.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// How this node serves names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NamesConfig {
    /// The name server's; `None` = the engine's bridge. Added to the loopback interface when nobody has it.
    pub address: Option<Ipv4Addr>,
}

/// What the balancer serves names with.
#[derive(Debug, Clone)]
pub struct Names {
    pub(crate) zone: Arc<ArcSwap<Zone>>,
    pub(crate) loopback: Loopback,
}

/// The name server of this node; [`NameServer::run`] is to be spawned.
pub(crate) struct NameServer<R> {
    config: NamesConfig,
    names: Names,
    askers: Askers,
    runtime: Arc<R>,
}

impl<R: ContainerRuntime> NameServer<R> {
    pub(crate) fn new(config: NamesConfig, names: Names, askers: Askers, runtime: Arc<R>) -> Self {
        Self { config, names, askers, runtime }
    }

    /// Until `stop`. Containers are told of the server when it listens.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut trouble = String::new();
        loop {
            match self.listen().await {
                Ok((address, server)) => {
                    tracing::info!(%address, "names of services are answered");
                    self.runtime.resolve_with(Some(address));
                    server.run(stop).await;
                    return;
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != trouble {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "names of services are not answered on this node; trying on");
                        trouble = text;
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = time::sleep(TRY_AGAIN) => {}
            }
        }
    }

    async fn listen(&self) -> std::io::Result<(Ipv4Addr, Server)> {
        let loopback = &self.names.loopback;
        let address = match self.config.address {
            Some(address) => {
                loopback.hold(address)?;
                address
            }
            None => loopback.address_of(BRIDGE)?.ok_or_else(|| {
                std::io::Error::new(std::io::ErrorKind::NotFound, format!("{BRIDGE} has no address (yet)"))
            })?,
        };
        let server = Server::bind(address, Arc::clone(&self.names.zone), self.askers.clone()).await?;
        Ok((address, server))
    }
}

impl Names {
    /// `None` = this agent has not the right to add addresses; said here.
    #[must_use]
    pub fn open(node: skein_common::NodeId) -> Option<Self> {
        match Loopback::open(node) {
            Ok(loopback) => Some(Self { zone: Arc::default(), loopback }),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "this agent may not add addresses to the machine (CAP_NET_ADMIN): services are reached by their published ports only"
                );
                None
            }
        }
    }
}

/// Removes all addresses that this node has added; how many.
///
/// # Errors
/// The system does not let this process change addresses.
pub fn uninstall(node: skein_common::NodeId) -> std::io::Result<usize> {
    let loopback = Loopback::open(node)?;
    let held = loopback.held()?;
    held.iter().try_for_each(|address| loopback.release(*address))?;
    Ok(held.len())
}

/// The name server's own address would ask itself.
fn is_own(source: IpAddr, own: Ipv4Addr) -> bool {
    source.is_loopback() || source.to_canonical() == IpAddr::V4(own)
}
