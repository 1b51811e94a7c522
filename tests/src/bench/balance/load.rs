//! Requests over connections that stay: as many as come through, what they took, and how many were no answer.
//!
//! Invariant: one thread of its own, so that measuring costs the same whoever is measured.

use std::{
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime, task, time,
};

use super::rivals::found;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n";
/// A client that waits longer gives up and counts as an error.
const PATIENCE: Duration = Duration::from_secs(10);
const LARGEST_ANSWER: usize = 4 << 10;

/// What came of it.
#[derive(Debug, Clone)]
pub struct Load {
    pub answered: u64,
    /// Neither 200 nor in time.
    pub failed: u64,
    pub p99: Duration,
    pub over: Duration,
}

impl Load {
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.answered as f64 / self.over.as_secs_f64()
    }
}

/// This many clients ask again and again, for so long: wrk where it is installed.
///
/// # Errors
/// When no client gets any answer.
pub async fn run(port: u16, clients: usize, over: Duration) -> Result<Load> {
    match found("wrk") {
        Some(program) => wrk(program, port, clients, over).await,
        None => own(port, clients, over).await,
    }
}

async fn wrk(program: PathBuf, port: u16, clients: usize, over: Duration) -> Result<Load> {
    let arguments = [
        "-t1".to_owned(),
        format!("-c{clients}"),
        format!("-d{}s", over.as_secs().max(1)),
        "--latency".to_owned(),
        format!("http://127.0.0.1:{port}/"),
    ];
    let ran = task::spawn_blocking(move || Command::new(program).args(arguments).output()).await?;
    let said = String::from_utf8_lossy(&ran.context("wrk")?.stdout).into_owned();
    read(&said).with_context(|| format!("wrk said:\n{said}"))
}

/// What wrk prints at its end.
fn read(said: &str) -> Result<Load> {
    let lines = || said.lines().map(str::trim);
    let (answered, over) = lines().find_map(|line| line.split_once(" requests in ")).context("requests")?;
    let failed = |prefix: &str| {
        let line = lines().find_map(|line| line.strip_prefix(prefix))?;
        let numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<u64>().ok());
        Some(numbers.sum::<u64>())
    };
    let failed = ["Non-2xx or 3xx responses:", "Socket errors:"].iter().filter_map(|prefix| failed(prefix));
    Ok(Load {
        answered: answered.parse().context("requests")?,
        failed: failed.sum(),
        p99: time_of(lines().find_map(|line| line.strip_prefix("99%")).context("99%")?)?,
        over: time_of(over.split(',').next().unwrap_or_default())?,
    })
}

/// `812.00us`, `2.80ms`, `4.00s`.
fn time_of(text: &str) -> Result<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).context("a unit")?;
    let value: f64 = text[..digits].parse()?;
    let seconds = match &text[digits..] {
        "us" => value / 1e6,
        "ms" => value / 1e3,
        "s" => value,
        "m" => value * 60.0,
        unit => bail!("{unit:?} is no unit of time"),
    };
    Ok(Duration::from_secs_f64(seconds))
}

/// The same, always with the clients here.
///
/// # Errors
/// When no client gets any answer.
pub async fn own(port: u16, clients: usize, over: Duration) -> Result<Load> {
    let (told, heard) = tokio::sync::oneshot::channel();
    let worker = thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let done = runtime
            .context("a runtime")
            .and_then(|runtime| task::LocalSet::new().block_on(&runtime, all(port, clients, over)));
        let _ = told.send(done);
    });
    let load = heard.await.context("the load")??;
    worker.join().ok().context("the load's thread")?;
    ensure!(load.answered > 0, "nobody was answered on port {port}");
    Ok(load)
}

async fn all(port: u16, clients: usize, over: Duration) -> Result<Load> {
    let begin = Instant::now();
    let until = begin + over;
    let mut clients: Vec<_> = (0..clients).map(|_| task::spawn_local(one(port, until))).collect();
    let mut whole = Histogram::<u64>::new(3)?;
    let mut failed = 0;
    for client in clients.drain(..) {
        let (times, failures) = client.await??;
        whole.add(times)?;
        failed += failures;
    }
    Ok(Load {
        answered: whole.len(),
        failed,
        p99: Duration::from_micros(whole.value_at_quantile(0.99)),
        over: begin.elapsed(),
    })
}

async fn one(port: u16, until: Instant) -> Result<(Histogram<u64>, u64)> {
    let (mut times, mut failed) = (Histogram::<u64>::new(3)?, 0);
    let mut stream = None;
    while Instant::now() < until {
        let begin = Instant::now();
        let answer = time::timeout(PATIENCE, ask(port, &mut stream)).await;
        if matches!(answer, Ok(Ok(200))) {
            times.record(u64::try_from(begin.elapsed().as_micros())?.max(1))?;
        } else {
            failed += 1;
            stream = None;
            task::yield_now().await;
        }
    }
    Ok((times, failed))
}

/// One request and its answer: the status.
async fn ask(port: u16, kept: &mut Option<TcpStream>) -> Result<u16> {
    let stream = match kept {
        Some(stream) => stream,
        None => kept.insert(connect(port).await?),
    };
    stream.write_all(REQUEST).await?;
    let (mut buffer, mut filled) = ([0; LARGEST_ANSWER], 0);
    loop {
        let count = stream.read(&mut buffer[filled..]).await?;
        ensure!(count > 0, "the connection ended");
        filled += count;
        if let Some(status) = whole(&buffer[..filled])? {
            return Ok(status);
        }
    }
}

async fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The status, when everything of the answer is there.
fn whole(answer: &[u8]) -> Result<Option<u16>> {
    let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&answer[..head])?;
    let status = text.get(9..12).context("a status")?.parse()?;
    let mut headers = text.split("\r\n").filter_map(|line| line.split_once(':'));
    let length = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.map_or(Ok(0), |(_, value)| value.trim().parse())?;
    Ok((answer.len() >= head + 4 + length).then_some(status))
}

/// Connections that have had one answer each and stay open.
///
/// # Errors
/// When one of them gets none.
pub async fn idle(port: u16, count: usize) -> Result<Vec<TcpStream>> {
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = None;
        let status = time::timeout(PATIENCE, ask(port, &mut stream)).await.context("in time")??;
        ensure!(status == 200, "an idle connection's one answer was {status}");
        open.extend(stream);
    }
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_understood() {
        let said = "Running 4s test @ http://127.0.0.1:1/\n  1 threads and 64 connections\n  Latency Distribution\n     \
                    50%    1.50ms\n     99%  812.00us\n  163200 requests in 4.00s, 30.1MB read\n  Socket errors: \
                    connect 0, read 1, write 0, timeout 2\n  Non-2xx or 3xx responses: 4\nRequests/sec:  40800.11\n";
        let load = read(said).expect("wrk's words");
        assert_eq!((load.answered, load.failed), (163_200, 7));
        assert_eq!((load.p99, load.over), (Duration::from_micros(812), Duration::from_secs(4)));
        assert!(read("unable to connect").is_err());
    }

    #[test]
    fn an_answer_is_whole_when_its_body_is_there() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(whole(answer).expect("an answer"), Some(200));
        assert_eq!(whole(&answer[..answer.len() - 1]).expect("a part"), None);
        assert!(whole(b"nonsense\r\n\r\n").is_err());
    }
}
