//! The balancer beside HAProxy and nginx, among uneven backends, and how soon it learns of a change.
//!
//! Invariant: whoever is measured has one thread, the same backends and the same clients; who is not installed is left out.

mod load;
mod rivals;
mod spread;

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};

use self::{
    load::Load,
    rivals::{Carrier, Mode},
};
use super::{
    Plan,
    figure::{Figure, Table, Target, Unit},
    process_usage,
};
use crate::{ports::Port, process::Process, wait};

const CLIENTS: usize = 64;
const BACKENDS: usize = 3;
const START_LIMIT: Duration = Duration::from_secs(10);
const IDLE: usize = 10_000;
/// Files of a carrier that are no connections.
const OTHER_FILES: usize = 500;
/// What is not served within this time an uneven backend has failed.
const UNEVEN_TIMEOUT_MS: u64 = 500;
/// Each of eight workers of a backend takes this long; the slow one five times as long.
const WORK_US: u64 = 4_000;
/// The first ejections are over.
const EJECTED_WITHIN: Duration = Duration::from_secs(8);

/// # Errors
/// When something that is installed does not work.
pub async fn measure(plan: &Plan) -> Result<Vec<Table>> {
    let folder = tempfile::tempdir().context("a folder")?;
    let mut tables = vec![beside(plan, Carrier::Haproxy, folder.path()).await?];
    tables.push(beside(plan, Carrier::Nginx, folder.path()).await?);
    tables.push(uneven(plan, folder.path()).await?);
    tables.push(Box::pin(spread::measure(plan)).await?);
    Ok(tables)
}

/// Programs behind and before the port that is measured; they end with the drop.
struct Setting {
    _backends: Vec<Process>,
    carrier: Process,
    port: Port,
}

async fn set(carrier: Carrier, mode: Mode, folder: &Path) -> Result<Option<Setting>> {
    let (mut ports, mut backends) = (Vec::new(), Vec::new());
    for _ in 0..BACKENDS {
        let port = Port::reserve()?;
        backends.push(backend(&port, &[], folder)?);
        ports.push(port);
    }
    for port in &ports {
        listening(port).await?;
    }
    let port = Port::reserve()?;
    let Some(carrier) = carrier.start(mode, &port, &ports, folder)? else { return Ok(None) };
    listening(&port).await?;
    Ok(Some(Setting { _backends: backends, carrier, port }))
}

fn backend(port: &Port, more: &[String], folder: &Path) -> Result<Process> {
    let mut arguments = vec!["backend".to_owned(), format!("--listen={}", port.number())];
    arguments.extend_from_slice(more);
    let mut process = Process::new(&format!("backend-{}", port.number()), "balance-peer", arguments, folder)?;
    process.start()?;
    Ok(process)
}

async fn listening(port: &Port) -> Result<()> {
    wait::until(&format!("{port} is listened on"), START_LIMIT, async || {
        let connected = tokio::net::TcpStream::connect(port.to_string()).await;
        connected.map(drop).map_err(|error| error.to_string())
    })
    .await
}

/// As many as a carrier can hold that has two files for each.
fn idle_connections() -> Result<usize> {
    let text = std::fs::read_to_string("/proc/self/limits").context("limits")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files")).context("Max open files")?;
    let limit = line.split_whitespace().next().and_then(|word| word.parse::<usize>().ok());
    Ok(limit.map_or(IDLE, |limit| limit.saturating_sub(OTHER_FILES) / 2).clamp(1, IDLE))
}

/// What one carrier came to.
struct Carried {
    per_second: Figure,
    cpu: Figure,
    p99: Figure,
    idle: Figure,
}

async fn carry(plan: &Plan, carrier: Carrier, mode: Mode, folder: &Path) -> Result<Option<Carried>> {
    let Some(setting) = set(carrier, mode, folder).await? else {
        eprintln!("{carrier:?} cannot be measured ({mode:?}): not installed, or not made for it");
        return Ok(None);
    };
    let mut carried = Carried {
        per_second: Figure::new(Unit::PerSecond),
        cpu: Figure::new(Unit::Microseconds),
        p99: Figure::new(Unit::Milliseconds),
        idle: Figure::new(Unit::Kilobytes),
    };
    let (pid, port) = (setting.carrier.pid().context("it runs")?, setting.port.number());
    // Connections to the backends are made, and memory is where it stays.
    load::run(port, CLIENTS, Duration::from_secs(1)).await?;
    for _ in 0..plan.rounds {
        let before = process_usage::spent(pid)?;
        let load = load::run(port, CLIENTS, plan.load).await?;
        let spent = process_usage::spent(pid)? - before;
        carried.per_second.add(load.per_second());
        carried.cpu.add(spent * 1e6 / load.answered as f64);
        carried.p99.add_time(load.p99);
    }
    let before = process_usage::memory(pid)?;
    let open = load::idle(port, idle_connections()?).await?;
    carried.idle.add((process_usage::memory(pid)? - before) * 1e3 / open.len() as f64);
    Ok(Some(carried))
}

