//! What the commands do, one file each.

pub mod apply;
pub mod balance;
pub mod cluster;
pub mod completions;
pub mod config;
pub mod context;
pub mod events;
pub mod exec;
pub mod explain;
pub mod instance;
pub mod job;
pub mod logs;
pub mod node;
pub mod plan;
pub mod rebalance;
pub mod service;
pub mod simulate;
pub mod stack;
pub mod top;
pub mod version;

use crate::{app::App, args::Command, failure::Failure};

/// Commands that need the cluster.
///
/// # Errors
/// Whatever the command ends with.
pub async fn run(app: &App, command: Command) -> Result<(), Failure> {
    match command {
        Command::Apply(args) => Box::pin(apply::run(app, args)).await,
        Command::Plan(args) => plan::run(app, args).await,
        Command::Service(command) => service::run(app, command).await,
        Command::Stack(command) => Box::pin(stack::run(app, command)).await,
        Command::Job(command) => job::run(app, command).await,
        Command::Node(command) => node::run(app, command).await,
        Command::Logs(args) => logs::run(app, args).await,
        Command::Config(command) => config::run(app, command).await,
        Command::Instance(command) => instance::run(app, command).await,
        Command::Exec(args) => exec::run(app, args).await,
        Command::Events(args) => events::run(app, args).await,
        Command::Explain(command) => explain::run(app, command).await,
        Command::Cluster(command) => cluster::run(app, command).await,
        Command::Rebalance(args) => rebalance::run(app, args).await,
        Command::Balance(args) => balance::run(app, args).await,
        Command::Top(args) => top::run(app, args).await,
        Command::Version(args) => version::run(app, &args).await,
        // Done before any master is looked for.
        Command::Context(_) | Command::Completions(_) | Command::Simulate(_) => Ok(()),
    }
}

/// Does one thing to each of several; all are tried, each failure is said at once.
///
/// # Errors
/// The only failure, or how many there were.
pub async fn each<T, F, Fut>(app: &App, names: &[String], act: F) -> Result<Vec<T>, Failure>
where
    F: Fn(String) -> Fut,
    Fut: Future<Output = Result<T, Failure>>,
{
    let (mut done, mut failures) = (Vec::new(), Vec::new());
    for name in names {
        match act(name.clone()).await {
            Ok(value) => done.push(value),
            Err(failure @ (Failure::Unreachable(_) | Failure::Output(_))) => return Err(failure),
            Err(failure) => failures.push((name, failure)),
        }
    }
    if let (1, Some(_)) = (names.len(), failures.first()) {
        return Err(failures.swap_remove(0).1);
    }
    for (name, failure) in &failures {
        app.terminal.say(&format!("{name}: {failure}"));
    }
    match failures.len() {
        0 => Ok(done),
        count => Err(Failure::Failed(format!("{count} of {} failed", names.len()))),
    }
}
