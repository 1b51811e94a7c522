//! Ports for datagrams: table of endpoints → fronts and sockets.
//!
//! Invariant: as for connections; a port number may be served for both.

use std::{collections::BTreeSet, error::Error, io, net::SocketAddr, sync::Arc};

use skein_common::{
    endpoint::{BalancedPort, ServiceEndpoints},
    service::Protocol,
};
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::{Balancer, Front, Key, Served, TRY_AGAIN, key};

fn ports(service: &ServiceEndpoints) -> impl Iterator<Item = &BalancedPort> {
    service.ports.iter().filter(|port| port.protocol == Protocol::Udp)
}

impl Balancer {
    /// Makes fronts and sockets what the table says.
    pub(super) async fn serve_datagrams(&mut self, services: &[Arc<ServiceEndpoints>]) {
        let all = services.iter().flat_map(|service| ports(service).map(|port| key(service, port)));
        let wanted: BTreeSet<Key> = all.collect();
        let (kept, gone) =
            std::mem::take(&mut self.datagrams).into_iter().partition(|(key, _)| wanted.contains(key));
        self.datagrams = kept;
        for served in gone.into_values() {
            self.leaving.extend(served.front.leave());
        }
        for service in services {
            for port in ports(service) {
                let endpoints = self.resolve(&port.endpoints).await;
                let served = self.datagrams.entry(key(service, port)).or_insert_with(|| Served::new(service));
                self.leaving.extend(served.front.update(&service.policy, &endpoints));
                self.receive(service, port).await;
            }
        }
    }

    /// Opens the published port, unless it is open.
    async fn receive(&mut self, service: &ServiceEndpoints, port: &BalancedPort) {
        let key = key(service, port);
        let closed = self.datagrams.get(&key).filter(|served| served.listening.is_none());
        let (Some(published), Some(front)) = (port.published, closed.map(|served| Arc::clone(&served.front)))
        else {
            return;
        };
        let opened = self.open(published, front).await;
        let Some(served) = self.datagrams.get_mut(&key) else { return };
        match opened {
            Ok(listening) => {
                tracing::info!(service = service.name, port = published, address = %self.config.ingress, "a published UDP port is served");
                served.trouble.clear();
                served.listening = Some(listening);
            }
            Err(error) => {
                self.retry_at = Some(Instant::now() + TRY_AGAIN);
                let trouble = error.to_string();
                if served.trouble != trouble {
                    let error = &error as &dyn Error;
                    tracing::warn!(service = service.name, port = published, address = %self.config.ingress, error, "a published UDP port cannot be served on this node; trying on");
                    served.trouble = trouble;
                }
            }
        }
    }

    async fn open(&mut self, port: u16, front: Arc<Front>) -> io::Result<DropGuard> {
        self.receive_at(SocketAddr::new(self.config.ingress, port), &front).await
    }

    pub(super) async fn receive_at(
        &mut self,
        address: SocketAddr,
        front: &Arc<Front>,
    ) -> io::Result<DropGuard> {
        let receiving = self.stop.child_token();
        self.threads()?.receive(address, front, &receiving).await?;
        Ok(receiving.drop_guard())
    }
}