async fn beside(plan: &Plan, rival: Carrier, folder: &Path) -> Result<Table> {
    let idle = idle_connections()?;
    let title = format!("Balancer, one thread, {CLIENTS} connections, {BACKENDS} backends");
    let mut table = Table::new(title, format!("{rival:?}"));
    for mode in [Mode::Http, Mode::Tcp] {
        if rival == Carrier::Nginx && mode == Mode::Tcp {
            continue;
        }
        let Some(ours) = carry(plan, Carrier::Skein, mode, folder).await? else { continue };
        let (per_second, cpu, p99, memory) = match carry(plan, rival, mode, folder).await? {
            Some(carried) => {
                (Some(carried.per_second), Some(carried.cpu), Some(carried.p99), Some(carried.idle))
            }
            None => (None, None, None, None),
        };
        let name = format!("{mode:?}").to_lowercase();
        // The targets name HAProxy.
        let target = |target| (rival == Carrier::Haproxy).then_some(target);
        table.add(
            format!("{name}: requests"),
            ours.per_second,
            per_second,
            target(Target::TimesBeside(0.95)),
        );
        table.add(format!("{name}: CPU a request"), ours.cpu, cpu, target(Target::AtMostTimesBeside(1.1)));
        table.add(format!("{name}: p99"), ours.p99, p99, target(Target::AtMostTimesBeside(1.2)));
        let what = format!("{name}: memory of each of {idle} idle connections");
        table.add(what, ours.idle, memory, Some(Target::AtMost(20.0)));
    }
    Ok(table)
}

/// Three good ones, one five times slower, one that hangs, one that fails.
async fn uneven(plan: &Plan, folder: &Path) -> Result<Table> {
    let title = "Uneven backends (3 good, 1 five times slower, 1 hangs, 1 fails), after the first ejections";
    let mut table = Table::new(title, "round robin");
    let base = among_uneven(plan, "round-robin", folder).await?;
    let figure = |load: &Load| {
        let mut p99 = Figure::new(Unit::Milliseconds);
        p99.add_time(load.p99);
        p99
    };
    for algorithm in ["least-requests", "adaptive"] {
        let load = among_uneven(plan, algorithm, folder).await?;
        let (mut failed, mut per_second) = (Figure::new(Unit::Count), Figure::new(Unit::PerSecond));
        failed.add(load.failed as f64);
        per_second.add(load.per_second());
        let mut base_per_second = Figure::new(Unit::PerSecond);
        base_per_second.add(base.per_second());
        let target = Some(Target::AtMostTimesBeside(0.5));
        table.add(format!("{algorithm}: p99"), figure(&load), Some(figure(&base)), target);
        table.add(format!("{algorithm}: requests"), per_second, Some(base_per_second), None);
        table.add(format!("{algorithm}: errors"), failed, None, Some(Target::AtMost(0.0)));
    }
    let mut failed = Figure::new(Unit::Count);
    failed.add(base.failed as f64);
    table.add("round robin: errors", failed, None, Some(Target::AtMost(0.0)));
    Ok(table)
}

async fn among_uneven(plan: &Plan, algorithm: &str, folder: &Path) -> Result<Load> {
    let work = |micros: u64| vec![format!("--work={micros}"), "--workers=8".to_owned()];
    let kinds = [
        work(WORK_US),
        work(WORK_US),
        work(WORK_US),
        work(5 * WORK_US),
        vec!["--behaviour=hangs".to_owned()],
        vec!["--behaviour=fails".to_owned()],
    ];
    let (mut ports, mut backends) = (Vec::new(), Vec::new());
    for kind in &kinds {
        let port = Port::reserve()?;
        backends.push(backend(&port, kind, folder)?);
        listening(&port).await?;
        ports.push(port.to_string());
    }
    let port = Port::reserve()?;
    let arguments = vec![
        "proxy".to_owned(),
        format!("--listen={}", port.number()),
        format!("--algorithm={algorithm}"),
        format!("--request-timeout={UNEVEN_TIMEOUT_MS}"),
        format!("--endpoints={}", ports.join(",")),
    ];
    let mut proxy = Process::new(&format!("uneven-{algorithm}"), "balance-peer", arguments, folder)?;
    proxy.start()?;
    listening(&port).await?;
    load::own(port.number(), CLIENTS, EJECTED_WITHIN).await?;
    load::own(port.number(), CLIENTS, plan.load * 2).await
}
