//! Counters of containers.

use std::time::Duration;

use skein_agent::runtime::{ContainerRuntime, RuntimeError};

use crate::sandbox::{Sandbox, answer, published, sample};

#[tokio::test]
async fn counters_grow_with_what_is_done() {
    let sandbox = Sandbox::new().await;
    let (config, port) = published(sample());
    let id = sandbox.run(&config).await;
    answer(port, "/").await;
    let before = sandbox.runtime.sample(&id).await.expect("a sample");
    answer(port, "/burn?ms=300").await;
    answer(port, "/fill?mib=32").await;
    let after = sandbox.runtime.sample(&id).await.expect("a sample");

    let burnt = after.cpu.checked_sub(before.cpu).expect("time grows");
    assert!(burnt > Duration::from_millis(50) && burnt < Duration::from_secs(5), "{burnt:?}");
    let filled = after.memory_bytes.checked_sub(before.memory_bytes).expect("memory grew");
    assert!(filled > 30 << 20 && filled < 64 << 20, "{filled}");
    assert!(before.memory_bytes < 16 << 20, "{before:?}");
    assert!(after.network_receive_bytes > before.network_receive_bytes, "{before:?} {after:?}");
    assert!(after.network_transmit_bytes > before.network_transmit_bytes, "{before:?} {after:?}");
    assert!(after.at > before.at);
}

#[tokio::test]
async fn what_does_not_run_has_no_counters() {
    let sandbox = Sandbox::new().await;
    let id = sandbox.create(&sample()).await;
    assert_eq!(sandbox.runtime.sample(&id).await, Err(RuntimeError::NotFound(id)));
    let gone = "0".repeat(64);
    assert_eq!(sandbox.runtime.sample(&gone).await, Err(RuntimeError::NotFound(gone)));
}
