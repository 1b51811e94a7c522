//! One real program of ours as a process: started, killed, paused, started again, its output kept.
//!
//! Invariant: signals go only to a child that this value started and has not yet collected, so
//! the pid cannot be anybody else's; whatever still runs ends with the drop.
//! Deliberately not here: which flags make a cluster (`deployment`).

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::wait;

/// Of a program that was asked to end.
const END_TIMEOUT: Duration = Duration::from_secs(20);
/// Lines of each log shown with a failure.
const TAIL_LINES: usize = 40;

/// The folder of the binaries: beside the folder of the test executables.
///
/// # Errors
/// When this executable has no folder above it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("the path of this executable")?;
    // target/debug/deps/<test> or target/debug/<program>.
    let path = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("no {name} beside {}: run `make build` first", own.display()))?;
    Ok(path)
}

/// A program, running or not.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Not started yet. Its output is appended to `<folder>/<name>.log`.
    ///
    /// # Errors
    /// When there is no such binary.
    pub fn new(name: &str, program: &str, arguments: Vec<String>, folder: &Path) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            program: binary(program)?,
            arguments,
            environment: Vec::new(),
            log: folder.join(format!("{name}.log")),
            child: None,
        })
    }

    /// A program that is not ours: a path, or a name to be found in PATH.
    #[must_use]
    pub fn foreign(name: &str, program: &Path, arguments: Vec<String>, folder: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments,
            environment: Vec::new(),
            log: folder.join(format!("{name}.log")),
            child: None,
        }
    }

    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// # Errors
    /// When it runs already or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("{} runs already", self.name);
        }
        let output = OpenOptions::new().create(true).append(true).open(&self.log).context("open the log")?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .env("RUST_BACKTRACE", "1")
            .env("NO_COLOR", "1")
            .envs(std::env::var("SKEIN_TEST_LOG").map(|filter| ("SKEIN_LOG", filter)))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("share the log")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// False also when it ended by itself.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// While it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// `kill -9`; returns when the process is gone.
    ///
    /// # Errors
    /// When it did not run any more.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { bail!("{} does not run", self.name) };
        if let Ok(Some(status)) = child.try_wait() {
            bail!("{} had ended by itself: {status}", self.name);
        }
        child.kill().with_context(|| format!("kill {}", self.name))?;
        child.wait().with_context(|| format!("wait for {}", self.name))?;
        Ok(())
    }

    /// SIGSTOP: it stands still as it is.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal("STOP")
    }

    /// SIGCONT: it goes on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal("CONT")
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// When it does not run or does not end.
    pub async fn end(&mut self) -> Result<ExitStatus> {
        self.signal("TERM")?;
        self.ended().await
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        let name = self.name.clone();
        let Some(child) = self.child.as_mut() else { bail!("{name} does not run") };
        let status = wait::until(&format!("{name} ends"), END_TIMEOUT, async || {
            child.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| "it runs".to_owned())
        })
        .await?;
        self.child = None;
        Ok(status)
    }

    /// Everything it wrote, over all its starts.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Lines with WARN, ERROR or a panic that contain none of `allowed`.
    #[must_use]
    pub fn complaints(&self, allowed: &[&str]) -> Vec<String> {
        self.output()
            .lines()
            .filter(|line| is_complaint(line) && !allowed.iter().any(|text| line.contains(text)))
            .map(|line| format!("{}: {line}", self.name))
            .collect()
    }

    /// The end of its output.
    #[must_use]
    pub fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<_> = output.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// The child is not collected before it is taken out of `self`, so the pid is still its own.
    fn signal(&self, signal: &str) -> Result<()> {
        let Some(child) = &self.child else { bail!("{} does not run", self.name) };
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{signal} {}", child.id())])
            .status()
            .with_context(|| format!("signal {}", self.name))?;
        if !status.success() {
            bail!("{} could not be sent {signal}: {status}", self.name);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already; there is nothing left to do about it then.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The level stands after the time, before the message.
fn is_complaint(line: &str) -> bool {
    let head: String = line.chars().take(80).collect();
    head.split_whitespace().take(3).any(|word| matches!(word, "WARN" | "ERROR"))
        || line.contains("\"level\":\"WARN\"")
        || line.contains("\"level\":\"ERROR\"")
        || line.contains("panicked at")
}

/// Runs a program of ours to its end, in `folder`.
///
/// # Errors
/// When it cannot be started or does not end; its exit code is the caller's business.
pub async fn run(
    program: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
    folder: &Path,
) -> Result<Output> {
    let stdout = folder.join("command.out");
    let stderr = folder.join("command.err");
    let mut child = Command::new(binary(program)?)
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(File::create(&stdout)?)
        .stderr(File::create(&stderr)?)
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let what = format!("{program} {}", arguments.join(" "));
    let waited = wait::until(&what, END_TIMEOUT * 3, async || {
        child.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| "it runs".to_owned())
    })
    .await;
    if waited.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let status = waited.with_context(|| fs::read_to_string(&stderr).unwrap_or_default())?;
    Ok(Output { status, stdout: fs::read(&stdout)?, stderr: fs::read(&stderr)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_found_by_their_level() {
        for (line, expected) in [
            ("2026-11-23T15:00:00.000000Z  WARN skein_master::raft: no quorum", true),
            ("2026-11-23T15:00:00.000000Z ERROR skein_master: storage", true),
            ("2026-11-23T15:00:00.000000Z  INFO skein_agent: the last WARN is old", false),
            ("thread 'main' panicked at src/main.rs:1:1:", true),
            ("{\"timestamp\":\"..\",\"level\":\"WARN\"}", true),
            ("   at src/main.rs", false),
        ] {
            assert_eq!(is_complaint(line), expected, "{line}");
        }
    }
}
