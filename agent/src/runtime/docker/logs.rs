//! What a container wrote, cut into lines.
//!
//! Invariant: memory is bounded: a line longer than [`LONGEST_LINE`] comes in parts of that
//! size. A line carries the time its first piece was written; stdout and stderr never mix.
//! Deliberately not here: other log drivers than the one we set (`body`), terminals.

use std::{collections::VecDeque, time::Duration};

use bollard::{Docker, container::LogOutput, errors::Error as BollardError, query_parameters::LogsOptions};
use bytes::{Bytes, BytesMut};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use skein_common::Timestamp;
use tokio::time;

use super::{
    super::{LogLine, LogQuery, RuntimeError},
    call_error::CallError,
    connection::Connection,
    rfc3339,
};

/// The engine itself cuts lines at 16 KiB; pieces are put together again up to this.
const LONGEST_LINE: usize = 64 * 1024;

type Frames = BoxStream<'static, Result<LogOutput, BollardError>>;

/// One of stdout and stderr: the line that is not finished yet.
struct Unfinished {
    stderr: bool,
    at: Timestamp,
    bytes: BytesMut,
}

/// Cuts frames into lines.
struct Lines {
    stdout: Unfinished,
    stderr: Unfinished,
    since: Timestamp,
    ready: VecDeque<LogLine>,
}

struct Logs {
    frames: Frames,
    id: String,
    lines: Lines,
    /// `None` when lines may be far apart.
    idle: Option<Duration>,
    ended: bool,
}

pub(super) fn logs(
    connection: Connection,
    id: String,
    query: LogQuery,
) -> BoxStream<'static, Result<LogLine, RuntimeError>> {
    let since = query.since.unwrap_or_default();
    stream::once(open(connection, id, query))
        .flat_map(move |opened| match opened {
            Ok(mut logs) => {
                logs.lines.since = since;
                stream::unfold(logs, |mut logs| async move { Some((logs.next().await?, logs)) }).boxed()
            }
            Err(error) => stream::once(async { Err(error) }).boxed(),
        })
        .boxed()
}

async fn open(connection: Connection, id: String, query: LogQuery) -> Result<Logs, RuntimeError> {
    let limit = connection.limits.read;
    let client = connection.call(limit, |docker| async { Ok(docker) }).await;
    let docker = client.map_err(|error| error.on_read(&id))?;
    let idle = (!query.follow).then_some(limit);
    let frames = frames(&docker, &id, query);
    Ok(Logs { frames, id, lines: Lines::default(), idle, ended: false })
}

fn frames(docker: &Docker, id: &str, query: LogQuery) -> Frames {
    let options = LogsOptions {
        follow: query.follow,
        stdout: true,
        stderr: true,
        timestamps: true,
        tail: query.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string()),
        // Whole seconds here; `Lines` drops what is left over.
        since: query.since.map_or(0, |at| i32::try_from(at.unix_ms() / 1000).unwrap_or(i32::MAX)),
        until: 0,
    };
    docker.logs(id, Some(options)).boxed()
}

impl Logs {
    async fn next(&mut self) -> Option<Result<LogLine, RuntimeError>> {
        loop {
            if let Some(line) = self.lines.ready.pop_front() {
                return Some(Ok(line));
            }
            if self.ended {
                return None;
            }
            match self.frame().await {
                Some(Ok(frame)) => self.lines.take(frame),
                Some(Err(error)) => {
                    self.ended = true;
                    return Some(Err(error.on_read(&self.id)));
                }
                None => {
                    self.ended = true;
                    self.lines.finish();
                }
            }
        }
    }

    async fn frame(&mut self) -> Option<Result<LogOutput, CallError>> {
        let frame = match self.idle {
            None => self.frames.next().await,
            Some(limit) => match time::timeout(limit, self.frames.next()).await {
                Ok(frame) => frame,
                Err(_) => return Some(Err(CallError::NoAnswer(format!("no output within {limit:?}")))),
            },
        };
        frame.map(|frame| frame.map_err(CallError::from))
    }
}

impl Default for Lines {
    fn default() -> Self {
        let empty = |stderr| Unfinished { stderr, at: Timestamp::default(), bytes: BytesMut::new() };
        Self {
            stdout: empty(false),
            stderr: empty(true),
            since: Timestamp::default(),
            ready: VecDeque::new(),
        }
    }
}

