//! The house rules a compiler does not check: how files open and are called, what the pure cores
//! may depend on, which crate stays behind its door, no sleeping in tests, nothing private in
//! the text. Each rule collects every breach, so that one run shows them all.
//! Deliberately absent: formatting and lints (rustfmt, clippy) and licences (cargo-deny).

#![allow(clippy::expect_used)] // the allowance for tests does not reach their helper functions

use std::fs;
use std::path::{Path, PathBuf};

const SKIPPED_FOLDERS: &[&str] = &["target", ".git", ".demo", "vendor"];
/// A smell above, reported; an error above [`LONGEST_FILE_LINES`]. Tests at the end do not count.
const LONG_FILE_LINES: usize = 400;
const LONGEST_FILE_LINES: usize = 700;
const README_LINES: usize = 200;

struct SourceFile {
    /// Relative to the workspace, with `/`.
    path: String,
    text: String,
}

impl SourceFile {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Under `tests/` of the workspace or of a crate; the sample is a service, not a test.
    fn is_test(&self) -> bool {
        let in_folder = self.path.starts_with("tests/") || self.path.contains("/tests/");
        in_folder && !self.path.starts_with("tests/sample/src/")
    }

    /// The text without the test module at its end.
    fn without_tests(&self) -> &str {
        self.text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(&self.text)
    }

