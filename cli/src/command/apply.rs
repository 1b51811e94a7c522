//! `skein apply`: a Compose file becomes services; what has not changed stays untouched.
//!
//! Invariant: nothing is sent before the whole file is known to be right, and, on a dry run or
//! before the first change, the cluster has not refused any of it for its form.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use skein_proto::v1::{ApplyResult, Service, ServiceSpec};

use crate::{
    app::App,
    compose::{self, Diagnostic, Origins, STACK_LABEL, Severity, Stack, StackService},
    failure::Failure,
    output::service::name,
    progress::{self, Goal, WaitArgs},
};

/// Create or change the services of a Compose file
///
/// The file is read the way `docker stack deploy` reads it. Its services are named STACK_SERVICE; the stack is
/// named by --name, else by `name:` in the file, else by its folder. Services that have not changed are left alone.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein apply -f compose.yaml                 wait until everything runs
  skein apply -f compose.yaml --dry-run       say what would change
  skein apply -f compose.yaml --prune         also remove services that are no longer in the file
  cat compose.yaml | skein apply -f - --name shop")]
pub struct Args {
    /// The Compose file; - for standard input
    #[arg(long, short, value_name = "FILE")]
    pub file: PathBuf,
    /// Name of the stack
    #[arg(long, value_name = "STACK")]
    pub name: Option<String>,
    #[command(flatten)]
    pub options: Options,
}

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Remove services of the stack that are not in the file
    #[arg(long)]
    pub prune: bool,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// # Errors
/// When the file is wrong, the cluster refuses it, or it does not come true in time.
pub async fn run(app: &App, args: Args) -> Result<(), Failure> {
    deploy(app, &args.file, args.name.as_deref(), &args.options).await
}

/// # Errors
/// As [`run`].
pub async fn deploy(app: &App, file: &Path, stack: Option<&str>, options: &Options) -> Result<(), Failure> {
    let shown = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
    let stack = read(app, file, &shown, stack)?;
    // One bad service must not leave half a stack behind.
    let mut refused = Vec::new();
    for service in &stack.services {
        match app.api.apply(ServiceSpec::from(&service.spec), true).await {
            Ok(answer) if options.dry_run => {
                app.terminal.print_line(&format!(
                    "{} would be {}",
                    service.spec.name,
                    verb(answer.result())
                ))?;
            }
            Ok(_) => {}
            Err(failure) => refused.extend(violations(failure, &shown, service)?),
        }
    }
    if !refused.is_empty() {
        return Err(Failure::File(refused));
    }
    if options.dry_run {
        return dry_prune(app, &stack, options).await;
    }
    let mut goals = Vec::new();
    for service in &stack.services {
        let answer = app.api.apply(ServiceSpec::from(&service.spec), false).await?;
        let applied = answer.service.clone().unwrap_or_default();
        app.print_done(&applied, &format!("{} {}", service.spec.name, verb(answer.result())))?;
        goals.push(Goal::Running { id: applied.id, name: service.spec.name.clone() });
    }
    if options.prune {
        for service in surplus(app, &stack).await? {
            let deleted = app.api.delete_service(&service.id).await?;
            app.print_done(&deleted, &format!("{} being removed", name(&service)))?;
            goals.push(Goal::Removed { id: service.id.clone(), name: name(&service).to_owned() });
        }
    }
    progress::wait(app, goals, &options.wait).await
}

const fn verb(result: ApplyResult) -> &'static str {
    match result {
        ApplyResult::Created => "created",
        ApplyResult::Updated => "updated",
        ApplyResult::Unchanged => "unchanged",
        ApplyResult::Unspecified => "applied",
    }
}

fn read(app: &App, file: &Path, shown: &str, stack: Option<&str>) -> Result<Stack, Failure> {
    let usage = |error: std::io::Error| Failure::Usage(format!("{shown}: {error}"));
    let (text, folder) = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(usage)?;
        (text, app.folder.clone())
    } else {
        let full = app.folder.join(file);
        let text = std::fs::read_to_string(&full).map_err(usage)?;
        (text, full.parent().map_or_else(|| app.folder.clone(), Path::to_path_buf))
    };
    // The folder's own name may be the stack's, so `.` will not do.
    let folder = folder.canonicalize().unwrap_or(folder);
    let input = compose::Input {
        file: shown,
        text: &text,
        folder: &folder,
        stack,
        environment: &app.environment,
        read_file: &|path| std::fs::read_to_string(path),
    };
    let stack = compose::read(&input).map_err(Failure::File)?;
    for warning in &stack.warnings {
        app.terminal.note(&warning.to_string());
    }
    Ok(stack)
}

/// Field violations of the cluster at the places of the file they came from; any other failure as it is.
fn violations(failure: Failure, file: &str, service: &StackService) -> Result<Vec<Diagnostic>, Failure> {
    match failure {
        Failure::Refused(refusal) if !refusal.fields.is_empty() => {
            let fields = refusal.fields.into_iter();
            Ok(fields.map(|(field, message)| place(&service.origins, file, &field, message)).collect())
        }
        other => Err(other),
    }
}

fn place(origins: &Origins, file: &str, field: &str, message: String) -> Diagnostic {
    let origin = origins.find(field);
    Diagnostic {
        severity: Severity::Error,
        file: file.to_owned(),
        at: origin.map(|origin| origin.at),
        path: origin.map_or_else(|| field.to_owned(), |origin| origin.path.clone()),
        message,
        also: Vec::new(),
    }
}

/// Services of the stack that the file does not name.
async fn surplus(app: &App, stack: &Stack) -> Result<Vec<Service>, Failure> {
    let mut services = app.api.services(&[(STACK_LABEL, &stack.name)]).await?;
    services.retain(|service| {
        !service.deleting && !stack.services.iter().any(|known| known.spec.name == name(service))
    });
    Ok(services)
}

async fn dry_prune(app: &App, stack: &Stack, options: &Options) -> Result<(), Failure> {
    if options.prune {
        for service in surplus(app, stack).await? {
            app.terminal.print_line(&format!("{} would be removed", name(&service)))?;
        }
    }
    Ok(())
}
