//! After the faults: does everything heal, and is everything still there?
//!
//! Invariant: a breach is never dropped; the report shows every one.
//! Deliberately not here: making faults.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    BUSY, LIMIT, STILL, STILL_REPLICAS,
    fault::running,
    writer::{Outcome, Wish, Write},
};
use crate::{deployment::Deployment, wait};

/// What happened and what was found.
#[derive(Debug)]
pub struct Report {
    seed: u64,
    faults: BTreeMap<String, usize>,
    breaches: Vec<String>,
    acknowledged: usize,
    unknown: usize,
    slowest: Duration,
    healing_since: Option<Instant>,
    healed_in: Option<Duration>,
    warnings: usize,
}

impl Report {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            faults: BTreeMap::new(),
            breaches: Vec::new(),
            acknowledged: 0,
            unknown: 0,
            slowest: Duration::ZERO,
            healing_since: None,
            healed_in: None,
            warnings: 0,
        }
    }

    /// Whether every check held.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.breaches.is_empty() && self.healed_in.is_some()
    }

    pub(super) fn struck(&mut self, done: &str) {
        let kind = done.split(':').next().unwrap_or(done).to_owned();
        *self.faults.entry(kind).or_default() += 1;
    }

    pub(super) fn breaches(&mut self, found: impl IntoIterator<Item = String>) {
        for breach in found {
            println!("soak: BREACH {breach}");
            self.breaches.push(breach);
        }
    }

    pub(super) fn healing_from(&mut self, now: Instant) {
        self.healing_since = Some(now);
    }

    pub(super) fn written(&mut self, history: &[Write]) {
        let acknowledged = |write: &&Write| matches!(write.outcome, Outcome::Acknowledged(_));
        self.acknowledged = history.iter().filter(acknowledged).count();
        self.unknown = history.len() - self.acknowledged;
        self.slowest = history.iter().map(|write| write.took).max().unwrap_or_default();
    }

    /// A panic or an ERROR is a breach; warnings are counted.
    pub(super) async fn logs(&mut self, cluster: &mut Deployment) {
        let masters = cluster.masters.iter_mut().map(|master| &mut master.process);
        let mut found = Vec::new();
        for process in masters.chain(&mut cluster.agents) {
            if let Err(error) = process.end().await {
                found.push(format!("{} does not end on SIGTERM: {error:#}", process.name()));
            }
            let (errors, warnings): (Vec<_>, Vec<_>) =
                process.complaints(&[]).into_iter().partition(|line| !line.contains(" WARN "));
            self.warnings += warnings.len();
            found.extend(errors);
        }
        self.breaches(found);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nsoak, seed {}", self.seed)?;
        for (kind, count) in &self.faults {
            writeln!(f, "  kill -9 {kind:<28} {count:>6}")?;
        }
        writeln!(f, "  {:<36} {:>6}", "writes acknowledged", self.acknowledged)?;
        writeln!(f, "  {:<36} {:>6}", "writes with unknown outcome", self.unknown)?;
        writeln!(f, "  {:<36} {:>6.1?}", "slowest write, with its repeats", self.slowest)?;
        match self.healed_in {
            Some(time) => writeln!(f, "  {:<36} {time:>6.1?}", "healed after the last fault in")?,
            None => writeln!(f, "  it did not heal")?,
        }
        writeln!(f, "  {:<36} {:>6}", "warnings in the logs", self.warnings)?;
        writeln!(f, "  {:<36} {:>6}", "breaches", self.breaches.len())?;
        for breach in &self.breaches {
            writeln!(f, "    {breach}")?;
        }
        Ok(())
    }
}

