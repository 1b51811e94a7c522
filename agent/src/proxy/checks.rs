//! The balancer's own look at its endpoints: a connection, or a GET, now and then.
//!
//! Invariant: one round at a time, so an endpoint that hangs is not asked twice; nothing of it delays a request. What a
//! check decides is the core's (`balance`): failures in a row, never more than half out.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use rand::RngExt;
use skein_common::service::ActiveCheck;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};
use tokio_util::sync::CancellationToken;

use super::front::Front;

/// Endpoints of one port that are looked at at the same time.
const AT_ONCE: usize = 32;
/// `HTTP/1.1 200`
const STATUS_LINE: usize = 12;

/// Looks at the endpoints of this port until `stop`, or until its policy asks for no checks.
pub(crate) async fn run(front: Arc<Front>, stop: CancellationToken) {
    // Agents must not march in step.
    let shift: f64 = rand::rng().random();
    let Some(first) = front.state().policy.check.as_ref().map(|check| check.interval.mul_f64(shift)) else {
        return;
    };
    let rounds = async {
        time::sleep(first).await;
        while let Some(interval) = round(&front).await {
            time::sleep(interval).await;
        }
    };
    stop.run_until_cancelled(rounds).await;
}

/// Looks at each once: when to look again.
async fn round(front: &Arc<Front>) -> Option<Duration> {
    let state = front.state();
    let check = state.policy.check.as_ref()?;
    let addresses: Vec<SocketAddr> =
        state.set.members().iter().map(|member| member.endpoint.address).collect();
    let looks = addresses.into_iter().enumerate().map(|(index, address)| async move {
        let is_well = time::timeout(check.timeout, look(address, check, &front.name)).await;
        (index, is_well.unwrap_or(false))
    });
    let mut looks = stream::iter(looks).buffer_unordered(AT_ONCE);
    while let Some((index, is_well)) = looks.next().await {
        front.checked(&state, index, is_well, check);
    }
    Some(check.interval)
}

async fn look(address: SocketAddr, check: &ActiveCheck, host: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let Some(path) = &check.path else { return true };
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: skein-check\r\nconnection: close\r\n\r\n"
    );
    let mut line = [0; STATUS_LINE];
    let asked = async {
        stream.write_all(request.as_bytes()).await?;
        stream.read_exact(&mut line).await
    };
    asked.await.is_ok() && is_good(&line)
}

fn is_good(line: &[u8; STATUS_LINE]) -> bool {
    line.starts_with(b"HTTP/1.") && line[8] == b' ' && matches!(line[9], b'1'..=b'3')
}
