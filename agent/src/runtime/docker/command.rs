//! Commands in running containers.
//!
//! Invariant: what a command writes is handed on as it comes, in pieces of at most [`PIECE`]; nothing
//! is read ahead, so a reader that waits holds up the command and nothing else. Every other call is
//! bounded in time. Only processes of the command's own container are ever signalled.
//! Why the upgraded connection is our own: bollard's reader takes the first byte of what a terminal
//! writes for a frame's header when it is 0, 1 or 2, and then collects up to 4 GiB before it goes on.

use std::{fs, io, time::Duration};

use bollard::{exec::ResizeExecOptions, models::ExecConfig};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf},
    time::{self, Instant},
};

use super::{
    super::{Exec, ExecCommand, ExecOutput, RuntimeError, TerminalSize},
    call_error::{CallError, shortened},
    connection::{Connection, Wire},
};

/// Largest piece of output.
const PIECE: usize = 32 * 1024;
/// Of an answer before its stream.
const MAX_HEAD: usize = 16 * 1024;
/// A frame's: stream, three zeros, length.
const HEADER: usize = 8;
/// The engine knows a little later than we that a command has ended.
const EXIT_POLL: Duration = Duration::from_millis(20);
/// Between the polite signal and the other one.
const GRACE: Duration = Duration::from_secs(2);

pub(super) async fn exec(
    connection: &Connection,
    container: &str,
    command: &ExecCommand,
) -> Result<Exec, RuntimeError> {
    let limit = connection.limits.change;
    let config = config(command);
    let made = connection
        .call(limit, |docker| async move { docker.create_exec(container, config).await })
        .await
        .map_err(|error| error.on_change(container))?;
    let attached = time::timeout(connection.limits.start, attach(connection, &made.id, command.tty)).await;
    let late = |_| CallError::NoAnswer(format!("no answer within {:?}", connection.limits.start));
    let (wire, rest) =
        attached.unwrap_or_else(|elapsed| Err(late(elapsed))).map_err(|error| error.on_change(container))?;
    let (read, write) = tokio::io::split(wire);
    let output = Output { read, bytes: rest, tty: command.tty, frame: Frame::default() };
    let output = stream::unfold(output, |mut output| async move { Some((output.next().await?, output)) });
    Ok(Exec { id: made.id, output: output.boxed(), input: Box::new(write) })
}

fn config(command: &ExecCommand) -> ExecConfig {
    let set = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    ExecConfig {
        attach_stdin: Some(command.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(command.tty),
        env: Some(command.environment.clone()),
        cmd: Some(command.command.clone()),
        user: set(&command.user),
        working_dir: set(&command.working_dir),
        ..ExecConfig::default()
    }
}

/// Starts it; what is left belongs to its output.
async fn attach(connection: &Connection, exec: &str, tty: bool) -> Result<(Wire, BytesMut), CallError> {
    let version = connection.docker().await?.client_version().to_string();
    let mut wire = connection.wire().await.map_err(broken)?;
    let body = format!("{{\"Detach\":false,\"Tty\":{tty}}}");
    let head = format!(
        "POST /v{version}/exec/{exec}/start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    wire.write_all(head.as_bytes()).await.map_err(broken)?;
    let mut bytes = BytesMut::with_capacity(PIECE);
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if bytes.len() > MAX_HEAD || wire.read_buf(&mut bytes).await.map_err(broken)? == 0 {
            return Err(CallError::Unreadable("it ended before its head".to_owned()));
        }
    };
    let head = bytes.split_to(end);
    let status = std::str::from_utf8(&head).ok().and_then(|head| head.split(' ').nth(1)?.parse::<u16>().ok());
    match status {
        Some(101 | 200) => Ok((wire, bytes)),
        Some(status) => {
            let mut body = wire.take(MAX_HEAD as u64);
            // The engine closes, or keeps the connection: what has come is enough.
            let _ = time::timeout(EXIT_POLL, body.read_buf(&mut bytes)).await;
            Err(CallError::Refused { status, message: message(&bytes) })
        }
        None => Err(CallError::Unreadable("no status".to_owned())),
    }
}

fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    let text = String::from_utf8_lossy(body);
    let start = text.find('{').unwrap_or(0);
    // What follows is the end of a chunked body.
    let parsed = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Refusal>().next();
    shortened(parsed.and_then(Result::ok).map_or_else(|| text.trim().to_owned(), |refusal| refusal.message))
}

fn broken(error: io::Error) -> CallError {
    CallError::NoAnswer(error.to_string())
}

/// What is left of the frame that is being read.
#[derive(Debug, Default, Clone, Copy)]
struct Frame {
    stderr: bool,
    left: usize,
}

struct Output<R = ReadHalf<Wire>> {
    read: R,
    bytes: BytesMut,
    /// Without frames.
    tty: bool,
    frame: Frame,
}

impl<R: AsyncRead + Unpin> Output<R> {
    async fn next(&mut self) -> Option<Result<ExecOutput, RuntimeError>> {
        loop {
            if let Some(piece) = self.piece() {
                return Some(Ok(piece));
            }
            self.bytes.reserve(PIECE);
            let mut room = (&mut self.read).take(PIECE as u64);
            match room.read_buf(&mut self.bytes).await {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(Err(broken(error).on_read("exec"))),
            }
        }
    }

