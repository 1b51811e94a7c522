//! `skein exec`: a command in a running container, with this terminal or these pipes around it.
//!
//! Invariant: the terminal is as it was when the command ends, however it ends; nothing is read ahead
//! of what the other side takes, but one piece. The exit code is the command's own.
//! A command is never repeated by itself: only when it certainly did not begin.

mod pipes;
mod raw;

use std::{cell::RefCell, time::Duration};

use skein_proto::{
    STDIN_WINDOW,
    v1::{self, exec_request, exec_response::Message as Said},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tonic_types::StatusExt as _;

use self::{pipes::Pipes, raw::RawTerminal};
use crate::{api, app::App, failure::Failure, masters::Repeat};

/// Messages on their way.
const QUEUE: usize = 4;
/// What has been written when the command ended is shown within this.
const SHOWN_WITHIN: Duration = Duration::from_secs(60);

/// Run a command in a running container
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The exit code is the command's. When skein itself fails it says so on standard error and ends with 1, 64 or 69.
When skein ends before the command does, the command is ended too.

Examples:
  skein exec -it shop_web -- sh                 a shell in one of its instances
  skein exec shop_web.3 -- env                  in this one
  skein exec -i shop_db -- psql -U shop < dump.sql
  skein exec -u root -w /srv -e DEBUG=1 shop_web -- ls -l")]
pub struct Args {
    /// Name or id of an instance (shop_web.3), or of a service: then its first running instance
    #[arg(value_name = "INSTANCE|SERVICE")]
    pub target: String,
    /// Program and arguments; no shell reads them
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Pass standard input on
    #[arg(long, short)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(long, short)]
    pub tty: bool,
    /// Run as another user: NAME, UID, or either with :GROUP
    #[arg(long, short, value_name = "USER")]
    pub user: Option<String>,
    /// Run in this folder of the container
    #[arg(long, short, value_name = "FOLDER")]
    pub workdir: Option<String>,
    /// Set a variable, or pass on the one of this name
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
}

/// # Errors
/// Whatever the command ends with.
pub async fn run(app: &App, args: Args) -> Result<(), Failure> {
    let start = start(app, &args)?;
    let (requests, mut answers) = connect(app, start).await?;
    let mut pipes = Pipes::open(&app.terminal, args.interactive);
    // From here on every way out goes over its drop.
    let raw = if args.tty && args.interactive { RawTerminal::enter()? } else { None };
    let credit = Semaphore::new(STDIN_WINDOW);
    let ended = tokio::select! {
        ended = output(&mut answers, &mut pipes.out, &credit) => ended,
        never = input(&requests, &mut pipes.input, &credit) => match never {},
        never = resizes(&requests, args.tty) => match never {},
        code = ending_signal() => Err(Failure::Command(code)),
    };
    let shown = tokio::time::timeout(SHOWN_WITHIN, pipes.out.finish()).await;
    drop(raw);
    let code = ended?;
    shown.unwrap_or(Ok(()))?;
    match code {
        0 => Ok(()),
        // Some code that is not success, also when its last byte is zero.
        code => Err(Failure::Command(u8::try_from(code & 0xff).unwrap_or(1).max(1))),
    }
}

fn start(app: &App, args: &Args) -> Result<v1::ExecStart, Failure> {
    if args.tty && args.interactive && !raw::is_terminal() {
        return Err(Failure::Usage("standard input is no terminal: leave out -t".to_owned()));
    }
    let variable = |text: &String| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (text.clone(), app.environment.get(text).cloned().unwrap_or_default()),
    };
    Ok(v1::ExecStart {
        target: args.target.clone(),
        command: args.command.clone(),
        tty: args.tty,
        stdin: args.interactive,
        user: args.user.clone().unwrap_or_default(),
        working_dir: args.workdir.clone().unwrap_or_default(),
        environment: args.env.iter().map(variable).collect(),
        size: if args.tty { raw::size() } else { None },
    })
}

type Requests = mpsc::Sender<v1::ExecRequest>;

/// Once it runs.
async fn connect(
    app: &App,
    start: v1::ExecStart,
) -> Result<(Requests, Streaming<v1::ExecResponse>), Failure> {
    let sender = RefCell::new(None);
    let answers = app
        .api
        .masters
        .call(Repeat::WhenNotDone, |channel| {
            let (requests, stream) = mpsc::channel(QUEUE);
            // The queue is empty.
            let _ = requests.try_send(request(exec_request::Message::Start(start.clone())));
            sender.replace(Some(requests));
            async move { api::instances(channel).exec(ReceiverStream::new(stream)).await }
        })
        .await?;
    let requests = sender.into_inner().ok_or_else(|| Failure::Failed("no master was asked".to_owned()))?;
    Ok((requests, answers))
}

const fn request(message: exec_request::Message) -> v1::ExecRequest {
    v1::ExecRequest { message: Some(message) }
}

/// To its exit code.
async fn output(
    answers: &mut Streaming<v1::ExecResponse>,
    out: &mut pipes::Out,
    credit: &Semaphore,
) -> Result<i32, Failure> {
    loop {
        match answers.message().await.map_err(lost)?.map(|answer| answer.message) {
            Some(Some(Said::Stdout(bytes))) => out.stdout(bytes).await?,
            Some(Some(Said::Stderr(bytes))) => out.stderr(bytes).await?,
            Some(Some(Said::Exit(v1::ExecExit { code }))) => return Ok(code),
            Some(Some(Said::StdinTaken(bytes))) => {
                credit.add_permits(usize::try_from(bytes).unwrap_or(0).min(STDIN_WINDOW));
            }
            Some(Some(Said::Started(_)) | None) => {}
            None => return Err(lost(Status::unavailable("the stream ended"))),
        }
    }
}

fn lost(status: Status) -> Failure {
    if status.get_error_details().error_info().is_some() {
        return status.into();
    }
    let why = status.message();
    Failure::Failed(format!(
        "the connection to the cluster was lost; whether the command still runs is not known ({why})"
    ))
}

/// What is typed or piped. Never ends: who has nothing more to say still listens.
async fn input(
    requests: &Requests,
    input: &mut pipes::Input,
    credit: &Semaphore,
) -> std::convert::Infallible {
    while let Some(bytes) = input.next().await {
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if let Ok(permits) = credit.acquire_many(size).await {
            permits.forget();
        }
        if requests.send(request(exec_request::Message::Stdin(bytes))).await.is_err() {
            return std::future::pending().await;
        }
    }
    let _gone = requests.send(request(exec_request::Message::StdinEnd(v1::StdinEnd {}))).await;
    std::future::pending().await
}

/// Tells the command of every change of the window.
async fn resizes(requests: &Requests, tty: bool) -> std::convert::Infallible {
    if let (true, Ok(mut changed)) = (tty, signal(SignalKind::window_change())) {
        while changed.recv().await.is_some() {
            if let Some(size) = raw::size() {
                let _gone = requests.send(request(exec_request::Message::Resize(size))).await;
            }
        }
    }
    std::future::pending().await
}

/// Signals that would end the process with the terminal as it is; as a shell counts them.
async fn ending_signal() -> u8 {
    let (Ok(mut terminated), Ok(mut hung_up)) =
        (signal(SignalKind::terminate()), signal(SignalKind::hangup()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminated.recv() => 143,
        _ = hung_up.recv() => 129,
    }
}
