//! Compose files as they are found in the wild, and what is made of them.
//!
//! Each `corpus/NAME.yaml` is read alone; `corpus/NAME.txt` holds what was found and what would
//! run, as it was last read through. `BLESS=1` writes them anew.

#![allow(clippy::expect_used, clippy::panic)] // the allowance for tests does not reach their helper functions

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use skein_cli::compose::{Input, Source, Stack, StackService, read};
use skein_common::service::{Mode, MountKind, Publish, ServiceSpec};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(corpus()).expect("the corpus");
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    found.sort();
    found
}

fn read_file(path: &Path) -> io::Result<String> {
    match path.file_name().and_then(|name| name.to_str()) {
        Some("app.conf") => Ok("colour = blue\n".to_owned()),
        Some("db.env") => Ok("MYSQL_PASSWORD=secret\nMYSQL_DATABASE=nextcloud\n".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn told(path: &Path) -> String {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let source = Source {
        name: format!("{name}.yaml"),
        text: std::fs::read_to_string(path).expect("a readable file"),
    };
    let environment = BTreeMap::from([("DB_ROOT_PASSWORD".to_owned(), "root".to_owned())]);
    let input = Input {
        files: &[source],
        folder: Path::new("/srv"),
        stack: Some(&name),
        environment: &environment,
        read_file: &read_file,
    };
    let mut text = String::new();
    let findings = match read(&input) {
        Ok(stack) => {
            describe(&stack, &mut text);
            stack.warnings
        }
        Err(found) => found,
    };
    let findings: String = findings.iter().map(|found| format!("{found}\n")).collect();
    findings + &text
}

fn describe(stack: &Stack, text: &mut String) {
    for StackService { spec, .. } in &stack.services {
        let mode = match spec.mode {
            Mode::Replicated { replicas } => format!("x{replicas}"),
            Mode::Global => "on every node".to_owned(),
            Mode::Job { completions, .. } => format!("{completions} runs"),
            Mode::GlobalJob => "once on every node".to_owned(),
        };
        writeln!(text, "\n{} {mode} {}", spec.name, spec.container.image).expect("a string");
        for line in lines(spec) {
            writeln!(text, "  {line}").expect("a string");
        }
    }
}

/// What differs from a plain container; not everything, so that a new field changes nothing here.
fn lines(spec: &ServiceSpec) -> Vec<String> {
    let container = &spec.container;
    let mut lines = Vec::new();
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("{name} {value}"));
        }
    };
    add("entrypoint", container.entrypoint.join(" | "));
    add("command", container.command.join(" | "));
    for (name, value) in &container.environment {
        add("environment", format!("{name}={}", value.escape_debug()));
    }
    add("hostname", container.hostname.clone());
    add(
        "capabilities",
        [container.cap_add.join(" +"), container.cap_drop.join(" -")]
            .join(" -")
            .trim_matches([' ', '-'])
            .to_owned(),
    );
    add("root", if container.read_only { "read-only" } else { "" }.to_owned());
    for mount in &container.mounts {
        let kind = match mount.kind {
            MountKind::Bind => "bind",
            MountKind::Volume => "volume",
            MountKind::Tmpfs => "tmpfs",
        };
        let read_only = if mount.read_only { " read-only" } else { "" };
        add(kind, format!("{} -> {}{read_only}", mount.source, mount.target));
    }
    for config in &container.configs {
        let owner = format!("{}:{} {:04o}", config.uid, config.gid, config.permissions());
        add("config", format!("{} -> {} {owner}", config.config, config.path()));
    }
    for port in &spec.ports {
        let published = match port.publish {
            Publish::Ingress { port: None } => "any".to_owned(),
            Publish::Ingress { port: Some(port) } => port.to_string(),
            Publish::Host { port } => format!("{port} of the node"),
        };
        add("port", format!("{published} -> {}/{}", port.container_port, port.protocol));
    }
    for limit in &container.ulimits {
        add("ulimit", format!("{} {}:{}", limit.name, limit.soft, limit.hard));
    }
    add("placement", placement(spec));
    let (limit, reservation) = (spec.resources.limit, spec.resources.reservation);
    if (limit, reservation) != Default::default() {
        add("limit", format!("{} mCPU {} B", limit.cpu_millis, limit.memory_bytes));
        add("reservation", format!("{} mCPU {} B", reservation.cpu_millis, reservation.memory_bytes));
    }
    if spec.update != Default::default() {
        let update = spec.update;
        add(
            "update",
            format!(
                "{} at a time, {:?}, delay {:?}, {:?}",
                update.parallelism, update.order, update.delay, update.failure_action
            ),
        );
    }
    add("restart", format!("{:?} {:?}", spec.restart.condition, spec.restart.max_attempts));
    lines
}

fn placement(spec: &ServiceSpec) -> String {
    let placement = &spec.placement;
    let mut parts: Vec<String> = placement.constraints.iter().map(ToString::to_string).collect();
    parts.extend(placement.preferences.iter().map(|key| format!("spread over {key}")));
    parts.extend(placement.max_replicas_per_node.map(|most| format!("at most {most} a node")));
    parts.extend(
        placement.spread.iter().map(|spread| format!("skew {} over {}", spread.max_skew, spread.key)),
    );
    parts.extend(
        placement
            .affinities
            .iter()
            .map(|affinity| format!("{:?} {} {}", affinity.direction, affinity.service, affinity.key)),
    );
    parts.join("; ")
}

#[test]
fn what_is_made_of_them() {
    let (mut wrong, files) = (String::new(), files());
    assert!(files.len() >= 12, "{}", files.len());
    for path in files {
        let (told, agreed) = (told(&path), path.with_extension("txt"));
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&agreed, &told).expect("a writable source tree");
        }
        if std::fs::read_to_string(&agreed).unwrap_or_default() != told {
            write!(wrong, "{}:\n{told}\n", agreed.display()).expect("a string");
        }
    }
    assert!(wrong.is_empty(), "changed on purpose? run with BLESS=1 and read the difference\n{wrong}");
}

/// The examples say nothing that is refused or warned about.
#[test]
fn the_examples_are_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    for names in [
        &["shop/compose.yaml"][..],
        &["shop/compose.yaml", "shop/production.yaml"],
        &["rollout.yaml"],
        &["placement.yaml"],
        &["job.yaml"],
        &["configs/compose.yaml"],
        &["cron.yaml"],
    ] {
        let source = |name: &&str| Source {
            name: (*name).to_owned(),
            text: std::fs::read_to_string(folder.join(name)).expect("a readable file"),
        };
        let input = Input {
            files: &names.iter().map(source).collect::<Vec<_>>(),
            folder: &folder,
            stack: Some("example"),
            environment: &BTreeMap::new(),
            read_file: &read_file,
        };
        let warnings = match read(&input) {
            Ok(stack) => stack.warnings,
            Err(found) => panic!("{}", found.iter().map(|found| format!("{found}\n")).collect::<String>()),
        };
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

/// Only the file that is there to be refused is refused.
#[test]
fn what_is_refused() {
    for path in files() {
        let told = told(&path);
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let is_refused = !told.lines().any(|line| line.starts_with(&format!("{name}_")));
        assert_eq!(is_refused, name.ends_with("refused"), "{told}");
    }
}
