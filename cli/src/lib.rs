//! The user's hand: the `skein` command.
//!
//! Invariant: a client only; it knows the API and the common vocabulary, never masters or agents.

pub mod api;
pub mod app;
pub mod args;
pub mod command;
pub mod compose;
mod compose_files;
mod convergence;
mod difference;
pub mod failure;
mod live;
pub mod masters;
pub mod output;
mod progress;
pub mod terminal;
pub mod watch;

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, rc::Rc};

use clap::Parser as _;

use crate::{
    api::Api,
    app::App,
    args::{Cli, Command, Global, OVERVIEW},
    command::{completions, context, simulate},
    failure::{EXIT_NOT_CONVERGED, EXIT_USAGE, Failure},
    masters::{DEFAULT_PORT, Masters, parse_address},
    terminal::Terminal,
};

/// As a shell reports a command that Ctrl-C ended.
const EXIT_INTERRUPTED: u8 = 130;

/// The world around a command.
pub struct World {
    pub environment: BTreeMap<String, String>,
    pub folder: PathBuf,
}

/// Runs one command line to its exit code. `interrupt` ends it early.
pub async fn run(
    arguments: impl IntoIterator<Item = OsString>,
    world: World,
    terminal: impl FnOnce(bool) -> Terminal,
    interrupt: impl Future<Output = ()>,
) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return explain(&error, &terminal(false)),
    };
    let terminal = terminal(cli.global.quiet);
    let Some(command) = cli.command else {
        return finish(terminal.print_line(OVERVIEW).map_err(Failure::from), &terminal);
    };
    match command {
        Command::Completions(args) => finish(completions::run(&terminal, &args), &terminal),
        Command::Simulate(command) => {
            finish(simulate::run(&terminal, cli.global.output, &command), &terminal)
        }
        Command::Context(command) => {
            let path = context::path(&world.environment);
            finish(context::run(&terminal, cli.global.output, &path, command), &terminal)
        }
        command => {
            let terminal = Rc::new(terminal);
            match connect(&cli.global, world, &terminal) {
                Ok(app) => with_cluster(&app, command, interrupt).await,
                Err(failure) => finish(Err(failure), &terminal),
            }
        }
    }
}

async fn with_cluster(app: &App, command: Command, interrupt: impl Future<Output = ()>) -> u8 {
    tokio::select! {
        result = Box::pin(command::run(app, command)) => finish(result, &app.terminal),
        () = interrupt => {
            let note = app.interrupt_note();
            if note.is_empty() {
                return EXIT_INTERRUPTED;
            }
            app.terminal.say(&note);
            EXIT_NOT_CONVERGED
        }
    }
}

fn explain(error: &clap::Error, terminal: &Terminal) -> u8 {
    if error.use_stderr() {
        terminal.say(error.render().to_string().trim_end());
        return EXIT_USAGE;
    }
    finish(terminal.print(&error.render().to_string()).map_err(Failure::from), terminal)
}

fn finish(result: Result<(), Failure>, terminal: &Terminal) -> u8 {
    match result {
        Ok(()) => 0,
        Err(failure) => {
            if !failure.is_silent() {
                let is_about_files = matches!(&failure, Failure::File(_))
                    || matches!(&failure, Failure::NoPlan(why) if matches!(**why, Failure::File(_)));
                let prefix = if is_about_files { "" } else { "skein: " };
                terminal.say(&format!("{prefix}{failure}"));
            }
            failure.exit_code()
        }
    }
}

fn connect(global: &Global, world: World, terminal: &Rc<Terminal>) -> Result<App, Failure> {
    let addresses = addresses(global, &world.environment)?;
    let speaker = Rc::clone(terminal);
    let notice = Box::new(move |text: &str| speaker.note(&format!("skein: {text}")));
    let api = Api::new(Masters::new(addresses, global.timeout, notice), global.stale);
    Ok(App::new(api, Rc::clone(terminal), global.output, world.environment, world.folder))
}

/// `--master` or SKEIN_MASTERS, else the context, else this machine.
fn addresses(global: &Global, environment: &BTreeMap<String, String>) -> Result<Vec<String>, Failure> {
    let given: Vec<&String> = global.master.iter().filter(|text| !text.is_empty()).collect();
    if !given.is_empty() {
        let parsed: Result<Vec<String>, String> = given.into_iter().map(|text| parse_address(text)).collect();
        return parsed.map_err(Failure::Usage);
    }
    let contexts = context::load(&context::path(environment))?;
    let masters = contexts.masters(global.context.as_deref())?;
    let masters = masters.unwrap_or_else(|| vec![format!("127.0.0.1:{DEFAULT_PORT}")]);
    let parsed: Result<Vec<String>, String> = masters.iter().map(|text| parse_address(text)).collect();
    parsed.map_err(Failure::Usage)
}
