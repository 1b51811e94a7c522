//! `skein plan`: what applying Compose files would change, without changing it.
//!
//! Invariant: only reads and validates; ends with 0 when nothing would change, 1 when something
//! would, 2 when it cannot be told.

use std::path::PathBuf;

use serde_json::{Value, json};
use skein_common::config::ConfigSpec;
use skein_proto::v1::{ApplyResult, PlannedChange, PlannedInstance, Service, ServiceSpec};

use super::{apply, config};
use crate::{
    app::App,
    compose::{Stack, StackService},
    compose_files,
    difference::{self, Difference},
    failure::Failure,
    output::{self, Format, service::name},
};

/// Show what applying Compose files would change
///
/// Every service is validated by the cluster and compared with what it keeps, field by field; then the scheduler is
/// asked where instances would go, who would give way, and who would stay pending and why. Nothing is changed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein plan -f compose.yaml
  skein plan -f compose.yaml -f production.yaml --name shop --prune
  skein plan -f compose.yaml -o json

Exit codes: 0 nothing would change, 1 something would, 2 failed")]
pub struct Args {
    /// The Compose file, - for standard input; of several, later ones go over earlier ones
    #[arg(long, short, visible_short_alias = 'c', value_name = "FILE", required = true)]
    pub file: Vec<PathBuf>,
    /// Name of the stack
    #[arg(long, value_name = "STACK")]
    pub name: Option<String>,
    /// Count services of the stack that are not in the files as to be removed
    #[arg(long)]
    pub prune: bool,
    /// Also name the services that stay as they are
    #[arg(long, short)]
    pub all: bool,
}

/// What would happen to one service.
struct Step {
    name: String,
    action: Action,
    changes: Vec<Difference>,
    /// What becomes of instances.
    instances: Vec<PlannedInstance>,
}

/// The steps, and what `skein apply --plan-etag` takes.
struct Plan {
    steps: Vec<Step>,
    etag: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Create,
    /// Its instances are replaced one after the other.
    Replace,
    /// Its instances go on.
    Change,
    Keep,
    Remove,
}

impl Action {
    const fn mark(self) -> char {
        match self {
            Self::Create => '+',
            Self::Replace | Self::Change => '~',
            Self::Keep => '=',
            Self::Remove => '-',
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Create => "created",
            Self::Replace => "updated, its instances replaced",
            Self::Change => "updated, its instances go on",
            Self::Keep => "unchanged",
            Self::Remove => "removed",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Change => "change",
            Self::Keep => "keep",
            Self::Remove => "remove",
        }
    }
}

/// # Errors
/// `Changes` when something would change, `NoPlan` when it cannot be told.
pub async fn run(app: &App, args: Args) -> Result<(), Failure> {
    let plan = Box::pin(plan(app, &args)).await.map_err(|failure| Failure::NoPlan(Box::new(failure)))?;
    show(app, &args, &plan)?;
    if plan.steps.iter().all(|step| step.action == Action::Keep) { Ok(()) } else { Err(Failure::Changes) }
}

async fn plan(app: &App, args: &Args) -> Result<Plan, Failure> {
    let stack = compose_files::read(app, &args.file, args.name.as_deref())?;
    let missing = config::missing(app, &stack).await?;
    let (mut steps, mut refused) = (Vec::new(), Vec::new());
    for service in &stack.services {
        match Box::pin(step(app, service, &missing)).await {
            Ok(step) => steps.push(step),
            Err(failure) => refused.extend(apply::violations(failure, &stack, service)?),
        }
    }
    if !refused.is_empty() {
        return Err(Failure::File(refused));
    }
    let remove = surplus(app, args, &stack, &mut steps).await?;
    let specs = stack.services.iter().map(|service| config::rehearsable(&service.spec, &missing));
    let specs = specs.map(|spec| ServiceSpec::from(&spec)).collect();
    let foreseen = app.api.plan(specs, remove, "").await?;
    attach(&mut steps, foreseen.instances);
    Ok(Plan { steps, etag: foreseen.plan_etag })
}

/// To their services; others that are touched come last.
fn attach(steps: &mut Vec<Step>, instances: Vec<PlannedInstance>) {
    for instance in instances {
        let name = instance.service_name.clone();
        match steps.iter_mut().find(|step| step.name == name) {
            Some(step) => step.instances.push(instance),
            None => steps.push(Step { instances: vec![instance], ..Step::new(name, Action::Keep) }),
        }
    }
}

impl Step {
    const fn new(name: String, action: Action) -> Self {
        Self { name, action, changes: Vec::new(), instances: Vec::new() }
    }
}

async fn step(app: &App, service: &StackService, missing: &[ConfigSpec]) -> Result<Step, Failure> {
    let name = service.spec.name.clone();
    let known = match app.api.service(&name).await {
        Ok(known) if !known.deleting => Some(known),
        Ok(_) => None,
        Err(failure) if failure.is_not_found() => None,
        Err(failure) => return Err(failure),
    };
    let answer = app.api.apply(ServiceSpec::from(&config::rehearsable(&service.spec, missing)), true).await?;
    apply::warn_at_deploy(app, &service.spec.name, &answer.warnings);
    let planned = answer.service.clone().unwrap_or_default();
    let Some(known) = known else { return Ok(Step::new(name, Action::Create)) };
    let planned_spec = whole(&spec(&planned), &service.spec);
    let changes = difference::between(&spec(&known), &planned_spec);
    let action = match answer.result() {
        ApplyResult::Unchanged => Action::Keep,
        _ if changes.is_empty() => Action::Keep,
        _ if planned.generation > known.generation => Action::Replace,
        _ => Action::Change,
    };
    Ok(Step { changes, ..Step::new(name, action) })
}