impl Lines {
    fn take(&mut self, frame: LogOutput) {
        let is_stderr = matches!(frame, LogOutput::StdErr { .. });
        let to = if is_stderr { &mut self.stderr } else { &mut self.stdout };
        let (at, mut rest) = split_time(frame.into_bytes());
        while !rest.is_empty() {
            if to.bytes.is_empty() {
                to.at = at.unwrap_or(to.at);
            }
            let end = rest.iter().position(|byte| *byte == b'\n');
            let room = LONGEST_LINE - to.bytes.len();
            let taken = rest.split_to(end.unwrap_or(rest.len()).min(room));
            let is_line = end == Some(taken.len());
            if is_line {
                let _newline = rest.split_to(1);
            }
            // Most lines come whole: those are not copied.
            if is_line && to.bytes.is_empty() {
                push(&mut self.ready, self.since, to, taken);
                continue;
            }
            to.bytes.extend_from_slice(&taken);
            if is_line || to.bytes.len() >= LONGEST_LINE {
                let line = to.bytes.split().freeze();
                push(&mut self.ready, self.since, to, line);
            }
        }
    }

    /// The container ended without ending its line.
    fn finish(&mut self) {
        for rest in [&mut self.stdout, &mut self.stderr] {
            if !rest.bytes.is_empty() {
                let line = rest.bytes.split().freeze();
                push(&mut self.ready, self.since, rest, line);
            }
        }
    }
}

fn push(ready: &mut VecDeque<LogLine>, since: Timestamp, from: &Unfinished, line: Bytes) {
    if from.at >= since {
        ready.push_back(LogLine { stderr: from.stderr, at: from.at, line });
    }
}

/// `2026-11-23T15:01:01.007123456Z text`; all of it is text when it does not begin so.
fn split_time(mut frame: Bytes) -> (Option<Timestamp>, Bytes) {
    let end = frame.iter().take(64).position(|byte| *byte == b' ');
    let at = end.and_then(|end| std::str::from_utf8(frame.get(..end)?).ok()).and_then(rfc3339::parse);
    if let (Some(end), Some(_)) = (end, at) {
        let _time = frame.split_to(end + 1);
    }
    (at, frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(text: impl Into<Bytes>) -> LogOutput {
        LogOutput::StdOut { message: text.into() }
    }

    fn err(text: &'static str) -> LogOutput {
        LogOutput::StdErr { message: text.into() }
    }

    /// `(stderr, ms, text)` of every line.
    fn lines(frames: Vec<LogOutput>) -> Vec<(bool, u64, String)> {
        let mut lines = Lines::default();
        frames.into_iter().for_each(|frame| lines.take(frame));
        lines.finish();
        let text = |line: &LogLine| String::from_utf8_lossy(&line.line).into_owned();
        lines.ready.iter().map(|line| (line.stderr, line.at.unix_ms(), text(line))).collect()
    }

    #[test]
    fn frames_become_lines() {
        const AT_1: &str = "1970-01-01T00:00:00.001Z ";
        let at = |ms: u64, text: &str| format!("1970-01-01T00:00:00.{ms:03}000000Z {text}");
        for (frames, expected) in [
            (vec![out(at(1, "a\n"))], vec![(false, 1, "a")]),
            (vec![out(at(1, "\n"))], vec![(false, 1, "")]),
            (vec![out(at(1, "a b\nc\n"))], vec![(false, 1, "a b"), (false, 1, "c")]),
            // A long line comes in pieces, each with its time.
            (vec![out(at(1, "a")), out(at(2, "b")), out(at(3, "c\n"))], vec![(false, 1, "abc")]),
            // The other stream in between does not disturb it.
            (
                vec![out(at(1, "a")), err("1970-01-01T00:00:00.002Z x\n"), out(at(3, "b\n"))],
                vec![(true, 2, "x"), (false, 1, "ab")],
            ),
            (vec![out(at(1, "no end"))], vec![(false, 1, "no end")]),
            (vec![out(AT_1)], vec![]),
            (vec![out("without time\n")], vec![(false, 0, "without time")]),
        ] {
            let expected: Vec<_> =
                expected.into_iter().map(|(stderr, ms, text)| (stderr, ms, text.to_owned())).collect();
            assert_eq!(lines(frames), expected);
        }
    }

    #[test]
    fn a_very_long_line_comes_in_parts() {
        let piece = format!("1970-01-01T00:00:00.001Z {}", "x".repeat(16 * 1024));
        let mut frames: Vec<_> = (0..9).map(|_| out(piece.clone())).collect();
        frames.push(out("1970-01-01T00:00:00.009Z \n"));
        let sizes: Vec<_> = lines(frames).into_iter().map(|(_, _, text)| text.len()).collect();
        assert_eq!(sizes, [LONGEST_LINE, LONGEST_LINE, 16 * 1024]);
    }

    #[test]
    fn older_lines_of_the_same_second_are_dropped() {
        let mut lines = Lines { since: Timestamp::from_unix_ms(2), ..Lines::default() };
        lines.take(out("1970-01-01T00:00:00.001Z a\n"));
        lines.take(out("1970-01-01T00:00:00.002Z b\n"));
        assert_eq!(lines.ready.len(), 1);
        assert_eq!(lines.ready[0].line, "b");
    }
}
