//! Counters of containers.

use std::time::Duration;

use skein_agent::runtime::{ContainerRuntime, RuntimeError};

use tokio::time::Instant;

use crate::sandbox::{Sandbox, answer, published, sample, wait_for};

#[tokio::test]
async fn counters_grow_with_what_is_done() {
    let sandbox = Sandbox::new().await;
    let (config, port) = published(sample());
    let id = sandbox.run(&config).await;
    answer(port, "/").await;
    let before = sandbox.runtime.sample(&id).await.expect("a sample");
    let begun = Instant::now();
    answer(port, "/fill?mib=32").await;
    // On a busy machine it gets less than the 100 ms of CPU it asks for.
    let after = wait_for("50 ms of CPU", || async {
        answer(port, "/burn?ms=100").await;
        let sample = sandbox.runtime.sample(&id).await.expect("a sample");
        (sample.cpu > before.cpu + Duration::from_millis(50)).then_some(sample)
    })
    .await;

    // One thread burns: nanoseconds are not taken for something else.
    let burnt = after.cpu.checked_sub(before.cpu).expect("time grows");
    assert!(burnt <= begun.elapsed() * 2, "{burnt:?}");
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
