//! No request is lost when instances come and go, on real processes and real Docker.
//!
//! Invariant tested: not one 5xx, reset, refused connection or answer that is late, whatever is done to the service.
//! The long form, with masters dead for a minute, is `make bench ARGS=continuity`.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::time::Duration;

use anyhow::{Result, ensure};
use skein_tests::{
    continuity::{self, Step},
    deployment::{Deployment, Flags},
    traffic::Shape,
};

const LIMIT: Duration = Duration::from_secs(40);
/// What killed masters, and the killed instance, make the others say.
const ENDING: &[&str] = &["master unreachable", "leadership was not handed on", "an instance keeps failing"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost() -> Result<()> {
    let mut cluster = Deployment::start(3, 3, &Flags::default()).await?;
    let steps = Step::every(Duration::from_secs(5));
    let shape = Shape { kept: 12, per_second: 500, fresh_per_second: 50 };
    let (taken, all) = continuity::run(&mut cluster, &steps, shape).await?;
    for step in &taken {
        println!("{:?}: {} answered, {} failed, {:.1?}", step.step, step.answered, step.failed, step.took);
    }
    ensure!(all.failed == 0, "{} of {}: {:#?}", all.failed, all.failed + all.answered, all.reasons);
    cluster.skein(&["stack", "rm", "edge"]).await?;
    cluster.no_containers(LIMIT).await?;
    cluster.finish(ENDING).await
}
