//! `skein cluster`: the masters themselves, and the settings of the whole cluster.

mod config;

use std::time::Duration;

use serde_json::Value;
use skein_common::Timestamp;
use skein_proto::v1::{AddMasterRequest, GetStatusRequest, GetStatusResponse, Member, MemberRole};

use crate::{
    api,
    app::App,
    failure::Failure,
    masters::{Masters, spell},
    output::{Column, Format, Row, column, json, text, wide},
};

/// A member that does not answer within this is shown as unreachable.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(1);

/// Look after the masters, and the settings of the whole cluster
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Status(StatusArgs),
    AddMaster(AddArgs),
    RemoveMaster(RemoveArgs),
    TransferLeadership(TransferArgs),
    Config(config::Args),
}

/// Show the masters: who leads, who is behind, who does not answer
///
/// Every member is asked itself, so this also works without a leader.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  skein cluster status\n  skein cluster status -o json")]
pub struct StatusArgs {}

/// Make a further master a member
///
/// Start it without --initial-masters first. It receives the log as a learner and votes once it has caught up.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  skein cluster add-master m4 --api-address 10.0.0.4:7070 --cluster-address 10.0.0.4:7071")]
pub struct AddArgs {
    /// The name it was started with
    pub name: String,
    /// HOST:PORT of its API
    #[arg(long, value_name = "HOST:PORT")]
    pub api_address: String,
    /// HOST:PORT of its cluster port
    #[arg(long, value_name = "HOST:PORT")]
    pub cluster_address: String,
}

/// Remove a master from the members
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  skein cluster remove-master m3")]
pub struct RemoveArgs {
    /// Its name
    pub name: String,
}

/// Hand leadership to another master
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein cluster transfer-leadership           to whoever is furthest
  skein cluster transfer-leadership m2")]
pub struct TransferArgs {
    /// Who shall lead
    #[arg(default_value = "", hide_default_value = true)]
    pub to: String,
}

/// # Errors
/// Whatever the command ends with.
pub async fn run(app: &App, command: Command) -> Result<(), Failure> {
    match command {
        Command::Status(_) => status(app).await,
        Command::Config(args) => config::run(app, &args).await,
        Command::AddMaster(args) => {
            let request = AddMasterRequest {
                name: args.name.clone(),
                api_address: args.api_address,
                cluster_address: args.cluster_address,
            };
            app.api.add_master(request).await?;
            Ok(app.terminal.print_line(&format!("{} votes", args.name))?)
        }
        Command::RemoveMaster(args) => {
            app.api.remove_master(&args.name).await?;
            Ok(app
                .terminal
                .print_line(&format!("{} is no longer a member; its process can be ended", args.name))?)
        }
        Command::TransferLeadership(args) => {
            let leader = app.api.transfer_leadership(&args.to).await?;
            Ok(app.terminal.print_line(&format!("{leader} leads"))?)
        }
    }
}

async fn status(app: &App) -> Result<(), Failure> {
    let status = app.api.status().await?;
    if matches!(app.format, Format::Json | Format::Yaml) {
        return app.print_one(&Status(status));
    }
    let answers = status.members.iter().map(|member| ask(member, &status));
    let members: Vec<MemberView> = futures_util::future::join_all(answers).await;
    if app.format != Format::Name {
        app.terminal.print(&headline(&status, &members))?;
    }
    app.print_list(&members)
}

fn headline(status: &GetStatusResponse, members: &[MemberView]) -> String {
    let voters = members.iter().filter(|member| member.member.role() == MemberRole::Voter);
    let (all, there) =
        voters.fold((0, 0), |(all, there), member| (all + 1, there + usize::from(member.answer.is_ok())));
    let leader = if status.leader.is_empty() { "none".to_owned() } else { status.leader.clone() };
    let id = if status.cluster_id.is_empty() { "not formed yet" } else { &status.cluster_id };
    let spare = there.saturating_sub(all / 2 + 1);
    let health = if all == 0 {
        "no members".to_owned()
    } else if there > all / 2 {
        format!("{there} of {all} voters answer, {spare} more may fail")
    } else {
        format!("{there} of {all} voters answer: no quorum, nothing can be changed")
    };
    format!("cluster {id}   leader {leader}   term {}   {health}\n\n", status.term)
}

/// What a member says of itself, however the others see it.
async fn ask(member: &Member, asked: &GetStatusResponse) -> MemberView {
    let answer =
        if member.name == asked.name { Ok(asked.clone()) } else { ask_itself(&member.api_address).await };
    MemberView { member: member.clone(), answer }
}

/// Once: what does not answer now is what is to be shown.
async fn ask_itself(address: &str) -> Result<GetStatusResponse, String> {
    let masters = Masters::new(vec![address.to_owned()], MEMBER_TIMEOUT, Box::new(|_| {}));
    let (_, channel) = masters.connect().await.map_err(|attempt| attempt.reason)?;
    match tokio::time::timeout(MEMBER_TIMEOUT, api::cluster(channel).get_status(GetStatusRequest {})).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err(format!("no answer within {}", spell(MEMBER_TIMEOUT))),
    }
}

struct Status(GetStatusResponse);

impl Row for Status {
    const COLUMNS: &'static [Column] = &[];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        Vec::new()
    }

    fn name(&self) -> String {
        self.0.cluster_id.clone()
    }

    fn json(&self) -> Value {
        json::of_message("GetStatusResponse", &self.0)
    }
}

struct MemberView {
    member: Member,
    answer: Result<GetStatusResponse, String>,
}

impl Row for MemberView {
    const COLUMNS: &'static [Column] = &[
        column("NAME"),
        column("ROLE"),
        column("STATE"),
        column("TERM"),
        column("APPLIED"),
        column("API"),
        wide("CLUSTER"),
        wide("LAST LOG"),
        wide("SNAPSHOT"),
        wide("ID"),
        column("VERSION"),
        column("MESSAGE"),
    ];

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        let number = |pick: fn(&GetStatusResponse) -> u64| {
            self.answer.as_ref().map(|status| pick(status).to_string()).unwrap_or_default()
        };
        let state = match &self.answer {
            Ok(status) if status.leader == self.member.name => "leader",
            Ok(status) if status.leader.is_empty() => "no leader known",
            Ok(_) => "follower",
            Err(_) => "unreachable",
        };
        vec![
            self.member.name.clone(),
            text::enum_word(self.member.role().as_str_name(), "MEMBER_ROLE_"),
            state.to_owned(),
            number(|status| status.term),
            number(|status| status.applied_index),
            self.member.api_address.clone(),
            self.member.cluster_address.clone(),
            number(|status| status.last_log_index),
            number(|status| status.snapshot_index),
            self.member.id.to_string(),
            self.answer.as_ref().map(|status| status.version.clone()).unwrap_or_default(),
            self.answer.as_ref().err().cloned().unwrap_or_default(),
        ]
    }

    fn name(&self) -> String {
        self.member.name.clone()
    }

    fn json(&self) -> Value {
        json::of_message("Member", &self.member)
    }
}
