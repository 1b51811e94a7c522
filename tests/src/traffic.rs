//! Clients that never stop asking, over connections that are kept and over new ones.
//!
//! Invariant: whatever is not a whole answer with status 200 in time is a failure, kept with its reason; so a run without
//! failures says how many requests it stands for. Deliberately not here: speed (`bench`).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    task::JoinSet,
    time,
};
use tokio_util::sync::CancellationToken;

/// From the first byte of a connection to the last of an answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Failures whose reasons are kept.
const KEPT: usize = 20;

/// How much is asked.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Connections that are kept as long as the other side keeps them.
    pub kept: u32,
    /// Requests over those, together; not used without them.
    pub per_second: u32,
    /// Connections for one request.
    pub fresh_per_second: u32,
}

/// What became of the requests.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub answered: usize,
    pub failed: usize,
    /// Of the first failures: how long after the beginning, where, what.
    pub reasons: Vec<String>,
}

/// Running clients; they end with its drop.
#[derive(Debug)]
pub struct Traffic {
    stop: CancellationToken,
    counts: Arc<Mutex<Counts>>,
    clients: JoinSet<()>,
}

impl Traffic {
    /// Asks these addresses for `/`, shared out evenly.
    #[must_use]
    pub fn start(addresses: &[String], shape: Shape) -> Self {
        let (stop, counts, mut clients) =
            (CancellationToken::new(), Arc::<Mutex<Counts>>::default(), JoinSet::new());
        let began = Instant::now();
        let asker = |address: &String| Asker {
            address: address.clone(),
            began,
            stop: stop.clone(),
            counts: Arc::clone(&counts),
        };
        for address in addresses.iter().cycle().take(shape.kept as usize) {
            clients.spawn(asker(address).keep_asking(pace(shape.per_second) * shape.kept));
        }
        if shape.fresh_per_second > 0 {
            clients.spawn(ask_anew(addresses.iter().map(asker).collect(), pace(shape.fresh_per_second)));
        }
        Self { stop, counts, clients }
    }

    /// So far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the clients, when each has its last answer.
    pub async fn stop(mut self) -> Counts {
        self.stop.cancel();
        while self.clients.join_next().await.is_some() {}
        self.counts()
    }
}

fn pace(per_second: u32) -> Duration {
    Duration::from_secs(1) / per_second.max(1)
}

/// One client of one address.
#[derive(Debug, Clone)]
struct Asker {
    address: String,
    began: Instant,
    stop: CancellationToken,
    counts: Arc<Mutex<Counts>>,
}

impl Asker {
    async fn keep_asking(self, every: Duration) {
        let mut pace = time::interval(every);
        let mut connection = None;
        while self.stop.run_until_cancelled(pace.tick()).await.is_some() {
            let asked = ask(&self.address, connection.take());
            connection = self.note(within(asked).await).flatten();
        }
    }

    async fn ask_once(self) {
        let _ = self.note(within(ask(&self.address, None)).await);
    }

    fn note<T>(&self, answer: Result<T>) -> Option<T> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(answer) => {
                counts.answered += 1;
                Some(answer)
            }
            Err(error) => {
                counts.failed += 1;
                if counts.reasons.len() < KEPT {
                    let at = self.began.elapsed();
                    counts.reasons.push(format!("after {at:.2?}, {}: {error:#}", self.address));
                }
                None
            }
        }
    }
}

async fn ask_anew(askers: Vec<Asker>, every: Duration) {
    let (mut pace, mut asked) = (time::interval(every), JoinSet::new());
    for asker in askers.iter().cycle() {
        if asker.stop.run_until_cancelled(pace.tick()).await.is_none() {
            break;
        }
        while asked.try_join_next().is_some() {}
        asked.spawn(asker.clone().ask_once());
    }
    while asked.join_next().await.is_some() {}
}

async fn within<T>(asked: impl Future<Output = Result<T>>) -> Result<T> {
    time::timeout(LIMIT, asked).await.context("no whole answer")?
}

/// One request; the connection when it may be used again.
async fn ask(
    address: &str,
    connection: Option<BufReader<TcpStream>>,
) -> Result<Option<BufReader<TcpStream>>> {
    let mut stream = match connection {
        Some(stream) => stream,
        None => BufReader::new(TcpStream::connect(address).await.context("connect")?),
    };
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await.context("ask")?;
    let (mut length, mut is_kept, mut line) = (None, true, String::new());
    for number in 0.. {
        line.clear();
        ensure!(stream.read_line(&mut line).await.context("read the head")? > 0, "the connection was closed");
        match line.trim_end().split_once([' ', ':']) {
            Some((_, status)) if number == 0 => ensure!(status.starts_with("200"), "{status}"),
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = Some(value.trim().parse()?);
            }
            Some((name, value)) if name.eq_ignore_ascii_case("connection") => {
                is_kept = !value.trim().eq_ignore_ascii_case("close");
            }
            Some(_) => {}
            None if line.trim_end().is_empty() => break,
            None => bail!("{line:?} is no head"),
        }
    }
    let mut body = vec![0; length.context("an answer without a length")?];
    stream.read_exact(&mut body).await.context("read the body")?;
    Ok(is_kept.then_some(stream))
}
