//! The streams behind `skein logs`: one for what was asked for, one more for each instance that
//! could not be had at first or appeared later.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{StreamExt as _, stream::SelectAll};
use prost_types::Timestamp;
use skein_proto::v1::{Instance, Phase, StreamLogsRequest, StreamLogsResponse, stream_logs_request::Source};
use tokio::time::{Instant, sleep_until};
use tokio_stream::Stream;
use tonic::{Code, Status};

use super::{
    Args,
    printer::{Floor, Printer},
};
use crate::{
    api,
    app::App,
    failure::{Attempt, Failure},
    masters::{Repeat, Search},
    output::instance::phase,
    terminal::printable,
    watch::{Instances, News, Watch},
};

/// After this an instance that could not be had is asked for again.
const AWAY_PAUSE: Duration = Duration::from_secs(2);

/// One message of the stream with this number.
type Heard = (usize, Result<StreamLogsResponse, Status>);
type Lines = std::pin::Pin<Box<dyn Stream<Item = Heard>>>;

pub struct Reader<'a> {
    app: &'a App,
    args: &'a Args,
    source: Source,
    printer: Printer<'a>,
    streams: SelectAll<Lines>,
    /// What each stream may begin with again, by its number.
    floors: Vec<Floor>,
    /// Instances whose output could not be had, by name, and why.
    failed: BTreeMap<String, String>,
    /// What has been said of them.
    said: BTreeSet<String>,
    /// Ids of instances to be asked for again.
    away: BTreeSet<String>,
    ask_again: Instant,
    /// Ids of new instances that have a stream.
    taken_up: BTreeSet<String>,
    /// Instances created after this revision are new.
    known: u64,
    search: Option<Search<'a>>,
    address: String,
}

impl<'a> Reader<'a> {
    pub fn new(app: &'a App, args: &'a Args, source: Source) -> Self {
        Self {
            app,
            args,
            source,
            printer: Printer::new(app, args),
            streams: SelectAll::new(),
            floors: Vec::new(),
            failed: BTreeMap::new(),
            said: BTreeSet::new(),
            away: BTreeSet::new(),
            ask_again: Instant::now(),
            taken_up: BTreeSet::new(),
            known: u64::MAX,
            search: None,
            address: String::new(),
        }
    }

    /// # Errors
    /// What the cluster refused, or that no master can be reached for too long.
    pub async fn run(mut self) -> Result<(), Failure> {
        let mut news = match &self.source {
            Source::Service(id) if self.args.follow => {
                let subject = Instances { service: id.clone(), node: String::new() };
                Some(Watch::new(&self.app.api.masters, subject))
            }
            _ => None,
        };
        self.begin().await?;
        loop {
            let is_open = !self.streams.is_empty();
            let is_away = self.args.follow && !self.away.is_empty();
            if !is_open && !is_away && news.is_none() {
                return self.end();
            }
            tokio::select! {
                // `None` once the last of them has ended.
                heard = self.streams.next(), if is_open => if let Some(heard) = heard {
                    self.hear(heard).await?;
                },
                told = next(&mut news) => self.consider(told?, &news).await?,
                () = sleep_until(self.ask_again), if is_away => self.ask_for_away().await?,
            }
        }
    }

    /// Asks for everything, again after the connection was lost.
    async fn begin(&mut self) -> Result<(), Failure> {
        self.streams.clear();
        self.away.clear();
        let oldest = self.printer.shown().values().map(|mark| mark.at).min();
        let request = StreamLogsRequest {
            source: Some(self.source.clone()),
            follow: self.args.follow,
            previous: self.args.previous,
            tail: if oldest.is_some() { None } else { self.args.tail },
            since: oldest
                .map(|(seconds, nanos)| Timestamp { seconds, nanos })
                .or_else(|| self.args.since.map(to_wire)),
        };
        self.open(request).await
    }

