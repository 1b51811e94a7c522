//! What this machine has, for the agent's description of it.
//!
//! Invariant: of the machine, not of the agent: a limit on the agent's own process does not
//! make the node smaller.

use skein_common::{Resources, node::Platform};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, System};

const CPU_MILLIS_PER_CORE: u64 = 1000;

/// CPU and memory of the machine (zero on a system unknown to sysinfo), and what kind it is.
#[must_use]
pub fn capacity() -> (Resources, Platform) {
    let resources = System::new().map(|mut system| {
        system.refresh_cpu_list(CpuRefreshKind::nothing());
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        Resources { cpu_millis: cpu_millis(&system), memory_bytes: system.total_memory() }
    });
    let platform = Platform {
        os: std::env::consts::OS.to_owned(),
        arch: docker_arch(std::env::consts::ARCH).to_owned(),
    };
    (resources.unwrap_or_default(), platform)
}

/// Processes and threads that may be there at a time: what the kernel numbers, and what a limit on everything allows;
/// 0 where nothing is known.
#[must_use]
pub fn pids() -> u64 {
    let files = ["/proc/sys/kernel/pid_max", "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"];
    let known = files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
    fewest(known)
}

/// "max" is no limit.
fn fewest(limits: impl Iterator<Item = String>) -> u64 {
    limits.filter_map(|text| text.trim().parse::<u64>().ok()).min().unwrap_or(0)
}

pub(super) fn cpu_millis(system: &System) -> u64 {
    u64::try_from(system.cpus().len()).unwrap_or(1).max(1) * CPU_MILLIS_PER_CORE
}

/// Docker says what Go says.
fn docker_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something() {
        let (resources, platform) = capacity();
        assert!(resources.cpu_millis >= 1000 && resources.memory_bytes > 64 << 20, "{resources:?}");
        assert_eq!(platform.os, "linux");
        assert!(pids() >= 300, "{}", pids());
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>().into_iter();
        assert_eq!(fewest(texts(&["4194304\n", "max\n"])), 4_194_304);
        assert_eq!(fewest(texts(&["4194304\n", "1000\n"])), 1_000);
        assert_eq!(fewest(texts(&["max"])), 0);
        assert_eq!(docker_arch("x86_64"), "amd64");
        assert_eq!(docker_arch("aarch64"), "arm64");
        assert_eq!(docker_arch("riscv64"), "riscv64");
    }
}
