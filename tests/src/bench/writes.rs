//! Committed writes: three masters beside three members of etcd, same clients, same values.
//!
//! A write of ours goes the whole way of the API: decoded, checked, proposed, flushed on two of three
//! disks, applied, answered with the object. It changes a label of a service without instances.
//!
//! Invariant: both sides run all the time, and are measured in turn, so that noise hits both.

use std::time::Duration;

use anyhow::Result;
use skein_proto::v1::{ServiceSpec, UpdateServiceRequest, service_service_client::ServiceServiceClient};
use tonic::transport::Channel;

use super::{
    Plan,
    etcd::{Etcd, EtcdWriter},
    figure::{Figure, Table, Target, Unit},
    load::{self, Load, Writer},
};
use crate::{
    deployment::{Deployment, Flags},
    spec,
};

const CLIENTS: [usize; 3] = [1, 16, 256];
/// More clients share a connection.
const CONNECTIONS: usize = 16;
const VALUE_BYTES: usize = 256;

struct ServiceWriter {
    client: ServiceServiceClient<Channel>,
    spec: ServiceSpec,
}

impl Writer for ServiceWriter {
    async fn write(&mut self, value: &str) -> Result<()> {
        self.spec.labels.insert("value".to_owned(), value.to_owned());
        let request = UpdateServiceRequest {
            service: self.spec.name.clone(),
            spec: Some(self.spec.clone()),
            ..UpdateServiceRequest::default()
        };
        self.client.update_service(request).await?;
        Ok(())
    }
}

struct Measured {
    rate: Figure,
    median: Figure,
    slowest: Figure,
}

impl Measured {
    fn new() -> Self {
        Self {
            rate: Figure::new(Unit::PerSecond),
            median: Figure::new(Unit::Milliseconds),
            slowest: Figure::new(Unit::Milliseconds),
        }
    }

    fn add(&mut self, load: &Load) {
        self.rate.add(load.per_second);
        self.median.add_time(load.median);
        self.slowest.add_time(load.slowest_hundredth);
    }
}

/// # Errors
/// When one of the clusters does not work.
pub async fn measure(plan: &Plan) -> Result<Table> {
    let mut skein = Deployment::start(3, 0, &Flags::default()).await?;
    let etcd = Etcd::start(skein.folder()).await?;
    let leader = skein.leader().await?;
    let address = skein.masters[leader].api.address();
    for number in 0..CLIENTS[CLIENTS.len() - 1] {
        skein.client.apply(service(number)).await?;
    }
    let mut table = Table::new("Committed writes, 256 bytes, three members, fsync on", "etcd 3.4");
    for clients in CLIENTS {
        let (mut ours, mut theirs) = (Measured::new(), Measured::new());
        for _ in 0..plan.rounds {
            theirs.add(&load_etcd(&etcd, clients, plan.load).await?);
            ours.add(&load_skein(&address, clients, plan.load).await?);
        }
        let target = (clients > 1).then_some(Target::TimesBeside(2.0));
        table.add(format!("{clients} clients: writes"), ours.rate, Some(theirs.rate), target);
        table.add(format!("{clients} clients: p50"), ours.median, Some(theirs.median), None);
        table.add(format!("{clients} clients: p99"), ours.slowest, Some(theirs.slowest), None);
    }
    drop(etcd);
    skein.abandon();
    Ok(table)
}

fn service(number: usize) -> ServiceSpec {
    spec::service(&format!("bench-{number}")).replicas(0).build()
}

async fn load_etcd(etcd: &Etcd, clients: usize, time: Duration) -> Result<Load> {
    let channels = etcd.connect(clients.min(CONNECTIONS)).await?;
    let writers = channels.into_iter().cycle().take(clients).enumerate();
    let writers = writers.map(|(number, channel)| EtcdWriter::new(channel, number)).collect();
    load::run(writers, time, VALUE_BYTES).await
}

async fn load_skein(leader: &str, clients: usize, time: Duration) -> Result<Load> {
    let channels = super::connect(leader, clients.min(CONNECTIONS)).await?;
    let writers = channels.into_iter().cycle().take(clients).enumerate();
    let writers = writers
        .map(|(number, channel)| ServiceWriter {
            client: ServiceServiceClient::new(channel),
            spec: service(number),
        })
        .collect();
    load::run(writers, time, VALUE_BYTES).await
}
