//! Standard input and output beside the connection: a reader that waits (a pager) must not keep it
//! from answering its peer.
//!
//! Invariant: one thread a stream, one piece in its hand and one waiting. Threads that still read or
//! write end with the process.

use std::{
    io::{self, Read as _, Write},
    rc::Rc,
    thread,
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::terminal::Terminal;

const PIECE: usize = skein_proto::STDIN_PIECE;

pub(super) struct Pipes {
    pub(super) out: Out,
    pub(super) input: Input,
}

/// Of standard input.
pub(super) struct Input(Option<mpsc::Receiver<Bytes>>);

/// Standard output and standard error.
pub(super) enum Out {
    Threads {
        stdout: Writer,
        stderr: Writer,
    },
    /// Not the process's own.
    Paper(Rc<Terminal>),
}

pub(super) struct Writer {
    pieces: mpsc::Sender<Bytes>,
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Pipes {
    pub(super) fn open(terminal: &Rc<Terminal>, interactive: bool) -> Self {
        let out = match terminal.is_standard {
            true => Out::Threads { stdout: Writer::start(io::stdout()), stderr: Writer::start(io::stderr()) },
            false => Out::Paper(Rc::clone(terminal)),
        };
        Self { out, input: if interactive { Input::start() } else { Input(None) } }
    }
}

impl Input {
    fn start() -> Self {
        let (sender, pieces) = mpsc::channel(1);
        thread::spawn(move || {
            let mut piece = vec![0; PIECE];
            loop {
                match io::stdin().read(&mut piece) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(0) | Err(_) => return,
                    Ok(size) => {
                        let bytes = piece.get(..size).unwrap_or_default();
                        if sender.blocking_send(Bytes::copy_from_slice(bytes)).is_err() {
                            return;
                        }
                    }
                }
            }
        });
        Self(Some(pieces))
    }

    /// `None` at its end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        self.0.as_mut()?.recv().await
    }
}

impl Writer {
    fn start(mut to: impl Write + Send + 'static) -> Self {
        let (pieces, mut waiting) = mpsc::channel::<Bytes>(1);
        let (sender, ended) = oneshot::channel();
        thread::spawn(move || {
            let mut all = || {
                while let Some(piece) = waiting.blocking_recv() {
                    to.write_all(&piece)?;
                    to.flush()?;
                }
                Ok(())
            };
            let written = all();
            drop(waiting);
            let _nobody_asks = sender.send(written);
        });
        Self { pieces, ended }
    }

    async fn write(&mut self, piece: Bytes) -> io::Result<()> {
        if self.pieces.send(piece).await.is_ok() {
            return Ok(());
        }
        (&mut self.ended).await.unwrap_or(Ok(())).and(Err(io::ErrorKind::BrokenPipe.into()))
    }

    async fn finish(&mut self) -> io::Result<()> {
        // The thread writes what waits and ends when the last sender is gone.
        self.pieces = mpsc::channel(1).0;
        (&mut self.ended).await.unwrap_or(Ok(()))
    }
}

impl Out {
    pub(super) async fn stdout(&mut self, piece: Bytes) -> io::Result<()> {
        match self {
            Self::Threads { stdout, .. } => stdout.write(piece).await,
            Self::Paper(terminal) => terminal.print_bytes(&piece),
        }
    }

    pub(super) async fn stderr(&mut self, piece: Bytes) -> io::Result<()> {
        match self {
            Self::Threads { stderr, .. } => stderr.write(piece).await,
            Self::Paper(terminal) => {
                terminal.say_bytes(&piece);
                Ok(())
            }
        }
    }

    /// Once everything has been written.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Threads { stdout, stderr } => {
                let (out, err) = (stdout.finish().await, stderr.finish().await);
                out.and(err)
            }
            Self::Paper(_) => Ok(()),
        }
    }
}
