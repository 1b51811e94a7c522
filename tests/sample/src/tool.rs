//! Small programs for `skein exec`: an image made from nothing has no others.
//!
//! `cat [FILE]`, `exit CODE`, `say OUT ERR`, `show NAME` (a variable, or `pwd`, `uid`), `size` (of its
//! terminal, again at every change), `sleep`; and as a client (`client`) `get URL`, `resolve NAME [a|srv]`,
//! `ask HOST:PORT TEXT`.

use std::{
    env, fs,
    io::{self, Read, Write},
    process::ExitCode,
};

use crate::client;
use signal_hook::{consts::SIGWINCH, iterator::Signals};

/// `None` when the arguments name no tool.
pub fn run(arguments: &[String]) -> Option<ExitCode> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["cat"] => copy(&mut io::stdin().lock()),
        ["cat", file] => fs::File::open(file).and_then(|mut file| copy(&mut file)),
        ["exit", code] => return Some(ExitCode::from(code.parse::<u8>().unwrap_or(u8::MAX))),
        ["say", out, err] => {
            println!("{out}");
            eprintln!("{err}");
            Ok(())
        }
        ["show", name] => {
            println!("{}", show(name));
            Ok(())
        }
        ["size"] => sizes(),
        ["get", url] => client::get(url),
        ["ask", target, text] => client::ask(target, text),
        ["resolve", name, rest @ ..] if rest.len() < 2 => {
            match client::resolve(name, rest.first().unwrap_or(&"a")) {
                Ok(code) => return Some(code),
                Err(error) => Err(error),
            }
        }
        ["sleep"] => loop {
            std::thread::park();
        },
        _ => return None,
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skein-sample: {error}");
            ExitCode::FAILURE
        }
    })
}

fn copy(from: &mut impl Read) -> io::Result<()> {
    let mut out = io::stdout().lock();
    io::copy(from, &mut out)?;
    out.flush()
}

fn show(name: &str) -> String {
    match name {
        "pwd" => env::current_dir().map(|folder| folder.display().to_string()).unwrap_or_default(),
        "uid" => rustix::process::getuid().as_raw().to_string(),
        name => env::var(name).unwrap_or_default(),
    }
}

fn sizes() -> io::Result<()> {
    let mut changes = Signals::new([SIGWINCH])?;
    loop {
        let size = rustix::termios::tcgetwinsize(io::stdout())?;
        println!("{}x{}", size.ws_col, size.ws_row);
        changes.wait().for_each(drop);
    }
}
