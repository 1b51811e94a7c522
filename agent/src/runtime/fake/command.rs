//! Commands in the fake's containers: `echo`, `cat`, `yes`, `hang`, `size`, `false`; all others are
//! not found.
//!
//! Invariant: a command ends with its container, with [`KILLED`]; one that is ended, too. What is not
//! read is not written.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures_util::stream;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::watch,
};

use super::{
    super::{Exec, ExecCommand, ExecOutput, RuntimeError, TerminalSize},
    FakeRuntime, KILLED,
};

/// What a pipe holds.
const PIPE: usize = 4096;
const NOT_FOUND: i32 = 127;

#[derive(Debug, Default)]
pub(super) struct Execs(Mutex<Started>);

#[derive(Debug, Default)]
struct Started {
    next: u64,
    running: BTreeMap<String, Running>,
}

#[derive(Debug, Clone)]
struct Running {
    size: watch::Sender<TerminalSize>,
    exit: watch::Sender<Option<i32>>,
}

impl Execs {
    fn lock(&self) -> MutexGuard<'_, Started> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commands that have not ended.
    pub(super) fn running(&self) -> usize {
        self.lock().running.values().filter(|one| one.exit.borrow().is_none()).count()
    }

    fn find(&self, exec: &str) -> Result<Running, RuntimeError> {
        self.lock().running.get(exec).cloned().ok_or_else(|| RuntimeError::NotFound(exec.to_owned()))
    }

    pub(super) fn resize(&self, exec: &str, size: TerminalSize) -> Result<(), RuntimeError> {
        self.find(exec)?.size.send_replace(size);
        Ok(())
    }

    pub(super) fn end(&self, exec: &str) -> Result<(), RuntimeError> {
        finish(&self.find(exec)?.exit, i32::try_from(KILLED).unwrap_or(NOT_FOUND));
        Ok(())
    }

    pub(super) async fn exit(&self, exec: &str) -> Result<i32, RuntimeError> {
        let mut exit = self.find(exec)?.exit.subscribe();
        let code = exit.wait_for(Option::is_some).await.ok().and_then(|code| *code);
        code.ok_or_else(|| RuntimeError::NotFound(exec.to_owned()))
    }

    pub(super) fn start(&self, fake: &FakeRuntime, container: &str, command: &ExecCommand) -> Exec {
        let running = Running { size: watch::Sender::default(), exit: watch::Sender::default() };
        let id = {
            let mut started = self.lock();
            started.next += 1;
            let id = format!("exec-{}", started.next);
            started.running.insert(id.clone(), running.clone());
            id
        };
        let (input, stdin) = duplex(PIPE);
        let (stdout, output) = duplex(PIPE);
        let process = Process { stdin, stdout, size: running.size.subscribe(), command: command.clone() };
        let (fake, container) = (fake.clone(), container.to_owned());
        let exit = running.exit;
        // Stands for the process: it ends by itself, with its container, or because it is told to.
        tokio::spawn(async move {
            let mut told = exit.subscribe();
            tokio::select! {
                code = process.run() => finish(&exit, code),
                () = fake.container_ended(&container) => finish(&exit, i32::try_from(KILLED).unwrap_or(NOT_FOUND)),
                _ = told.wait_for(Option::is_some) => {}
            }
        });
        let output = stream::unfold(output, |mut output| async move {
            let piece = read(&mut output).await?;
            Some((Ok(ExecOutput { stderr: false, bytes: piece.into() }), output))
        });
        Exec { id, output: Box::pin(output), input: Box::new(input) }
    }
}

fn finish(exit: &watch::Sender<Option<i32>>, code: i32) {
    exit.send_if_modified(|exit| exit.is_none().then(|| *exit = Some(code)).is_some());
}

async fn read(from: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut piece = vec![0; PIPE];
    let size = from.read(&mut piece).await.ok().filter(|size| *size > 0)?;
    piece.truncate(size);
    Some(piece)
}

struct Process {
    stdin: DuplexStream,
    stdout: DuplexStream,
    size: watch::Receiver<TerminalSize>,
    command: ExecCommand,
}

impl Process {
    /// To its exit code. Who writes to nobody ends, as with SIGPIPE.
    async fn run(mut self) -> i32 {
        let program = self.command.command.first().map(String::as_str);
        match program {
            Some("echo") => {
                let line = format!("{}\n", self.command.command[1..].join(" "));
                i32::from(self.stdout.write_all(line.as_bytes()).await.is_err())
            }
            Some("cat") => {
                while let Some(piece) = read(&mut self.stdin).await {
                    if self.stdout.write_all(&piece).await.is_err() {
                        return 1;
                    }
                }
                0
            }
            Some("yes") => {
                while self.stdout.write_all(&[b'y'; PIPE]).await.is_ok() {}
                1
            }
            Some("size") => loop {
                let size = *self.size.borrow_and_update();
                let line = format!("{}x{}\n", size.columns, size.rows);
                if self.stdout.write_all(line.as_bytes()).await.is_err() || self.size.changed().await.is_err()
                {
                    return 1;
                }
            },
            Some("hang") => std::future::pending().await,
            Some("false") => 1,
            _ => NOT_FOUND,
        }
    }
}
