//! `skein completions`: what a shell needs to complete commands and flags.

use clap::CommandFactory as _;

use crate::{args::Cli, failure::Failure, terminal::Terminal};

/// Print what your shell needs to complete skein's commands
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein completions bash > /etc/bash_completion.d/skein
  skein completions zsh > \"${fpath[1]}/_skein\"
  skein completions fish > ~/.config/fish/completions/skein.fish")]
pub struct Args {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// # Errors
/// When standard output is closed.
pub fn run(terminal: &Terminal, args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "skein", &mut script);
    Ok(terminal.print(&String::from_utf8_lossy(&script))?)
}
