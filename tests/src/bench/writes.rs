//! Committed writes: three masters beside three members of etcd, same clients, same values.
//!
//! A write of ours goes the whole way of the API: decoded, checked, proposed, flushed on two of three
//! disks, applied, answered with the object. It changes a label of a service without instances.
//!
//! Invariant: both sides run all the time, and are measured in turn, so that noise hits both.

use anyhow::{Context as _, Result};
use skein_proto::v1::{ServiceSpec, UpdateServiceRequest};

use super::{
    Plan,
    etcd::{self, Etcd},
    figure::{Figure, Table, Target, Unit},
    load::{self, Load, Template},
    process_usage,
};
use crate::{
    deployment::{Deployment, Flags},
    spec,
};

const CLIENTS: [usize; 3] = [1, 16, 256];
const VALUE_BYTES: usize = 256;

/// One of the two that are compared.
struct Side {
    /// Of the leader.
    address: String,
    pids: Vec<u32>,
    templates: Vec<Template>,
}

impl Side {
    async fn load(&self, clients: usize, plan: &Plan, measured: &mut Measured) -> Result<()> {
        let before = self.spent()?;
        let load = load::run(&self.address, self.templates[..clients].to_vec(), plan.load).await?;
        measured.add(&load, self.spent()? - before);
        Ok(())
    }

    /// Seconds of all members.
    fn spent(&self) -> Result<f64> {
        self.pids.iter().map(|pid| process_usage::spent(*pid)).sum()
    }
}

struct Measured {
    rate: Figure,
    median: Figure,
    slowest: Figure,
    /// Of all members together, without the clients.
    cpu: Figure,
}

impl Measured {
    fn new() -> Self {
        Self {
            rate: Figure::new(Unit::PerSecond),
            median: Figure::new(Unit::Milliseconds),
            slowest: Figure::new(Unit::Milliseconds),
            cpu: Figure::new(Unit::Microseconds),
        }
    }

    fn add(&mut self, load: &Load, cpu_seconds: f64) {
        self.rate.add(load.per_second);
        self.median.add_time(load.median);
        self.slowest.add_time(load.slowest_hundredth);
        self.cpu.add(cpu_seconds * 1e6 / load.written);
    }
}

/// # Errors
/// When one of the clusters does not work.
pub async fn measure(plan: &Plan) -> Result<Table> {
    let mut skein = Deployment::start(3, 0, &Flags::default()).await?;
    let etcd = Etcd::start(skein.folder()).await?;
    let counts = plan.clients.map_or(CLIENTS.to_vec(), |clients| vec![clients]);
    let most = counts.iter().copied().max().unwrap_or_default();
    for number in 0..most {
        skein.client.apply(service(number)).await?;
    }
    let value = "v".repeat(VALUE_BYTES);
    let leader = skein.leader().await?;
    let pids = skein.masters.iter().map(|master| master.process.pid().context("the master runs"));
    let ours = Side {
        address: skein.masters[leader].api.address(),
        pids: pids.collect::<Result<_>>()?,
        templates: (0..most).map(|number| update(number, &value)).collect::<Result<_>>()?,
    };
    let theirs = Side {
        address: etcd.address(),
        pids: etcd.pids()?,
        templates: (0..most).map(|number| etcd::put(number, &value)).collect::<Result<_>>()?,
    };
    let mut table = Table::new("Committed writes, 256 bytes, three members, fsync on", "etcd 3.4");
    for clients in counts {
        let (mut skein, mut etcd) = (Measured::new(), Measured::new());
        for _ in 0..plan.rounds {
            theirs.load(clients, plan, &mut etcd).await?;
            ours.load(clients, plan, &mut skein).await?;
        }
        let target = (clients > 1).then_some(Target::TimesBeside(2.0));
        table.add(format!("{clients} clients: writes"), skein.rate, Some(etcd.rate), target);
        table.add(format!("{clients} clients: p50"), skein.median, Some(etcd.median), None);
        table.add(format!("{clients} clients: p99"), skein.slowest, Some(etcd.slowest), None);
        table.add(format!("{clients} clients: CPU of a write"), skein.cpu, Some(etcd.cpu), None);
    }
    drop(etcd);
    skein.abandon();
    Ok(table)
}

fn service(number: usize) -> ServiceSpec {
    spec::service(&format!("bench-{number}")).replicas(0).build()
}

/// Sets a label, so that no two writes are the same.
fn update(number: usize, value: &str) -> Result<Template> {
    let mut spec = service(number);
    spec.labels.insert("value".to_owned(), value.to_owned());
    let request = UpdateServiceRequest {
        service: spec.name.clone(),
        spec: Some(spec),
        ..UpdateServiceRequest::default()
    };
    Template::new("/skein.v1.ServiceService/UpdateService", &request, value)
}
