//! `skein version`: of this program and of the masters.

use serde_json::json;

use crate::{
    app::App,
    failure::Failure,
    output::{Format, pretty, yaml},
};

/// Show the version of skein and of the master it reaches
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  skein version\n  skein version --client")]
pub struct Args {
    /// Do not ask a master
    #[arg(long)]
    pub client: bool,
}

/// # Errors
/// When no master answers, after the own version has been shown.
pub async fn run(app: &App, args: &Args) -> Result<(), Failure> {
    let client = env!("CARGO_PKG_VERSION");
    let status = if args.client { None } else { Some(app.api.status().await) };
    let (master, failure) = match status {
        Some(Ok(status)) => (Some(json!({ "name": status.name, "version": status.version })), None),
        Some(Err(failure)) => (None, Some(failure)),
        None => (None, None),
    };
    let value = json!({ "client": client, "master": master });
    let text = match app.format {
        Format::Json => pretty(&value),
        Format::Yaml => yaml::render(&value),
        Format::Name => format!("{client}\n"),
        Format::Table | Format::Wide => {
            let master = value["master"]["version"].as_str().map(|version| {
                format!("master {version} ({})\n", value["master"]["name"].as_str().unwrap_or_default())
            });
            format!("skein  {client}\n{}", master.unwrap_or_default())
        }
    };
    app.terminal.print(&text)?;
    failure.map_or(Ok(()), Err)
}