    /// Adds a stream; tries until a master takes it.
    async fn open(&mut self, request: StreamLogsRequest) -> Result<(), Failure> {
        loop {
            let (address, channel) = match self.app.api.masters.connect().await {
                Ok(connected) => connected,
                Err(attempt) => {
                    self.wait(attempt).await?;
                    continue;
                }
            };
            match api::instances(channel).stream_logs(request.clone()).await {
                Ok(response) => {
                    let number = self.floors.len();
                    self.floors.push(self.printer.shown().clone());
                    self.streams.push(Box::pin(response.into_inner().map(move |heard| (number, heard))));
                    self.address = address;
                    return Ok(());
                }
                Err(status) if is_passing(status.code()) => self.lost(address, &status).await?,
                Err(status) => return Err(status.into()),
            }
        }
    }

    async fn hear(&mut self, (number, heard): Heard) -> Result<(), Failure> {
        let message = match heard {
            Ok(message) => message,
            Err(status) if is_passing(status.code()) => {
                self.lost(self.address.clone(), &status).await?;
                return self.begin().await;
            }
            Err(status) => return Err(status.into()),
        };
        self.search = None;
        if message.error.is_empty() {
            self.failed.remove(&message.instance_name);
            return match self.floors.get_mut(number) {
                Some(floor) => self.printer.show(&message, floor),
                None => Ok(()),
            };
        }
        let StreamLogsResponse { instance_id, instance_name: name, error, .. } = message;
        if self.away.is_empty() {
            self.ask_again = Instant::now() + AWAY_PAUSE;
        }
        self.away.insert(instance_id);
        // After a failover nodes need a moment to come back: while following, only what lasts is
        // worth a line, and that once.
        let text = format!("{name}: {}", printable(&error));
        let lasts = self.failed.insert(name, error.clone()).as_ref() == Some(&error);
        if (lasts || !self.args.follow) && self.said.insert(text.clone()) {
            self.app.terminal.say(&text);
        }
        Ok(())
    }

    /// Takes up an instance that did not exist when the output was asked for.
    async fn consider(
        &mut self,
        told: News<Instance>,
        watch: &Option<Watch<'a, Instances>>,
    ) -> Result<(), Failure> {
        match told {
            News::All(_) => {
                self.known = self.known.min(watch.as_ref().map_or(u64::MAX, Watch::revision));
                Ok(())
            }
            News::Changed(instance) => {
                let writes = matches!(phase(&instance), Phase::Running | Phase::Ready);
                let is_new = instance.created_revision > self.known && !self.away.contains(&instance.id);
                if is_new && writes && self.taken_up.insert(instance.id.clone()) {
                    return self.open_one(instance.id).await;
                }
                Ok(())
            }
            News::Gone(instance) => {
                self.away.remove(&instance.id);
                Ok(())
            }
        }
    }

    async fn ask_for_away(&mut self) -> Result<(), Failure> {
        for instance in std::mem::take(&mut self.away) {
            match self.open_one(instance).await {
                // It was forgotten meanwhile.
                Err(failure) if failure.is_not_found() => {}
                other => other?,
            }
        }
        Ok(())
    }

    async fn open_one(&mut self, instance: String) -> Result<(), Failure> {
        let mark = self.printer.shown().get(&instance);
        let since = mark.map(|mark| Timestamp { seconds: mark.at.0, nanos: mark.at.1 });
        let request = StreamLogsRequest {
            source: Some(Source::Instance(instance)),
            follow: true,
            previous: false,
            tail: None,
            since: since.or_else(|| self.args.since.map(to_wire)),
        };
        self.open(request).await
    }

    async fn lost(&mut self, address: String, status: &Status) -> Result<(), Failure> {
        self.app.api.masters.move_on();
        self.wait(Attempt { address, reason: status.message().to_owned() }).await
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

const fn is_passing(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::Aborted)
}

async fn next(watch: &mut Option<Watch<'_, Instances>>) -> Result<News<Instance>, Failure> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

fn to_wire(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}
