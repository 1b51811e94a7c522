//! `skein logs`: what containers write, from wherever they run.
//!
//! Invariant: following goes on at another master where it was broken off, and asks again for
//! instances whose node was away; every line of an instance is shown once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prost_types::Timestamp;
use skein_common::InstanceId;
use skein_proto::v1::{LogStream, StreamLogsRequest, StreamLogsResponse, stream_logs_request::Source};
use tokio::time::{Instant, sleep_until};
use tonic::{Code, Status, Streaming};

use crate::{
    api,
    app::App,
    failure::{Attempt, Failure},
    masters::{Repeat, Search},
    output::{self, Format, text},
    terminal::printable,
};

/// After this an instance whose node was away is asked for again.
const AWAY_PAUSE: Duration = Duration::from_secs(2);

/// Show what the containers of a service or of one instance write
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein logs shop_web                    everything that is kept
  skein logs -f shop_web                 and go on with what is written from now on
  skein logs shop_web.3 --tail 20        one instance, the last 20 lines
  skein logs shop_web --since 10m")]
pub struct Args {
    /// Name or id of a service, or of one instance (shop_web.3)
    #[arg(value_name = "SERVICE|INSTANCE")]
    pub target: String,
    /// Go on with what is written from now on
    #[arg(long, short)]
    pub follow: bool,
    /// Only the last lines of each instance
    #[arg(long, short = 'n', value_name = "LINES")]
    pub tail: Option<u32>,
    /// Only lines since then: a duration ago (10m) or a time (2026-01-31T12:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub since: Option<SystemTime>,
    /// Without the instance's name before each line
    #[arg(long)]
    pub no_prefix: bool,
    /// With the time before each line
    #[arg(long, short)]
    pub timestamps: bool,
}

fn parse_since(text: &str) -> Result<SystemTime, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return SystemTime::now().checked_sub(ago).ok_or_else(|| format!("{text} ago is before time began"));
    }
    humantime::parse_rfc3339_weak(text).map_err(|_| {
        format!("{text:?} is neither a duration such as 10m nor a time such as 2026-01-31T12:00:00Z")
    })
}

/// # Errors
/// Whatever the command ends with.
pub async fn run(app: &App, args: Args) -> Result<(), Failure> {
    let source = find(app, &args.target).await?;
    let mut reader = Reader::new(app, &args, source);
    loop {
        match reader.read().await {
            // Nodes that were away may be back.
            Ok(()) if args.follow && !reader.away.is_empty() => {}
            Ok(()) if args.follow => reader.reconnect("the stream ended").await?,
            Ok(()) => return reader.end(),
            Err(Failure::Refused(refusal)) if is_passing(refusal.code) => {
                reader.reconnect(&refusal.message).await?;
            }
            Err(failure) => return Err(failure),
        }
    }
}

const fn is_passing(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::Aborted)
}

/// A service by id or name, an instance by id or by a name such as `web.3`.
async fn find(app: &App, target: &str) -> Result<Source, Failure> {
    let not_found = match app.api.service(target).await {
        Ok(service) => return Ok(Source::Service(service.id)),
        Err(failure) if failure.is_not_found() => failure,
        Err(failure) => return Err(failure),
    };
    if target.parse::<InstanceId>().is_ok() {
        match app.api.instance(target).await {
            Ok(instance) => return Ok(Source::Instance(instance.id)),
            Err(failure) if failure.is_not_found() => {}
            Err(failure) => return Err(failure),
        }
    }
    let Some((service, _)) = target.rsplit_once('.') else { return Err(not_found) };
    let instances = match app.api.instances(service, "").await {
        Ok(instances) => instances,
        Err(failure) if failure.is_not_found() => return Err(not_found),
        Err(failure) => return Err(failure),
    };
    let named = instances.into_iter().filter(|instance| instance.name == target);
    let newest = named.max_by_key(|instance| instance.created_revision);
    newest.map(|instance| Source::Instance(instance.id)).ok_or(not_found)
}

/// Time of the last line, and how many lines with that time.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: (i64, i32),
    lines: u32,
}

struct Reader<'a> {
    app: &'a App,
    args: &'a Args,
    source: Source,
    /// What has been shown, by instance.
    shown: HashMap<String, Mark>,
    /// What this stream may begin with again.
    repeated: HashMap<String, Mark>,
    /// Instances whose output could not be had, and why.
    failed: BTreeMap<String, String>,
    /// Those of them that this stream does not serve.
    away: BTreeSet<String>,
    search: Option<Search<'a>>,
    address: String,
    prefix_width: usize,
}

impl<'a> Reader<'a> {
    fn new(app: &'a App, args: &'a Args, source: Source) -> Self {
        Self {
            app,
            args,
            source,
            shown: HashMap::new(),
            repeated: HashMap::new(),
            failed: BTreeMap::new(),
            away: BTreeSet::new(),
            search: None,
            address: String::new(),
            prefix_width: 0,
        }
    }