fn spec(service: &Service) -> Value {
    service.spec.as_ref().map(|spec| output::json::with_field_names("ServiceSpec", spec)).unwrap_or_default()
}

/// With the configs that could not be named yet.
fn whole(planned: &Value, wanted: &skein_common::service::ServiceSpec) -> Value {
    let wanted = output::json::with_field_names("ServiceSpec", &ServiceSpec::from(wanted));
    let mut planned = planned.clone();
    let configs = wanted.pointer("/container/configs").and_then(Value::as_array).cloned().unwrap_or_default();
    let known = planned.pointer("/container/configs").and_then(Value::as_array).cloned().unwrap_or_default();
    if configs.len() != known.len()
        && let Some(container) = planned.get_mut("container").and_then(Value::as_object_mut)
    {
        container.insert("configs".to_owned(), Value::Array(configs));
    }
    if let (Some(routes), Some(planned)) = (wanted.pointer("/routes"), planned.as_object_mut())
        && routes.as_array().map(Vec::len) != planned.get("routes").and_then(Value::as_array).map(Vec::len)
    {
        planned.insert("routes".to_owned(), routes.clone());
    }
    planned
}

/// Ids of what is to be removed.
async fn surplus(
    app: &App,
    args: &Args,
    stack: &Stack,
    steps: &mut Vec<Step>,
) -> Result<Vec<String>, Failure> {
    let surplus = apply::surplus(app, stack).await?;
    if args.prune {
        steps.extend(surplus.iter().map(|service| Step::new(name(service).to_owned(), Action::Remove)));
        return Ok(surplus.into_iter().map(|service| service.id).collect());
    }
    if !surplus.is_empty() {
        let names: Vec<&str> = surplus.iter().map(name).collect();
        app.terminal.note(&format!("not in the files, kept without --prune: {}", names.join(", ")));
    }
    Ok(Vec::new())
}

fn show(app: &App, args: &Args, plan: &Plan) -> Result<(), Failure> {
    let text = match app.format {
        Format::Json | Format::Yaml => {
            let steps: Vec<Value> = plan.steps.iter().map(|step| to_json(step, &plan.etag)).collect();
            let whole = Value::Array(steps);
            if app.format == Format::Json { output::pretty(&whole) } else { output::yaml::render(&whole) }
        }
        Format::Name => {
            let changed = plan.steps.iter().filter(|step| step.action != Action::Keep);
            changed.map(|step| format!("{}\n", step.name)).collect()
        }
        Format::Table | Format::Wide => lines(plan, args.all),
    };
    Ok(app.terminal.print(&text)?)
}

fn to_json(step: &Step, etag: &str) -> Value {
    let changes: Vec<Value> = step.changes.iter().map(Difference::json).collect();
    let instances = step.instances.iter().map(|one| output::json::of_message("PlannedInstance", one));
    let instances: Vec<Value> = instances.collect();
    json!({
        "service": step.name,
        "action": step.action.word(),
        "changes": changes,
        "instances": instances,
        "planEtag": etag,
    })
}

fn instance(one: &PlannedInstance) -> String {
    let (from, to) = (&one.from_node_name, &one.to_node_name);
    let place = match (from.as_str(), to.as_str()) {
        ("", "") => String::new(),
        ("", to) => format!(" on {to}"),
        (from, "") => format!(" on {from}"),
        (from, to) => format!(" from {from} to {to}"),
    };
    let (mark, what) = match one.change() {
        PlannedChange::Created => ('+', "is created"),
        PlannedChange::Replaced => ('~', "is replaced"),
        PlannedChange::Preempted => ('!', "gives way"),
        PlannedChange::Removed => ('-', "is removed"),
        PlannedChange::Pending | PlannedChange::Unspecified => ('?', "stays pending"),
    };
    let reason = if one.reason.is_empty() { String::new() } else { format!(": {}", one.reason) };
    format!("    {mark} {} {what}{place}{reason}", one.name)
}

fn lines(plan: &Plan, all: bool) -> String {
    let steps = &plan.steps;
    let mut text = String::new();
    for step in steps.iter().filter(|step| all || step.action != Action::Keep || !step.instances.is_empty()) {
        text.push_str(&format!("{} {} would be {}\n", step.action.mark(), step.name, step.action.words()));
        for one in &step.instances {
            text.push_str(&format!("{}\n", crate::terminal::printable(&instance(one))));
        }
        for change in &step.changes {
            text.push_str(&format!("    {}\n", crate::terminal::printable(&change.line())));
        }
    }
    let count = |actions: &[Action]| steps.iter().filter(|step| actions.contains(&step.action)).count();
    text.push_str(&format!(
        "{} to create, {} to update, {} to remove, {} unchanged\n",
        count(&[Action::Create]),
        count(&[Action::Replace, Action::Change]),
        count(&[Action::Remove]),
        count(&[Action::Keep]),
    ));
    if steps.iter().any(|step| step.action != Action::Keep) {
        text.push_str(&format!("exactly this: skein apply --plan-etag {}\n", plan.etag));
    }
    text
}
