//! Commands in real containers.

use std::time::Duration;

use futures_util::StreamExt;
use skein_agent::runtime::{ContainerRuntime, Exec, ExecCommand, ExecOutput, RuntimeError, TerminalSize};
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::sandbox::{Sandbox, sample, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);

fn command(words: &[&str]) -> ExecCommand {
    let words = ["/skein-sample"].iter().chain(words).map(ToString::to_string);
    ExecCommand { command: words.collect(), stdin: true, ..ExecCommand::default() }
}

/// stdout, stderr and the exit code.
async fn end(sandbox: &Sandbox, exec: Exec) -> (Vec<u8>, Vec<u8>, i32) {
    let Exec { id, mut output, input } = exec;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(piece) = timeout(PATIENCE, output.next()).await.expect("in time") {
        let ExecOutput { stderr, bytes } = piece.expect("output");
        if stderr { err.extend_from_slice(&bytes) } else { out.extend_from_slice(&bytes) }
    }
    drop(input);
    (out, err, sandbox.runtime.exec_exit(&id).await.expect("an exit code"))
}

async fn run(sandbox: &Sandbox, id: &str, command: &ExecCommand) -> (String, String, i32) {
    let exec = sandbox.runtime.exec(id, command).await.expect("it runs");
    let (out, err, code) = end(sandbox, exec).await;
    (String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned(), code)
}

#[tokio::test]
async fn output_exit_code_and_options() {
    let sandbox = Sandbox::new().await;
    let id = sandbox.run(&sample()).await;
    let text = |out: &str, err: &str, code| (out.to_owned(), err.to_owned(), code);
    assert_eq!(run(&sandbox, &id, &command(&["say", "a", "b"])).await, text("a\n", "b\n", 0));
    assert_eq!(run(&sandbox, &id, &command(&["exit", "42"])).await, text("", "", 42));
    let options = ExecCommand {
        user: "1234:5".to_owned(),
        working_dir: "/proc".to_owned(),
        environment: vec!["COLOUR=blue".to_owned()],
        ..command(&[])
    };
    for (name, value) in [("uid", "1234\n"), ("pwd", "/proc\n"), ("COLOUR", "blue\n")] {
        let words = command(&["show", name]).command;
        let shown = run(&sandbox, &id, &ExecCommand { command: words, ..options.clone() }).await;
        assert_eq!(shown, text(value, "", 0));
    }
    let unknown = ExecCommand { command: vec!["/nope".to_owned()], ..ExecCommand::default() };
    let (_, _, code) = run(&sandbox, &id, &unknown).await;
    assert!(matches!(code, 126 | 127), "{code}");
    sandbox.runtime.stop(&id, Duration::from_secs(5)).await.expect("stopped");
    let refused = sandbox.runtime.exec(&id, &command(&["exit", "0"])).await.map(|exec| exec.id);
    assert!(matches!(&refused, Err(RuntimeError::Failed(why)) if why.contains("not running")), "{refused:?}");
}

#[tokio::test]
async fn ten_megabytes_go_through_stdin() {
    let sandbox = Sandbox::new().await;
    let id = sandbox.run(&sample()).await;
    let mut exec = sandbox.runtime.exec(&id, &command(&["cat"])).await.expect("it runs");
    let all: Vec<u8> = (0..10_000_000u32).map(|number| (number % 251) as u8).collect();
    let feed = all.clone();
    let mut input = std::mem::replace(&mut exec.input, Box::new(tokio::io::sink()));
    let feeder = tokio::spawn(async move {
        input.write_all(&feed).await.expect("it reads");
        input.shutdown().await.expect("its end");
        input
    });
    let (out, err, code) = end(&sandbox, exec).await;
    assert!(out == all, "{} of {} bytes, {}", out.len(), all.len(), String::from_utf8_lossy(&err));
    assert_eq!(code, 0);
    drop(feeder.await.expect("fed"));
}

#[tokio::test]
async fn a_terminal_has_a_size() {
    let sandbox = Sandbox::new().await;
    let id = sandbox.run(&sample()).await;
    let exec = sandbox.runtime.exec(&id, &ExecCommand { tty: true, ..command(&["size"]) }).await;
    let Exec { id: exec, mut output, input } = exec.expect("it runs");
    for (columns, rows) in [(80, 24), (132, 50)] {
        sandbox.runtime.resize_exec(&exec, TerminalSize { columns, rows }).await.expect("resized");
        let wanted = format!("{columns}x{rows}");
        let mut seen = String::new();
        while !seen.contains(&wanted) {
            let piece = timeout(PATIENCE, output.next()).await.expect("in time").expect("no end");
            seen.push_str(&String::from_utf8_lossy(&piece.expect("output").bytes));
        }
    }
    // Whoever gives up ends it.
    sandbox.runtime.end_exec(&exec).await.expect("ended");
    let code = sandbox.runtime.exec_exit(&exec).await.expect("an exit code");
    assert!(code != 0, "{code}");
    drop(input);
}

#[tokio::test]
async fn a_command_ends_with_its_container_and_on_demand() {
    let sandbox = Sandbox::new().await;
    let id = sandbox.run(&sample()).await;
    let given_up = sandbox.runtime.exec(&id, &command(&["sleep"])).await.expect("it runs");
    sandbox.runtime.end_exec(&given_up.id).await.expect("ended");
    assert_eq!(end(&sandbox, given_up).await.2, 129, "SIGHUP is enough for one that does not mind");

    let mut killed = sandbox.runtime.exec(&id, &command(&["cat"])).await.expect("it runs");
    killed.input.write_all(b"x").await.expect("it reads");
    timeout(PATIENCE, killed.output.next()).await.expect("in time").expect("output").expect("a byte");
    sandbox.runtime.stop(&id, Duration::ZERO).await.expect("stopped");
    assert_eq!(end(&sandbox, killed).await.2, 137);
    wait_for("the container's end", || async { sandbox.view(&id).await.map(|_| ()) }).await;
}