    async fn open(&mut self) -> Result<Streaming<StreamLogsResponse>, Failure> {
        loop {
            match self.app.api.masters.connect().await {
                Err(attempt) => self.wait(attempt).await?,
                Ok((address, channel)) => {
                    self.address = address;
                    let request = self.request();
                    let answer = api::instances(channel).stream_logs(request).await;
                    return Ok(answer.map_err(Failure::from)?.into_inner());
                }
            }
        }
    }

    /// What has been shown is not asked for again.
    fn request(&self) -> StreamLogsRequest {
        let oldest = self.shown.values().map(|mark| mark.at).min();
        let oldest = oldest.map(|(seconds, nanos)| Timestamp { seconds, nanos });
        StreamLogsRequest {
            source: Some(self.source.clone()),
            follow: self.args.follow,
            tail: if oldest.is_some() { None } else { self.args.tail },
            since: oldest.or_else(|| self.args.since.map(to_wire)),
        }
    }

    async fn read(&mut self) -> Result<(), Failure> {
        let mut stream = self.open().await?;
        self.repeated = self.shown.clone();
        self.away.clear();
        let ask_again = Instant::now() + AWAY_PAUSE;
        loop {
            let is_due = self.args.follow && !self.away.is_empty();
            let message = tokio::select! {
                message = stream.message() => message.map_err(|status: Status| Failure::from(status))?,
                () = sleep_until(ask_again), if is_due => return Ok(()),
            };
            match message {
                Some(message) => {
                    self.search = None;
                    self.show(&message)?;
                }
                None => {
                    if is_due {
                        sleep_until(ask_again).await;
                    }
                    return Ok(());
                }
            }
        }
    }

    fn show(&mut self, message: &StreamLogsResponse) -> Result<(), Failure> {
        if !message.error.is_empty() {
            let name = message.instance_name.clone();
            self.away.insert(name.clone());
            let news =
                self.failed.insert(name.clone(), message.error.clone()).as_ref() != Some(&message.error);
            if news {
                self.app.terminal.say(&format!("{name}: {}", printable(&message.error)));
            }
            return Ok(());
        }
        self.failed.remove(&message.instance_name);
        let at = message.at.as_ref().map_or((0, 0), |at| (at.seconds, at.nanos));
        if self.is_repeated(&message.instance_id, at) {
            return Ok(());
        }
        let mark = self.shown.entry(message.instance_id.clone()).or_insert(Mark { at, lines: 0 });
        *mark = if mark.at == at { Mark { at, lines: mark.lines + 1 } } else { Mark { at, lines: 1 } };
        if matches!(self.app.format, Format::Json) {
            let json = output::json::of_message("StreamLogsResponse", message);
            return Ok(self.app.terminal.print_line(&json.to_string())?);
        }
        let line = self.line(message);
        Ok(self.app.terminal.print_line(&line)?)
    }

    /// A line that was shown before the stream broke: an older one, or one of as many with the
    /// same time as were shown.
    fn is_repeated(&mut self, instance: &str, at: (i64, i32)) -> bool {
        let Some(mark) = self.repeated.get_mut(instance) else { return false };
        if at < mark.at {
            return true;
        }
        let same = at == mark.at && mark.lines > 0;
        mark.lines = mark.lines.saturating_sub(1);
        if !same {
            self.repeated.remove(instance);
        }
        same
    }

    fn line(&mut self, message: &StreamLogsResponse) -> String {
        let mut line = String::new();
        if !self.args.no_prefix {
            let mark = if message.stream() == LogStream::Stderr { '!' } else { '|' };
            self.prefix_width = self.prefix_width.max(message.instance_name.chars().count());
            line.push_str(&format!("{:width$} {mark} ", message.instance_name, width = self.prefix_width));
        }
        if self.args.timestamps
            && let Some(at) = text::instant(message.at.as_ref())
        {
            line.push_str(&format!("{at} "));
        }
        let text = String::from_utf8_lossy(&message.line);
        // What a container writes to a log may be meant for a terminal, but not for this one.
        line.push_str(&if self.app.terminal.out_is_terminal { printable(&text) } else { text.into_owned() });
        line
    }

    async fn reconnect(&mut self, reason: &str) -> Result<(), Failure> {
        self.app.api.masters.move_on();
        self.wait(Attempt { address: self.address.clone(), reason: reason.to_owned() }).await
    }

    async fn wait(&mut self, attempt: Attempt) -> Result<(), Failure> {
        let masters = &self.app.api.masters;
        self.search.get_or_insert_with(|| Search::begin(masters, Repeat::Read)).pause(attempt, None).await
    }

    fn end(&self) -> Result<(), Failure> {
        if self.failed.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.failed.keys().map(String::as_str).collect();
        Err(Failure::Failed(format!("no output of {}", names.join(", "))))
    }
}

fn to_wire(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}
