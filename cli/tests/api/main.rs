//! Whole commands against fake masters: what is sent, what is shown, how it ends.

#![allow(clippy::expect_used)] // the allowance for tests does not reach their helper functions

mod balance;
mod exec;
mod fake;
mod output;
mod plan;
mod rebalance;
mod retry;
mod wait;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex},
};

use skein_cli::terminal::Terminal;
use skein_common::service::{ContainerSpec, Mode, ServiceSpec};
use skein_proto::v1;

use crate::fake::World;

/// What a command wrote and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    code: u8,
    out: String,
    err: String,
}

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned()
    }
}

fn world() -> Arc<Mutex<World>> {
    Arc::default()
}

/// Runs `skein` with these words, split at spaces.
async fn skein(masters: &[&str], line: &str) -> Ended {
    skein_in(Path::new("/"), masters, line, std::future::pending()).await
}

async fn skein_in(folder: &Path, masters: &[&str], line: &str, interrupt: impl Future<Output = ()>) -> Ended {
    let (out, err) = (Paper::default(), Paper::default());
    let masters = masters.join(",");
    let words = ["skein", "--master", &masters].into_iter().chain(line.split_whitespace());
    let arguments: Vec<std::ffi::OsString> = words.map(Into::into).collect();
    let world = skein_cli::World { environment: BTreeMap::new(), folder: folder.to_owned() };
    let (paper_out, paper_err) = (out.clone(), err.clone());
    let terminal = move |quiet| Terminal::into_writers(Box::new(paper_out), Box::new(paper_err), quiet);
    let code = skein_cli::run(arguments, world, terminal, interrupt).await;
    Ended { code, out: out.text(), err: err.text() }
}

/// As masters tell it: with every default filled in.
fn service(name: &str, replicas: u32) -> v1::Service {
    let mut spec = ServiceSpec::new(name, ContainerSpec::new("nginx:1.27"));
    spec.labels = [("skein.stack".to_owned(), name.split('_').next().unwrap_or_default().to_owned())].into();
    spec.mode = Mode::Replicated { replicas };
    v1::Service { id: format!("id-{name}"), spec: Some((&spec).into()), generation: 1, ..Default::default() }
}

fn instance(service: &str, slot: u32, phase: v1::Phase) -> v1::Instance {
    v1::Instance {
        id: format!("{service}-{slot}"),
        name: format!("{service}.{slot}"),
        service_id: format!("id-{service}"),
        service_name: service.to_owned(),
        slot,
        generation: 1,
        node_id: "node-1".to_owned(),
        node_name: "n1".to_owned(),
        desired: v1::Desired::Run.into(),
        observed: Some(v1::Observed { attempt: 1, phase: phase.into(), ..Default::default() }),
        ..Default::default()
    }
}

fn node(name: &str) -> v1::Node {
    v1::Node {
        id: format!("id-{name}"),
        description: Some(v1::NodeDescription {
            name: name.to_owned(),
            address: "10.0.0.1".to_owned(),
            capacity: Some(v1::Resources { cpu_millis: 4000, memory_bytes: 8 << 30 }),
            ..Default::default()
        }),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        liveness: v1::Liveness::Ready.into(),
        availability: v1::Availability::Active.into(),
        etag: "7".to_owned(),
        ..Default::default()
    }
}

fn add_service(world: &Arc<Mutex<World>>, service: v1::Service) {
    let name = service.spec.clone().expect("a spec").name;
    world.lock().expect("no panic").services.insert(name, service);
}
