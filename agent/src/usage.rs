//! How much the machine and the containers on it use, sampled in the background.
//!
//! One round every interval: the host from `/proc` (0.2 ms), each running container from its
//! control group (0.1 ms; why not the engine's stats: see `runtime/docker/cgroup.rs`). Fifty
//! containers every 10 s cost below 0.1 % of a core.
//!
//! Invariant: delays nothing: no lock is held and nobody waits for a round; a sample that does
//! not come in time is left out. A rate needs two samples of the same container; a container
//! without the first gets it a second after it appeared, so that the next round knows it.
//! Deliberately not here: sending (`session`), history and decisions (masters).

pub mod capacity;
pub mod host;
pub mod network;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{StreamExt, stream};
use rand::RngExt;
use skein_common::{
    InstanceId, Timestamp,
    usage::{HostUsage, InstanceUsage},
};
use tokio::{
    sync::watch,
    task,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

pub use self::{capacity::capacity, host::HostSampler};
use crate::runtime::{ContainerRuntime, ContainerSample};

/// Between two rounds when nothing else is configured.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
/// Containers sampled at the same time.
const SAMPLES_AT_ONCE: usize = 4;
/// After that a container is left out of the round.
const SAMPLE_LIMIT: Duration = Duration::from_secs(5);
/// From the start to the first round, and from a new container to its first sample.
const SOON: Duration = Duration::from_secs(1);
/// Each interval is up to this much shorter or longer: agents must not march in step.
const JITTER: f64 = 0.1;

/// One round. Before the first, all is zero, also `host.at`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UsageReport {
    pub host: HostUsage,
    /// Of the containers that were sampled twice; by instance.
    pub instances: Vec<InstanceUsage>,
}

/// A container that is worth a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningContainer {
    pub instance: InstanceId,
    /// The engine's id.
    pub container: String,
}

/// Samples are taken off the async threads: a file system may hang, and then is waited for
/// instead of asked once more.
#[derive(Debug)]
enum Host {
    Idle(Box<HostSampler>),
    Sampling(task::JoinHandle<(Box<HostSampler>, HostUsage)>),
    /// Its thread panicked.
    Lost,
}

/// The task; [`UsageSampler::run`] is its life.
#[derive(Debug)]
pub struct UsageSampler<R> {
    runtime: Arc<R>,
    running: watch::Receiver<Arc<[RunningContainer]>>,
    interval: Duration,
    host: Host,
    reports: watch::Sender<UsageReport>,
    /// By container.
    earlier: HashMap<String, ContainerSample>,
}

impl<R: ContainerRuntime> UsageSampler<R> {
    /// Samples what `running` says; the second value always shows the last report.
    #[must_use]
    pub fn new(
        runtime: Arc<R>,
        running: watch::Receiver<Arc<[RunningContainer]>>,
        host: HostSampler,
        interval: Duration,
    ) -> (Self, watch::Receiver<UsageReport>) {
        let (reports, received) = watch::channel(UsageReport::default());
        let host = Host::Idle(Box::new(host));
        (Self { runtime, running, interval, host, reports, earlier: HashMap::new() }, received)
    }

    /// Until `stop`, or until whoever knows what runs is gone.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut round_at = Instant::now() + SOON.min(self.interval);
        let mut newcomers_at = None;
        loop {
            let next = newcomers_at.map_or(round_at, |at: Instant| at.min(round_at));
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = self.running.changed() => match changed {
                    Ok(()) => newcomers_at = newcomers_at.or(Some(Instant::now() + SOON)),
                    Err(_) => return,
                },
                () = time::sleep_until(next) => {
                    let is_round = round_at <= Instant::now();
                    let work = self.work(is_round);
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        () = work => {}
                    }
                    newcomers_at = None;
                    if is_round {
                        round_at = Instant::now() + jittered(self.interval);
                    }
                }
            }
        }
    }

    async fn work(&mut self, is_round: bool) {
        if is_round {
            let report = self.round().await;
            self.reports.send_replace(report);
        } else {
            let running = self.running.borrow_and_update().clone();
            let new = running.iter().filter(|one| !self.earlier.contains_key(&one.container));
            let samples = self.samples(new).await;
            self.earlier.extend(samples.into_iter().map(|(one, sample)| (one.container, sample)));
        }
    }

    async fn round(&mut self) -> UsageReport {
        let running = self.running.borrow_and_update().clone();
        let host = self.host().await;
        let samples = self.samples(running.iter()).await;
        let mut earlier = std::mem::take(&mut self.earlier);
        let mut instances: Vec<_> = samples
            .iter()
            .filter_map(|(one, sample)| usage(one.instance, earlier.get(&one.container)?, sample))
            .collect();
        instances.sort_by_key(|usage| usage.instance);
        earlier.retain(|container, _| running.iter().any(|one| one.container == *container));
        earlier.extend(samples.into_iter().map(|(one, sample)| (one.container, sample)));
        self.earlier = earlier;
        UsageReport { host, instances }
    }

    async fn samples(
        &self,
        containers: impl Iterator<Item = &RunningContainer>,
    ) -> Vec<(RunningContainer, ContainerSample)> {
        let containers: Vec<_> = containers.cloned().collect();
        stream::iter(containers)
            .map(|one| async {
                let sample = time::timeout(SAMPLE_LIMIT, self.runtime.sample(&one.container)).await;
                Some((one, sample.ok()?.ok()?))
            })
            .buffer_unordered(SAMPLES_AT_ONCE)
            .filter_map(|sample| async { sample })
            .collect()
            .await
    }

    /// The last one again, with its old time, while the file system does not answer.
    async fn host(&mut self) -> HostUsage {
        let mut sampling = match std::mem::replace(&mut self.host, Host::Lost) {
            Host::Idle(mut sampler) => task::spawn_blocking(move || {
                let usage = sampler.sample(now());
                (sampler, usage)
            }),
            Host::Sampling(sampling) => sampling,
            Host::Lost => return self.reports.borrow().host,
        };
        match time::timeout(SAMPLE_LIMIT, &mut sampling).await {
            Ok(Ok((sampler, usage))) => {
                self.host = Host::Idle(sampler);
                return usage;
            }
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "no more samples of the host");
            }
            Err(_) => self.host = Host::Sampling(sampling),
        }
        self.reports.borrow().host
    }
}

