//! The command line: what can be typed, and the texts that teach it.
//!
//! Invariant: a wrong flag or value ends with exit 64 and says what is allowed; help is a result
//! and ends with 0.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::{
    command::{
        apply, balance, cluster, completions, config, context, events, exec, explain, instance, job, logs,
        node, plan, rebalance, service, simulate, stack, top, version,
    },
    output::Format,
};

/// What `skein` alone shows.
pub const OVERVIEW: &str = "\
skein runs containers on a cluster of machines.

Most used:
  skein apply -f compose.yaml            create or change the services of a Compose file
  skein plan -f compose.yaml             only show what that would change
  skein service ls                       what runs, and how many instances are ready
  skein service ps NAME                  the instances of a service: where, in which phase, why not
  skein service scale NAME=5             change the number of instances
  skein logs -f NAME                     follow what its containers write
  skein exec -it NAME -- sh              a shell in one of its containers
  skein events -w                        watch what happens in the cluster
  skein job ls                           jobs, when they are due and how they went
  skein node ls                          the machines
  skein node drain NODE                  move everything away from a machine
  skein rebalance                        move instances to where they do better
  skein cluster status                   the masters: who leads, who is behind
  skein top                              who uses how much
  skein balance NAME                     how requests are shared among its instances
  skein stack rm NAME                    remove all services of a Compose file

  skein --help           all commands and options
  skein COMMAND --help   examples and every option of a command";

