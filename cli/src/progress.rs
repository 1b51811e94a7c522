//! Waiting until what was accepted has come true, and telling how far it is.
//!
//! Invariant: only watches; leaving early (Ctrl-C, `--detach`, the time being over) changes nothing.

use std::{collections::BTreeMap, time::Duration};

use skein_proto::v1::{Instance, Service};
use tokio::time::{Instant, sleep_until};

use crate::{
    app::App,
    convergence::{Standing, of_drained, of_removed, of_running},
    failure::Failure,
    output::service::name,
    terminal::shorten,
    watch::{Instances, News, Watch},
};

/// Between two looks at the services, when instances change faster.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// A look without any change: also what no instance tells shall be seen.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Lines for a log: no more than one a second, unless it is the last.
const LINE_PAUSE: Duration = Duration::from_secs(1);

/// How long an empty global service may still be waiting for its first plan.
const PLANNING_TIME: Duration = Duration::from_secs(2);

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// The service with this id runs as its spec of this generation says, or a later one.
    Running { id: String, name: String, generation: u64 },
    /// The service with this id is gone.
    Removed { id: String, name: String },
    /// The node with this id runs nothing.
    Drained { id: String, name: String },
}

impl Goal {
    /// The service runs as its spec of now says.
    pub fn running(service: &Service) -> Self {
        Self::Running {
            id: service.id.clone(),
            name: name(service).to_owned(),
            generation: service.generation,
        }
    }
}

#[derive(Debug, Clone, clap::Args)]
pub struct WaitArgs {
    /// Return as soon as the cluster has accepted it
    #[arg(long, short)]
    pub detach: bool,
    /// Wait no longer than this for it to come true (exit code 2)
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    pub wait_timeout: Duration,
}

/// Waits for all goals, unless detached.
///
/// # Errors
/// `NotConverged` when the time is over.
pub async fn wait(app: &App, goals: Vec<Goal>, args: &WaitArgs) -> Result<(), Failure> {
    if args.detach || goals.is_empty() {
        return Ok(());
    }
    app.on_interrupt(format!(
        "detached: the cluster goes on by itself\nnext: {}",
        goals.first().map(follow_up).unwrap_or_default()
    ));
    let mut view = View::new(app, goals);
    let began = Instant::now();
    let deadline = began + args.wait_timeout;
    let mut printer = Printer::new(app);
    // Without knowing what there is, everything would look as if it were still to come.
    tokio::select! {
        () = sleep_until(deadline) => {}
        begun = view.begin() => begun?,
    }
    loop {
        let looked = Instant::now();
        let standings = view.look(app).await?;
        let reached = standings.iter().all(|standing| standing.reached) && !is_too_early(&standings, began);
        printer.show(&standings, reached);
        if reached {
            app.on_interrupt(String::new());
            return Ok(());
        }
        if let Some(failure) = stuck(&standings) {
            app.on_interrupt(String::new());
            return Err(failure);
        }
        tokio::select! {
            () = sleep_until(deadline) => return Err(view.too_late(&standings)),
            changed = view.changed(looked) => changed?,
        }
    }
}

/// Once everything else is there, what will not go on by itself is not waited for.
fn stuck(standings: &[Standing]) -> Option<Failure> {
    if standings.iter().any(|standing| !standing.reached && standing.stuck.is_none()) {
        return None;
    }
    let said: Vec<&str> = standings.iter().filter_map(|standing| standing.stuck.as_deref()).collect();
    (!said.is_empty()).then(|| Failure::Halted(said.join("\n")))
}

/// Nothing planned may also mean: not planned yet.
fn is_too_early(standings: &[Standing], began: Instant) -> bool {
    began.elapsed() < PLANNING_TIME && standings.iter().any(|standing| standing.doubtful)
}

fn follow_up(goal: &Goal) -> String {
    match goal {
        Goal::Running { name, .. } => format!("skein service ps {name} --watch"),
        Goal::Removed { .. } => "skein service ls".to_owned(),
        Goal::Drained { name, .. } => format!("skein node inspect {name}"),
    }
}

/// What is known while waiting.
struct View<'a> {
    goals: Vec<Goal>,
    watch: Watch<'a, Instances>,
    instances: BTreeMap<String, Instance>,
}

impl<'a> View<'a> {
    fn new(app: &'a App, goals: Vec<Goal>) -> Self {
        let subject = match goals.as_slice() {
            [Goal::Running { id, .. } | Goal::Removed { id, .. }] => {
                Instances { service: id.clone(), node: String::new() }
            }
            [Goal::Drained { id, .. }] => Instances { service: String::new(), node: id.clone() },
            _ => Instances::default(),
        };
        Self { goals, watch: Watch::new(&app.api.masters, subject), instances: BTreeMap::new() }
    }

