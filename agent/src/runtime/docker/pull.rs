//! Fetching an image.
//!
//! Invariant: a pull that makes no progress for `Limits::pull_idle` has failed; one that does
//! may take as long as it needs.
//! Deliberately not here: retries and their back-off (`agent/core`), registry credentials
//! (they arrive with secrets).

use bollard::query_parameters::CreateImageOptions;
use futures_util::StreamExt;
use tokio::time;

use super::{super::RuntimeError, call_error::CallError, connection::Connection};

pub(super) async fn pull(connection: &Connection, image: &str) -> Result<(), RuntimeError> {
    let limit = connection.limits.read;
    let docker = connection.call(limit, |docker| async { Ok(docker) }).await;
    let docker = docker.map_err(|error| error.on_pull(image))?;
    let options = CreateImageOptions { from_image: Some(with_tag(image)), ..CreateImageOptions::default() };
    let mut steps = docker.create_image(Some(options), None, None).boxed();
    let idle = connection.limits.pull_idle;
    loop {
        match time::timeout(idle, steps.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(_step))) => {}
            Ok(Some(Err(error))) => return Err(CallError::from(error).on_pull(image)),
            Err(_) => {
                let reason = format!("no progress for {idle:?}");
                return Err(RuntimeError::Image { image: image.to_owned(), reason });
            }
        }
    }
}

/// Without a tag or digest the engine would pull every tag there is.
fn with_tag(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tag_is_pulled() {
        for (image, pulled) in [
            ("nginx", "nginx:latest"),
            ("nginx:1.27", "nginx:1.27"),
            ("localhost:5000/team/web", "localhost:5000/team/web:latest"),
            ("localhost:5000/web:2", "localhost:5000/web:2"),
            ("web@sha256:0123", "web@sha256:0123"),
        ] {
            assert_eq!(with_tag(image), pulled);
        }
    }
}
