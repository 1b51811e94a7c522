//! The process around [`skein_cli::run`].

use std::{env, process::ExitCode};

use skein_cli::{World, terminal::Terminal};

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("skein: {error}");
            return ExitCode::FAILURE;
        }
    };
    let world = World {
        // A variable that is not text cannot be meant for a Compose file.
        environment: env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        folder: env::current_dir().unwrap_or_default(),
    };
    let interrupt = async {
        // Without the handler Ctrl-C ends the process, which is right too.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let code = runtime.block_on(skein_cli::run(env::args_os(), world, Terminal::of_process, interrupt));
    // Answers that nobody waits for any more must not hold the shell.
    runtime.shutdown_background();
    ExitCode::from(code)
}
