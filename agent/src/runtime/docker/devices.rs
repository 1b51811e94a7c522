//! Generic resources that an instance has been given, in the engine's terms.
//!
//! Invariant: pure. A container learns the numbers of its devices from its environment, as in Swarm; what
//! the agent knows files of, it is given too, and nothing else.
//! Deliberately not here: which device is whose (the scheduler).

use std::collections::BTreeMap;

use bollard::models::DeviceMapping;
use skein_common::placement::{DeviceShare, WHOLE_MILLIS};

/// Files under `/dev` behind the devices of a resource, by its name and the device's number.
pub type DevicePaths = BTreeMap<(String, u16), Vec<String>>;

/// Resources that NVIDIA's runtime is told of.
const NVIDIA: [&str; 3] = ["GPU", "NVIDIA_GPU", "NVIDIA_COM_GPU"];

/// `DOCKER_RESOURCE_GPU=0,1`; of shares also `SKEIN_RESOURCE_GPU_MILLIS=500`.
pub(super) fn environment(shares: &[DeviceShare]) -> Vec<(String, String)> {
    let mut by_name = BTreeMap::<String, (Vec<String>, u16)>::new();
    for share in shares {
        let (numbers, millis) = by_name.entry(variable(&share.name)).or_default();
        numbers.push(share.device.to_string());
        *millis = share.millis;
    }
    let mut environment = Vec::new();
    for (name, (numbers, millis)) in by_name {
        let numbers = numbers.join(",");
        if millis < WHOLE_MILLIS {
            environment.push((format!("SKEIN_RESOURCE_{name}_MILLIS"), millis.to_string()));
        }
        if NVIDIA.contains(&name.as_str()) {
            environment.push(("NVIDIA_VISIBLE_DEVICES".to_owned(), numbers.clone()));
        }
        environment.push((format!("DOCKER_RESOURCE_{name}"), numbers));
    }
    environment
}

pub(super) fn mappings(shares: &[DeviceShare], known: &DevicePaths) -> Vec<DeviceMapping> {
    let paths = shares.iter().filter_map(|share| known.get(&(share.name.clone(), share.device))).flatten();
    paths
        .map(|path| DeviceMapping {
            path_on_host: Some(path.clone()),
            path_in_container: Some(path.clone()),
            cgroup_permissions: Some("rwm".to_owned()),
        })
        .collect()
}

/// What a shell can name.
fn variable(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(name: &str, device: u16, millis: u16) -> DeviceShare {
        DeviceShare { name: name.to_owned(), device, millis }
    }

    #[test]
    fn numbers_are_told_by_name() {
        let shares = [share("gpu", 0, 1000), share("fpga-x", 3, 250), share("gpu", 2, 1000)];
        let told = environment(&shares);
        let expected = [
            ("SKEIN_RESOURCE_FPGA_X_MILLIS", "250"),
            ("DOCKER_RESOURCE_FPGA_X", "3"),
            ("NVIDIA_VISIBLE_DEVICES", "0,2"),
            ("DOCKER_RESOURCE_GPU", "0,2"),
        ];
        assert_eq!(told, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(environment(&[]).is_empty());
    }

    #[test]
    fn only_files_of_its_own_devices_are_given() {
        let known = DevicePaths::from([
            (("fpga".to_owned(), 0), vec!["/dev/a0".to_owned(), "/dev/a1".to_owned()]),
            (("fpga".to_owned(), 1), vec!["/dev/b".to_owned()]),
        ]);
        let paths = |shares: &[DeviceShare]| -> Vec<_> {
            mappings(shares, &known).into_iter().filter_map(|mapping| mapping.path_on_host).collect()
        };
        assert_eq!(paths(&[share("fpga", 0, 1000)]), ["/dev/a0", "/dev/a1"]);
        assert_eq!(paths(&[share("fpga", 1, 300), share("gpu", 0, 1000)]), ["/dev/b"]);
    }
}
