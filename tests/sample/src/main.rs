//! The sample service of the tests and the demo: a small HTTP server that shows who it is
//! and can be told to be slow, to fail, to burn CPU or to die.
//!
//! It runs as PID 1 of an image made from nothing, so it is static, needs no file and no shell, and
//! asks name servers itself. Deliberately absent: TLS, request bodies, any configuration file.

mod client;
mod config;
mod connections;
mod healthcheck;
mod http;
mod resolver;
mod routes;
mod server;
mod tool;

use std::process::ExitCode;

use config::{Config, Mode};

/// sysexits.h: the command was used incorrectly.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = tool::run(&arguments) {
        return code;
    }
    let config = match Config::load(arguments, |name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("skein-sample: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let done = match config.mode {
        Mode::Help => {
            println!("{}", config::USAGE);
            Ok(())
        }
        Mode::Healthcheck => healthcheck::check(config.port),
        Mode::Serve => server::run(&config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skein-sample: {error}");
            ExitCode::FAILURE
        }
    }
}