    async fn look(&self, app: &App) -> Result<Vec<Standing>, Failure> {
        let mut standings = Vec::new();
        for goal in &self.goals {
            let standing = match goal {
                Goal::Running { id, name, generation } => {
                    let service = found(app.api.service(id).await)?.filter(|service| !service.deleting);
                    let service = service
                        .ok_or_else(|| Failure::Failed(format!("{name} has been removed by someone else")))?;
                    of_running(name, *generation, &service, &self.of_service(id))
                }
                Goal::Removed { id, name } => {
                    let service = found(app.api.service(id).await)?;
                    of_removed(name, service.as_ref(), &self.of_service(id))
                }
                Goal::Drained { id, name } => {
                    let on_node: Vec<&Instance> =
                        self.instances.values().filter(|i| i.node_id == *id).collect();
                    let counted = app.api.node(id).await?.instances;
                    let mut standing = of_drained(name, &on_node);
                    standing.reached &= counted == 0;
                    standing
                }
            };
            standings.push(standing);
        }
        Ok(standings)
    }

    fn of_service(&self, id: &str) -> Vec<&Instance> {
        self.instances.values().filter(|instance| instance.service_id == id).collect()
    }

    /// Returns when all that exists is known.
    async fn begin(&mut self) -> Result<(), Failure> {
        match self.watch.next().await {
            Ok(news) => self.take(news),
            Err(failure) if failure.is_not_found() => {}
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Returns when it is worth to look again.
    async fn changed(&mut self, looked: Instant) -> Result<(), Failure> {
        tokio::select! {
            news = self.watch.next() => match news {
                Ok(news) => self.take(news),
                // A service that is waited to be gone may be gone before its watch begins.
                Err(failure) if failure.is_not_found() => sleep_until(looked + LONGEST_PAUSE).await,
                Err(failure) => return Err(failure),
            },
            () = sleep_until(looked + LONGEST_PAUSE) => return Ok(()),
        }
        // More of the same burst.
        let soon = looked + SHORTEST_PAUSE;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(soon) => return Ok(()),
                news = self.watch.next() => match news {
                    Ok(news) => self.take(news),
                    Err(failure) if failure.is_not_found() => return Ok(()),
                    Err(failure) => return Err(failure),
                },
            }
        }
    }

    fn take(&mut self, news: News<Instance>) {
        match news {
            News::All(all) => {
                self.instances = all.into_iter().map(|instance| (instance.id.clone(), instance)).collect();
            }
            News::Changed(instance) => {
                self.instances.insert(instance.id.clone(), instance);
            }
            News::Gone(instance) => {
                self.instances.remove(&instance.id);
            }
        }
    }

    fn too_late(&self, standings: &[Standing]) -> Failure {
        let open = self.goals.iter().zip(standings).filter(|(_, standing)| !standing.reached);
        let lines: Vec<String> =
            open.map(|(goal, standing)| format!("{}\nnext: {}", standing.text, follow_up(goal))).collect();
        Failure::NotConverged(lines.join("\n"))
    }
}

/// `None` when it is not there.
fn found<T>(answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(failure) if failure.is_not_found() => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Redraws on a terminal, writes changed lines otherwise.
struct Printer<'a> {
    app: &'a App,
    drawn: usize,
    last: Vec<String>,
    last_at: Option<Instant>,
}

impl<'a> Printer<'a> {
    const fn new(app: &'a App) -> Self {
        Self { app, drawn: 0, last: Vec::new(), last_at: None }
    }

    fn show(&mut self, standings: &[Standing], is_last: bool) {
        let terminal = &self.app.terminal;
        let lines: Vec<String> = standings.iter().map(|standing| standing.text.clone()).collect();
        if terminal.quiet || lines == self.last {
            return;
        }
        if terminal.err_is_terminal {
            let width = terminal.width.unwrap_or(80);
            let shown: Vec<String> = lines.iter().map(|line| shorten(line, width) + "\n").collect();
            let up = if self.drawn == 0 { String::new() } else { format!("\x1b[{}A", self.drawn) };
            terminal.say_raw(&format!("{up}\x1b[J{}", shown.concat()));
            self.drawn = shown.len();
        } else {
            if !is_last && self.last_at.is_some_and(|at| at.elapsed() < LINE_PAUSE) {
                return;
            }
            let known = std::mem::take(&mut self.last);
            for (position, line) in lines.iter().enumerate() {
                if known.get(position) != Some(line) {
                    terminal.note(line);
                }
            }
        }
        self.last = lines;
        self.last_at = Some(Instant::now());
    }
}
