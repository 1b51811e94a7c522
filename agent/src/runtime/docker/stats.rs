//! Counters of one container from the engine's stats.
//!
//! Invariant: one call, no waiting for a second sample (`one-shot`, API 1.41).
//! Deliberately not here: rates (`usage`).

use std::time::Duration;

use bollard::{models::ContainerStatsResponse, query_parameters::StatsOptions};
use futures_util::StreamExt;
use skein_common::Timestamp;

use super::{
    super::{ContainerSample, RuntimeError},
    connection::Connection,
    rfc3339,
};

pub(super) async fn sample(connection: &Connection, id: &str) -> Result<ContainerSample, RuntimeError> {
    let options = StatsOptions { stream: false, one_shot: true };
    let answer = connection
        .call(connection.limits.read, |docker| async move {
            docker.stats(id, Some(options)).next().await.transpose()
        })
        .await
        .map_err(|error| error.on_read(id))?;
    answer.and_then(read).ok_or_else(|| RuntimeError::NotFound(id.to_owned()))
}

/// `None` for a container that does not run: the engine answers with zeros.
fn read(stats: ContainerStatsResponse) -> Option<ContainerSample> {
    let cpu = stats.cpu_stats?.cpu_usage?.total_usage?;
    let memory = stats.memory_stats?;
    let files = memory.stats.unwrap_or_default();
    // cgroup v1 sums the hierarchy in `total_…`; v2 has one number.
    let inactive_file = files.get("total_inactive_file").or_else(|| files.get("inactive_file"));
    let networks = stats.networks.unwrap_or_default();
    Some(ContainerSample {
        at: read_at(stats.read.as_deref())?,
        cpu: Duration::from_nanos(cpu),
        memory_bytes: memory.usage?.saturating_sub(inactive_file.copied().unwrap_or_default()),
        network_receive_bytes: networks.values().filter_map(|network| network.rx_bytes).sum(),
        network_transmit_bytes: networks.values().filter_map(|network| network.tx_bytes).sum(),
    })
}

fn read_at(text: Option<&str>) -> Option<Timestamp> {
    text.and_then(rfc3339::parse)
}
