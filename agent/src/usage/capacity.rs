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
        assert_eq!(docker_arch("x86_64"), "amd64");
        assert_eq!(docker_arch("aarch64"), "arm64");
        assert_eq!(docker_arch("riscv64"), "riscv64");
    }
}