    /// From what has been read.
    fn piece(&mut self) -> Option<ExecOutput> {
        while !self.tty && self.frame.left == 0 {
            if self.bytes.len() < HEADER {
                return None;
            }
            let mut header = self.bytes.split_to(HEADER);
            let stderr = header.get_u32() >> 24 == 2;
            self.frame = Frame { stderr, left: usize::try_from(header.get_u32()).unwrap_or(usize::MAX) };
        }
        let size = if self.tty { self.bytes.len() } else { self.bytes.len().min(self.frame.left) };
        if size == 0 {
            return None;
        }
        self.frame.left = self.frame.left.saturating_sub(size);
        let bytes: Bytes = self.bytes.split_to(size).freeze();
        Some(ExecOutput { stderr: self.frame.stderr && !self.tty, bytes })
    }
}

pub(super) async fn resize(
    connection: &Connection,
    exec: &str,
    size: TerminalSize,
) -> Result<(), RuntimeError> {
    let options = ResizeExecOptions { height: size.rows, width: size.columns };
    let answer = connection
        .call(connection.limits.read, |docker| async move { docker.resize_exec(exec, options).await })
        .await;
    answer.map_err(|error| error.on_change(exec))
}

/// Its exit code, once the engine knows it; its output has ended before.
pub(super) async fn exit(connection: &Connection, exec: &str) -> Result<i32, RuntimeError> {
    let deadline = Instant::now() + connection.limits.read;
    loop {
        let seen = inspect(connection, exec).await?;
        if let (Some(code), false) = (seen.code, seen.running) {
            return Ok(code);
        }
        if Instant::now() >= deadline {
            return Err(RuntimeError::Failed("it closed its output and runs on".to_owned()));
        }
        time::sleep(EXIT_POLL).await;
    }
}

/// Ends it, as far as its processes can be seen from here.
pub(super) async fn end(connection: &Connection, exec: &str) -> Result<(), RuntimeError> {
    for signal in [Signal::HUP, Signal::KILL] {
        let (mut sent, deadline) = (false, Instant::now() + GRACE);
        while Instant::now() < deadline {
            let seen = inspect(connection, exec).await?;
            if !seen.running {
                return Ok(());
            }
            // Right after its start the engine knows no process yet; right before its end no longer.
            sent = sent || seen.pid > 0 && send(&seen, signal)?;
            time::sleep(EXIT_POLL).await;
        }
    }
    Ok(())
}

/// Signals the command's process group, or it alone when it leads none. Answers whether it was there.
fn send(seen: &Seen, signal: Signal) -> Result<bool, RuntimeError> {
    let refused = |error: io::Error| RuntimeError::Failed(format!("its process cannot be ended: {error}"));
    let Some(pid) = Pid::from_raw(seen.pid) else { return Ok(false) };
    let groups = match fs::read_to_string(format!("/proc/{}/cgroup", seen.pid)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        read => read.map_err(refused)?,
    };
    // Another engine's machine, or the number is somebody else's by now.
    if seen.container.is_empty() || !groups.contains(&seen.container) {
        return Ok(false);
    }
    let leads = getpgid(Some(pid)).is_ok_and(|group| group == pid);
    let sent = if leads { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
    match sent {
        Err(rustix::io::Errno::SRCH) => Ok(false),
        sent => sent.map(|()| true).map_err(|error| refused(error.into())),
    }
}

struct Seen {
    running: bool,
    code: Option<i32>,
    pid: i32,
    container: String,
}

async fn inspect(connection: &Connection, exec: &str) -> Result<Seen, RuntimeError> {
    let answer = connection
        .call(connection.limits.read, |docker| async move { docker.inspect_exec(exec).await })
        .await;
    let seen = answer.map_err(|error| error.on_read(exec))?;
    Ok(Seen {
        running: seen.running.unwrap_or(false),
        code: seen.exit_code.and_then(|code| i32::try_from(code).ok()),
        pid: seen.pid.and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0),
        container: seen.container_id.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(tty: bool, parts: &[&[u8]]) -> Vec<(bool, Vec<u8>)> {
        let (mut engine, read) = tokio::io::duplex(7);
        let parts: Vec<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        let engine = tokio::spawn(async move {
            for part in parts {
                engine.write_all(&part).await.unwrap();
            }
        });
        let mut output = Output { read, bytes: BytesMut::new(), tty, frame: Frame::default() };
        let mut seen: Vec<(bool, Vec<u8>)> = Vec::new();
        while let Some(piece) = output.next().await {
            let ExecOutput { stderr, bytes } = piece.unwrap();
            match seen.last_mut() {
                Some((last, all)) if *last == stderr => all.extend_from_slice(&bytes),
                _ => seen.push((stderr, bytes.to_vec())),
            }
        }
        engine.await.unwrap();
        seen
    }

    #[tokio::test]
    async fn frames_become_two_streams_however_they_are_cut() {
        let frames: [&[u8]; 4] =
            [b"\x01\0\0\0\0\0\0\x05hel", b"lo\x02\0\0", b"\0\0\0\0\x03", b"err\x01\0\0\0\0\0\0\0"];
        assert_eq!(read(false, &frames).await, [(false, b"hello".to_vec()), (true, b"err".to_vec())]);
    }

    #[tokio::test]
    async fn what_a_terminal_writes_is_never_a_frame() {
        let bytes: &[u8] = b"\x01\0\0\0\xff\xff\xff\xffrest";
        assert_eq!(read(true, &[bytes]).await, [(false, bytes.to_vec())]);
    }

    #[test]
    fn a_refusal_is_its_message() {
        for (body, said) in [
            ("{\"message\":\"Container is paused\"}\n", "Container is paused"),
            ("10\r\n{\"message\":\"no\"}\n\r\n0\r\n\r\n", "no"),
            ("oops", "oops"),
        ] {
            assert_eq!(message(body.as_bytes()), said, "{body}");
        }
    }
}