/// Rates from two samples; `None` when no time passed between them.
fn usage(instance: InstanceId, earlier: &ContainerSample, later: &ContainerSample) -> Option<InstanceUsage> {
    let passed = later.at.since(earlier.at);
    if passed.is_zero() {
        return None;
    }
    let nanos = |cpu: Duration| u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
    // Nanoseconds of CPU per second are millionths of thousandths of a core.
    let cpu_millis = per_second(nanos(earlier.cpu), nanos(later.cpu), passed) / 1_000_000;
    Some(InstanceUsage {
        instance,
        at: later.at,
        cpu_millis,
        memory_bytes: later.memory_bytes,
        network_receive_rate: per_second(earlier.network_receive_bytes, later.network_receive_bytes, passed),
        network_transmit_rate: per_second(
            earlier.network_transmit_bytes,
            later.network_transmit_bytes,
            passed,
        ),
    })
}

/// Growth of a counter per second; zero when it began anew.
fn per_second(earlier: u64, later: u64, passed: Duration) -> u64 {
    let grown = u128::from(later.saturating_sub(earlier)) * 1_000_000_000;
    u64::try_from(grown / passed.as_nanos().max(1)).unwrap_or(u64::MAX)
}

fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(rand::rng().random_range(1.0 - JITTER..=1.0 + JITTER))
}

/// By the machine's clock: samples of many machines are compared.
pub(crate) fn now() -> Timestamp {
    Timestamp::default() + SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: u64, cpu_ms: u64, network: u64) -> ContainerSample {
        ContainerSample {
            at: Timestamp::from_unix_ms(at),
            cpu: Duration::from_millis(cpu_ms),
            memory_bytes: at,
            network_receive_bytes: network,
            network_transmit_bytes: 2 * network,
        }
    }

    #[test]
    fn rates_come_from_two_samples() {
        let instance = InstanceId::from_random(1);
        for (earlier, later, expected) in [
            (sample(0, 0, 0), sample(10_000, 5_000, 1_000), Some((500, 100))),
            (sample(0, 100, 50), sample(500, 1_100, 100), Some((2_000, 100))),
            // A counter that began anew, a clock that stepped back.
            (sample(0, 500, 500), sample(1_000, 0, 0), Some((0, 0))),
            (sample(1_000, 0, 0), sample(1_000, 1, 1), None),
            (sample(2_000, 0, 0), sample(1_000, 1, 1), None),
        ] {
            let usage = usage(instance, &earlier, &later);
            assert_eq!(usage.map(|usage| (usage.cpu_millis, usage.network_receive_rate)), expected);
            if let Some(usage) = usage {
                assert_eq!((usage.at, usage.memory_bytes), (later.at, later.memory_bytes));
                assert_eq!(usage.network_transmit_rate, 2 * usage.network_receive_rate);
            }
        }
    }

    #[test]
    fn agents_do_not_march_in_step() {
        let interval = Duration::from_secs(10);
        for _ in 0..1000 {
            let jittered = jittered(interval);
            assert!(
                jittered >= Duration::from_secs(9) && jittered <= Duration::from_secs(11),
                "{jittered:?}"
            );
        }
    }
}