    /// The test module at its end.
    fn tests(&self) -> &str {
        self.text.split_once("\n#[cfg(test)]\nmod ").map_or("", |(_, tests)| tests)
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace's folder")
}

fn sources() -> Vec<SourceFile> {
    let root = workspace();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let entry = entry.expect("a readable entry");
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().expect("a type").is_dir() {
                if !SKIPPED_FOLDERS.contains(&name.as_str()) {
                    folders.push(entry.path());
                }
            } else if let Ok(text) = fs::read_to_string(entry.path()) {
                let path = entry.path().strip_prefix(&root).expect("inside").to_string_lossy().into_owned();
                found.push(SourceFile { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.iter().any(SourceFile::is_rust), "no sources under {}", root.display());
    found
}

/// Fails with every breach at once.
fn check(rule: &str, breaches: impl IntoIterator<Item = String>) {
    let breaches: Vec<_> = breaches.into_iter().collect();
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

#[test]
fn every_file_opens_with_its_job() {
    check(
        "open a file with //!: its job, its invariant, what is deliberately not here",
        sources()
            .into_iter()
            .filter(|file| file.is_rust() && !file.text.starts_with("//! "))
            .map(|file| file.path),
    );
}

#[test]
fn files_are_called_after_what_is_in_them() {
    const FORBIDDEN: &[&str] =
        &["utils", "util", "helpers", "helper", "types", "misc", "models", "services", "mod"];
    let is_forbidden = |path: &str| {
        Path::new(path)
            .with_extension("")
            .components()
            .any(|part| FORBIDDEN.contains(&part.as_os_str().to_string_lossy().as_ref()))
    };
    check(
        "say what is in it (and foo.rs + foo/ instead of mod.rs)",
        sources().into_iter().filter(|file| file.is_rust() && is_forbidden(&file.path)).map(|file| file.path),
    );
}

#[test]
fn files_are_of_a_readable_length() {
    let mut long: Vec<(usize, String)> = sources()
        .into_iter()
        .filter(|file| file.is_rust() && !file.is_test())
        .map(|file| (file.without_tests().lines().count(), file.path))
        .filter(|(lines, _)| *lines > LONG_FILE_LINES)
        .collect();
    long.sort_by(|a, b| b.cmp(a));
    for (lines, path) in &long {
        println!(
            "warning: {path} has {lines} lines without its tests, over {LONG_FILE_LINES}: find the second thing in it"
        );
    }
    check(
        "split it",
        long.iter()
            .filter(|(lines, _)| *lines > LONGEST_FILE_LINES)
            .map(|(lines, path)| format!("{path}: {lines} lines")),
    );
}

#[test]
fn the_cores_depend_on_nothing_that_acts() {
    for (manifest, allowed) in [
        // A matcher of patterns, a cron line and the zones that are compiled in are functions of their arguments.
        ("common/Cargo.toml", &["croner", "jiff", "regex-lite", "serde", "thiserror"][..]),
        ("master/core/Cargo.toml", &["skein-common", "serde", "imbl", "thiserror"]),
        ("agent/core/Cargo.toml", &["skein-common", "serde", "imbl", "thiserror"]),
    ] {
        let text = fs::read_to_string(workspace().join(manifest)).expect("a manifest");
        check(
            "purity is a property of the manifest; allowed in [dependencies] of the cores are values only",
            dependencies(&text)
                .into_iter()
                .filter(|name| !allowed.contains(&name.as_str()))
                .map(|name| format!("{manifest}: {name}")),
        );
    }
}

/// Names under `[dependencies]`, dev-dependencies not included.
fn dependencies(manifest: &str) -> Vec<String> {
    manifest
        .lines()
        .skip_while(|line| line.trim() != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.trim_start().starts_with('['))
        .filter_map(|line| line.split(['=', '.']).next())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .collect()
}

#[test]
fn each_library_of_the_outside_has_one_door() {
    // Crate, and the paths that may name it.
    const DOORS: &[(&str, &[&str])] = &[
        ("openraft", &["master/src/raft", "master/src/store", "master/tests/raft"]),
        ("bollard", &["agent/src/runtime", "agent/tests/docker", "tests/"]),
        ("sysinfo", &["agent/src/"]),
        ("croner", &["common/src/service/schedule"]),
        ("jiff", &["common/src/service/schedule"]),
    ];
    let mut breaches = Vec::new();
    for file in sources().into_iter().filter(SourceFile::is_rust) {
        for (library, doors) in DOORS {
            let is_door = doors.iter().any(|door| file.path.starts_with(door));
            let marker = format!("{library}::");
            let named =
                file.text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(&marker));
            if named && !is_door && file.path != "tests/tests/tidy.rs" {
                breaches.push(format!("{}: {library} belongs behind {}", file.path, doors.join(", ")));
            }
        }
    }
    check("one adapter for each library that will change under us", breaches);
}

#[test]
fn tests_wait_for_what_they_want_to_see() {
    // The one poller of a harness says what it polls for in this comment on the line.
    const EXCUSE: &str = "// polls:";
    let sleep = concat!("sleep", "(");
    let mut breaches = Vec::new();
    for file in sources().into_iter().filter(SourceFile::is_rust) {
        let tests = if file.is_test() { file.text.as_str() } else { file.tests() };
        // Under paused time sleeping is how a test moves the clock.
        if tests.contains("start_paused") || tests.contains("time::pause()") {
            continue;
        }
        for line in tests.lines().filter(|line| line.contains(sleep) && !line.contains(EXCUSE)) {
            breaches.push(format!("{}: {}", file.path, line.trim()));
        }
    }
    check(
        &format!("no sleeping in tests: wait on a predicate, pause the time, or say `{EXCUSE} ...`"),
        breaches,
    );
}

#[test]
fn nothing_of_a_private_machine_is_in_the_text() {
    // Assembled here, so that this file does not contain them.
    let private = [concat!("/wor", "k/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    check(
        "paths of a machine do not belong in the project",
        sources().iter().filter(|file| !file.path.starts_with("LICENSE")).flat_map(|file| {
            private
                .iter()
                .filter(|path| file.text.contains(**path))
                .map(|path| format!("{}: {path}", file.path))
                .collect::<Vec<_>>()
        }),
    );
}

#[test]
fn the_readme_stays_short() {
    let Ok(readme) = fs::read_to_string(workspace().join("README.md")) else { return };
    let lines = readme.lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines, over {README_LINES}");
}
