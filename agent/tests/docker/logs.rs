//! What containers write.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use skein_agent::runtime::{ContainerRuntime, LogLine, LogQuery, RuntimeError};
use tokio::time::timeout;

use crate::sandbox::{Sandbox, answer, published, sample};

const PATIENCE: Duration = Duration::from_secs(30);

fn is(line: &LogLine, stderr: bool, text: &str) -> bool {
    line.stderr == stderr && line.line == text
}

#[tokio::test]
async fn lines_are_followed_to_the_end_and_found_again() {
    let sandbox = Sandbox::new().await;
    let (config, port) = published(sample());
    let id = sandbox.run(&config).await;
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let mut lines = sandbox.runtime.logs(&id, query);

    for (path, stderr, text) in
        [("/log?line=one", false, "one"), ("/log?line=two&to=stderr", true, "two"), ("/log?line=", false, "")]
    {
        answer(port, path).await;
        let line = async {
            loop {
                let line = lines.next().await.expect("no end yet").expect("a line");
                if is(&line, stderr, text) {
                    return line;
                }
            }
        };
        let line = timeout(PATIENCE, line).await.expect("in time");
        assert!(line.at.unix_ms() > 1_700_000_000_000, "{line:?}");
    }

    sandbox.runtime.stop(&id, Duration::from_secs(10)).await.expect("stopped");
    let rest: Vec<_> = timeout(PATIENCE, lines.try_collect()).await.expect("it ends").expect("lines");
    assert!(rest.len() < 10, "{rest:?}");

    let all = read(&sandbox, &id, LogQuery::default()).await;
    let at = all.iter().find(|line| is(line, true, "two")).expect("kept").at;
    let last = read(&sandbox, &id, LogQuery { tail: Some(1), ..LogQuery::default() }).await;
    assert_eq!(last, all[all.len() - 1..]);
    let since = read(&sandbox, &id, LogQuery { since: Some(at), ..LogQuery::default() }).await;
    assert!(since.len() < all.len() && since.iter().all(|line| line.at >= at), "{since:?}");
}

async fn read(sandbox: &Sandbox, id: &str, query: LogQuery) -> Vec<LogLine> {
    sandbox.runtime.logs(id, query).try_collect().await.expect("lines")
}

#[tokio::test]
async fn a_container_that_is_gone_has_no_lines() {
    let sandbox = Sandbox::new().await;
    let mut lines = sandbox.runtime.logs("no-such-container", LogQuery::default());
    let first = lines.next().await;
    assert_eq!(first, Some(Err(RuntimeError::NotFound("no-such-container".to_owned()))));
    assert_eq!(lines.next().await, None);
}
