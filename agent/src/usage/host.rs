//! Samples of this machine.
//!
//! Invariant: reads only what it reports: `/proc/stat`, `meminfo`, `loadavg`, `net/dev`, and
//! the one file system of the data folder. What cannot be read is zero.
//! Deliberately not here: processes, temperatures, other file systems (50 containers mean 100
//! mounts, and one of them may hang).

use std::{fs, path::PathBuf, time::Instant};

use skein_common::{Timestamp, usage::HostUsage};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, System};

use super::{
    capacity::cpu_millis,
    network::{self, Traffic},
    per_second,
};

/// Interfaces of containers and of the bridges between them: their traffic is counted where it
/// leaves the machine.
const VIRTUAL: [&str; 4] = ["veth", "docker", "br-", "virbr"];

/// Keeps what rates need from one sample to the next.
#[derive(Debug)]
pub struct HostSampler {
    /// `None` on a system unknown to sysinfo.
    system: Option<System>,
    data_dir: PathBuf,
    traffic: Traffic,
    traffic_at: Instant,
}

impl HostSampler {
    /// `data_dir` names the file system that is reported. Takes the first sample.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        let mut system = System::new().ok();
        if let Some(system) = &mut system {
            system.refresh_cpu_list(CpuRefreshKind::nothing().with_usage());
        }
        Self { system, data_dir, traffic: traffic(), traffic_at: Instant::now() }
    }

    /// CPU and network are averages since the sample before. Blocks for some 0.2 ms.
    pub fn sample(&mut self, at: Timestamp) -> HostUsage {
        let (now, traffic) = (Instant::now(), traffic());
        let (before, passed) = (self.traffic, now.duration_since(self.traffic_at));
        (self.traffic, self.traffic_at) = (traffic, now);
        let (disk_bytes, disk_total_bytes) = self.disk();
        HostUsage {
            at,
            disk_bytes,
            disk_total_bytes,
            network_receive_rate: per_second(before.receive_bytes, traffic.receive_bytes, passed),
            network_transmit_rate: per_second(before.transmit_bytes, traffic.transmit_bytes, passed),
            ..self.system.as_mut().map(cpu_and_memory).unwrap_or_default()
        }
    }

    /// Used (what is not available to us) and total bytes.
    fn disk(&self) -> (u64, u64) {
        let Ok(disk) = rustix::fs::statvfs(&self.data_dir) else { return (0, 0) };
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        (bytes(disk.f_blocks.saturating_sub(disk.f_bavail)), bytes(disk.f_blocks))
    }
}

fn cpu_and_memory(system: &mut System) -> HostUsage {
    system.refresh_cpu_specifics(CpuRefreshKind::nothing().with_usage());
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let cpu_total_millis = cpu_millis(system);
    HostUsage {
        cpu_millis: share(system.global_cpu_usage(), cpu_total_millis),
        cpu_total_millis,
        memory_bytes: system.used_memory(),
        memory_total_bytes: system.total_memory(),
        load_one: System::load_average().map(|load| load.one).unwrap_or_default(),
        ..HostUsage::default()
    }
}

/// Of the interfaces with hardware behind them; where there are none (the agent itself runs in
/// a container), of all but loopback.
fn traffic() -> Traffic {
    let table = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let is_physical = |name: &str| {
        !VIRTUAL.iter().any(|prefix| name.starts_with(prefix))
            && fs::exists(format!("/sys/class/net/{name}/device")).unwrap_or_default()
    };
    if network::interfaces(&table).any(|(name, _)| is_physical(name)) {
        network::total(&table, is_physical)
    } else {
        network::total(&table, |name| name != "lo")
    }
}

/// `percent` of `total`, a percentage of all cores together.
fn share(percent: f32, total: u64) -> u64 {
    let percent = if percent.is_finite() { f64::from(percent.clamp(0.0, 100.0)) } else { 0.0 };
    // Both are small: at most 100 times a few hundred thousand.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let millis = (percent * total as f64 / 100.0).round() as u64;
    millis
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_never_more_than_all() {
        for (percent, expected) in
            [(0.0, 0), (12.5, 500), (100.0, 4000), (140.0, 4000), (-1.0, 0), (f32::NAN, 0)]
        {
            assert_eq!(share(percent, 4000), expected, "{percent}");
        }
    }

    #[test]
    fn this_machine_is_in_use() {
        let at = Timestamp::from_unix_ms(1);
        let mut sampler = HostSampler::new(std::env::temp_dir());
        let usage = sampler.sample(at);
        assert_eq!(usage.at, at);
        assert!(usage.cpu_millis <= usage.cpu_total_millis, "{usage:?}");
        assert!(usage.memory_bytes > 0 && usage.memory_bytes < usage.memory_total_bytes, "{usage:?}");
        assert!(usage.disk_bytes > 0 && usage.disk_bytes <= usage.disk_total_bytes, "{usage:?}");
        assert!(usage.load_one >= 0.0);
    }

    #[test]
    fn a_folder_that_is_not_there_has_no_disk() {
        let mut sampler = HostSampler::new(PathBuf::from("/no/such/folder"));
        assert_eq!(sampler.sample(Timestamp::default()).disk_total_bytes, 0);
    }
}