#[derive(Debug, Parser)]
#[command(
    name = "skein",
    version,
    about = "Runs containers on a cluster of machines",
    long_about = "Runs containers on a cluster of machines.\n\nskein talks to any of the masters; it tries the next one \
                  when a master does not answer, and repeats a change safely until it knows that it was made.",
    after_help = "Exit codes: 0 done, 1 failed, 2 accepted but not there in time, 64 wrong usage or file, 69 no \
                  master reachable",
    max_term_width = 110,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Masters to ask, in this order; port 7070 unless given
    ///
    /// Without it the current context decides (see skein context), else 127.0.0.1:7070.
    #[arg(
        long,
        short = 'm',
        global = true,
        env = "SKEIN_MASTERS",
        hide_env_values = true,
        value_name = "HOST:PORT,...",
        value_delimiter = ','
    )]
    pub master: Vec<String>,
    /// Use the masters of this context
    #[arg(
        long,
        global = true,
        env = "SKEIN_CONTEXT",
        hide_env_values = true,
        value_name = "NAME",
        conflicts_with = "master"
    )]
    pub context: Option<String>,
    /// Form of the output
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORM",
        hide_possible_values = false
    )]
    pub output: Format,
    /// Keep trying this long when masters do not answer or have no leader
    #[arg(long, global = true, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Say only results and failures
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Accept the view of any master, also without a leader; it may be out of date
    #[arg(long, global = true)]
    pub stale: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Apply(apply::Args),
    Plan(plan::Args),
    #[command(subcommand, visible_alias = "services")]
    Service(service::Command),
    #[command(subcommand)]
    Stack(stack::Command),
    #[command(subcommand, visible_alias = "jobs")]
    Job(job::Command),
    #[command(subcommand, visible_alias = "nodes")]
    Node(node::Command),
    #[command(subcommand, visible_alias = "instances")]
    Instance(instance::Command),
    #[command(subcommand, visible_alias = "configs")]
    Config(config::Command),
    Logs(logs::Args),
    Exec(exec::Args),
    Events(events::Args),
    #[command(subcommand)]
    Explain(explain::Command),
    #[command(subcommand)]
    Cluster(cluster::Command),
    Rebalance(rebalance::Args),
    Top(top::Args),
    Balance(balance::Args),
    #[command(subcommand)]
    Context(context::Command),
    Completions(completions::Args),
    #[command(subcommand)]
    Simulate(simulate::Command),
    Version(version::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Every command explains itself and, unless it is trivial, shows an example.
    #[test]
    fn every_command_teaches() {
        let mut open = vec![Cli::command()];
        while let Some(command) = open.pop() {
            let name = command.get_name().to_owned();
            assert!(command.get_about().is_some(), "{name} has no summary");
            let has_children = command.get_subcommands().next().is_some();
            let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(has_children || example.contains("skein "), "{name} has no example");
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let id = argument.get_id();
                assert!(
                    argument.get_help().is_some() || *id == "help" || *id == "version",
                    "{name} {id} has no help"
                );
            }
            open.extend(command.get_subcommands().cloned());
        }
    }

    /// The texts as they were last read through; `BLESS=1` writes them anew.
    #[test]
    fn help_is_as_it_was_agreed() {
        let mut text = format!("$ skein\n{OVERVIEW}\n");
        let mut root = Cli::command().term_width(100);
        root.build();
        let mut open = vec![("skein".to_owned(), root)];
        while let Some((name, mut command)) = open.pop() {
            // Global options are in the first text only.
            let help = command.render_help().to_string();
            let own = help.split("Global options:").collect::<Vec<_>>();
            let shown = if name == "skein" { help.clone() } else { own_part(&own) };
            text.push_str(&format!("\n$ {name} -h\n{}\n", shown.trim_end()));
            let children: Vec<clap::Command> = command.get_subcommands().cloned().collect();
            for child in children.into_iter().rev() {
                open.push((format!("{name} {}", child.get_name()), child.term_width(100)));
            }
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/args/help.txt");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, &text).expect("a writable source tree");
        }
        let agreed = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(text, agreed, "changed on purpose? run this test with BLESS=1 and read the difference");
    }

    /// What comes before the global options, and the examples behind them.
    fn own_part(parts: &[&str]) -> String {
        let examples =
            parts.last().and_then(|rest| rest.split_once("\n\nExample")).map(|(_, examples)| examples);
        let examples = examples.map(|examples| format!("Example{examples}")).unwrap_or_default();
        format!("{}{examples}", parts.first().copied().unwrap_or_default())
    }

    #[test]
    fn what_can_be_typed() {
        for line in [
            "skein",
            "skein apply -f compose.yaml",
            "skein apply -f - --name shop --prune --dry-run",
            "skein stack deploy -c compose.yaml demo",
            "skein stack deploy -c a.yaml -c b.yaml demo",
            "skein stack config -c a.yaml -c b.yaml",
            "skein plan -f a.yaml -c b.yaml --prune",
            "skein stack deploy --prune --detach -c compose.yaml demo",
            "skein stack ls -o json",
            "skein service ls --watch",
            "skein services ls -o wide",
            "skein service ps demo_web --watch -o json",
            "skein service scale demo_web=9 demo_db=1 --wait-timeout 30s",
            "skein service rm a b",
            "skein service update a --image b:2 --env A=1 --detach",
            "skein service rollback a --to 3",
            "skein service history a -o json",
            "skein service promote a",
            "skein service pause a",
            "skein service resume a",
            "skein job ls --watch",
            "skein job run shop_backup --detach",
            "skein job suspend a b",
            "skein jobs resume a",
            "skein job history a -o json",
            "skein service ls --runs",
            "skein node drain n2 --detach",
            "skein node label n1 zone=a disk-",
            "skein node rm n1 --force",
            "skein logs -f demo_web --tail 10 --since 5m --no-prefix",
            "skein events -w --subject web",
            "skein cluster status",
            "skein cluster config --set scheduling.strategy=binpack --unset scheduling.preemption_gap",
            "skein rebalance --dry-run --service shop_web",
            "skein rebalance --consolidate --detach",
            "skein rebalance --stop",
            "skein cluster add-master m4 --api-address h:7070 --cluster-address h:7071",
            "skein cluster transfer-leadership m2",
            "skein top",
            "skein top nodes --watch",
            "skein completions bash",
            "skein context use prod",
            "skein version --client",
            "skein --master a,b:7080 node ls",
            "skein node ls --master a --timeout 5s -q",
        ] {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert!(Cli::try_parse_from(&words).is_ok(), "{line}");
        }
        for line in [
            "skein serve",
            "skein apply",
            "skein stack deploy demo",
            "skein service scale",
            "skein service scale web",
            "skein service scale web=many",
            "skein node ls -o xml",
            "skein node ls --timeout soon",
            "skein logs",
            "skein rebalance --stop --dry-run",
            "skein node ls --master a --context b",
        ] {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert!(Cli::try_parse_from(&words).is_err(), "{line}");
        }
    }
}