/// Waits for everything to be as it shall be, then compares it with what was acknowledged.
pub async fn heal(cluster: &mut Deployment, history: &[Write], report: &mut Report) -> Result<()> {
    cluster.leader().await?;
    cluster.all_nodes_ready().await?;
    let busy = cluster.client.service(BUSY).await?;
    let replicas = busy.status.as_ref().map_or(0, |status| status.desired);
    report.breaches(check_scales(history, replicas));
    report.breaches(check_marks(cluster, history).await?);
    for (service, count) in [(STILL, STILL_REPLICAS), (BUSY, replicas)] {
        cluster.ready(service, usize::try_from(count)?, LIMIT).await.context("observed = desired")?;
    }
    wait::until("Docker holds exactly what the cluster says", LIMIT, async || {
        let wrong = compare(cluster).await.map_err(|error| format!("{error:#}"))?;
        wait::expect(wrong.is_empty(), || wrong.join("; "))
    })
    .await?;
    report.healed_in = report.healing_since.map(|since| since.elapsed());
    Ok(())
}

/// The last acknowledged number is the state, unless a later write's outcome is unknown; and the
/// revisions of acknowledgements grow as they were given.
fn check_scales(history: &[Write], replicas: u32) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut last = 0;
    for write in history {
        if let Outcome::Acknowledged(revision) = write.outcome {
            if revision <= last {
                breaches.push(format!("{:?} was acknowledged at {revision} after {last}", write.wish));
            }
            last = revision;
        }
    }
    let mut possible = BTreeSet::new();
    for write in history.iter().rev() {
        if let Wish::Scale(number) = write.wish {
            possible.insert(number);
            if matches!(write.outcome, Outcome::Acknowledged(_)) {
                break;
            }
        }
    }
    if !possible.is_empty() && !possible.contains(&replicas) {
        breaches.push(format!("{replicas} replicas; acknowledged last: {possible:?}"));
    }
    breaches
}

async fn check_marks(cluster: &Deployment, history: &[Write]) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for write in history {
        let (Wish::Mark(name), Outcome::Acknowledged(revision)) = (&write.wish, &write.outcome) else {
            continue;
        };
        match cluster.client.service(name).await {
            Ok(service) if service.created_revision == *revision => {}
            Ok(service) => breaches
                .push(format!("{name}: made at {}, acknowledged at {revision}", service.created_revision)),
            Err(status) => {
                breaches.push(format!("{name} was acknowledged at {revision} and is lost: {status}"));
            }
        }
    }
    Ok(breaches)
}

/// Running containers are those of the wanted instances, and every container has an instance.
async fn compare(cluster: &Deployment) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let instances = cluster.client.instances("").await?;
    let known: BTreeSet<_> = instances.iter().map(|instance| instance.id.as_str()).collect();
    for container in cluster.docker.of_cluster(&cluster.cluster_id).await? {
        if !known.contains(container.label("io.skein.instance")) {
            wrong.push(format!("{} belongs to nobody", container.name));
        }
    }
    for service in [STILL, BUSY] {
        let wanted: BTreeSet<_> = cluster
            .client
            .instances(service)
            .await?
            .into_iter()
            .filter(crate::watch::is_ready)
            .filter_map(|instance| Some(instance.observed?.container_id))
            .collect();
        let there: BTreeSet<_> =
            running(cluster, service).await?.into_iter().map(|container| container.id).collect();
        if wanted != there {
            wrong.push(format!(
                "{service}: {} wanted, {} run, {} in both",
                wanted.len(),
                there.len(),
                wanted.intersection(&there).count()
            ));
        }
    }
    Ok(wrong)
}

/// Deletes the services; nothing may be left.
pub async fn remove(cluster: &Deployment, report: &mut Report) -> Result<()> {
    for service in [STILL, BUSY] {
        cluster.client.delete(service).await?;
    }
    let emptied = wait::until("nothing is left", LIMIT, async || {
        let left = cluster.docker.of_cluster(&cluster.cluster_id).await.map_err(|error| error.to_string())?;
        wait::expect(left.is_empty(), || {
            format!("{:?}", left.iter().map(|container| &container.name).collect::<Vec<_>>())
        })
    })
    .await;
    report.breaches(emptied.err().map(|error| format!("{error:#}")));
    Ok(())
}
