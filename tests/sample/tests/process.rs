//! The sample as a process: SIGTERM loses no request, the flags of the crash tests hold.
//! Deliberately absent: containers; the end-to-end tests run the image.

#![allow(clippy::expect_used)] // the allowance for tests does not reach their helper functions

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

struct Sample {
    process: Child,
    output: BufReader<ChildStdout>,
    port: u16,
}

impl Sample {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_skein-sample"))
            .args(["--port", "0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the sample starts");
        let mut output = BufReader::new(process.stdout.take().expect("a piped stdout"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        Self { process, output, port }
    }

    /// Sends a request and leaves the answer to be read.
    fn send(&self, target: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        stream.write_all(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes()).expect("sent");
        stream
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.process.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    fn wait_for_line(&mut self, wanted: &str) {
        let found = self.output.by_ref().lines().map_while(Result::ok).any(|line| line.contains(wanted));
        assert!(found, "{wanted:?} was not printed");
    }

    fn wait(mut self) -> ExitStatus {
        self.process.wait().expect("an exit status")
    }
}

fn read(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn sigterm_answers_what_was_sent_and_exits_with_0() {
    let mut sample = Sample::start(&[]);
    let slow = sample.send("/slow?ms=300");
    let idle = TcpStream::connect(("127.0.0.1", sample.port)).expect("a connection");
    sample.signal("TERM");
    let answer = read(slow);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("Connection: close"), "{answer}");
    assert_eq!(read(idle), "", "an idle connection ends");
    sample.wait_for_line("stopped");
    assert!(TcpStream::connect(("127.0.0.1", sample.port)).is_err(), "still listening");
    assert_eq!(sample.wait().code(), Some(0));
}

#[test]
fn sigterm_can_be_ignored() {
    let mut sample = Sample::start(&["--ignore-term"]);
    sample.signal("TERM");
    sample.wait_for_line("ignoring SIGTERM");
    drop(sample.send("/exit?code=9"));
    assert_eq!(sample.wait().code(), Some(9));
}

#[test]
fn it_exits_by_itself_when_told() {
    let status = Command::new(env!("CARGO_BIN_EXE_skein-sample"))
        .args(["--port", "0", "--exit-after-ms", "1", "--exit-code", "7"])
        .status();
    assert_eq!(status.expect("runs").code(), Some(7));
}

#[test]
fn healthcheck_follows_the_switch() {
    let mut sample = Sample::start(&[]);
    let port = sample.port.to_string();
    let healthy = || {
        let status = Command::new(env!("CARGO_BIN_EXE_skein-sample"))
            .args(["--healthcheck", "--port", &port])
            .status();
        status.expect("the check runs").success()
    };
    assert!(healthy());
    // Reading up to the end of the head is enough to know that the switch is set.
    let mut switched = BufReader::new(sample.send("/health?set=fail"));
    switched.read_line(&mut String::new()).expect("an answer");
    assert!(!healthy());
    sample.process.kill().expect("killed");
    sample.process.wait().expect("an exit status");
    assert!(!healthy());
}

#[test]
fn a_wrong_flag_exits_with_64() {
    let output = Command::new(env!("CARGO_BIN_EXE_skein-sample")).arg("--frob").output().expect("runs");
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--frob"));
}

/// What the sample prints as a client, and whether it ends well.
fn client(arguments: &[&str]) -> (String, bool) {
    let output = Command::new(env!("CARGO_BIN_EXE_skein-sample")).args(arguments).output().expect("it runs");
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
}

#[test]
fn it_is_a_client_too() {
    let mut sample = Sample::start(&["--udp-port", "0"]);
    let mut line = String::new();
    sample.output.read_line(&mut line).expect("a line");
    let udp = line.trim().rsplit(':').next().expect("a port").to_owned();
    let page = |path: &str| client(&["get", &format!("http://127.0.0.1:{}{path}", sample.port)]);
    assert_eq!(page("/healthz"), ("ok\n".to_owned(), true));
    assert_eq!(page("/fail?status=503"), ("failing as told\n".to_owned(), false));
    let (said, is_well) = client(&["ask", &format!("127.0.0.1:{udp}"), "who is there"]);
    assert!(is_well && said.ends_with(": who is there\n"), "{said:?}");
    assert_eq!(client(&["get", "web:8080"]), (String::new(), false));
    assert!(!client(&["resolve", "web", "mx"]).1);
    sample.signal("TERM");
    assert!(sample.wait().success());
}
