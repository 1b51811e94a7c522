//! `--watch` on a list: the list again whenever something in it may have changed.
//!
//! Invariant: there is one way to fetch a list, watched or not; watches only say when. On a
//! terminal the list is redrawn in place, elsewhere only changed rows are written.

use std::{collections::BTreeMap, future::Future, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::{
    app::App,
    failure::Failure,
    output::{self, Format, Row, table, text},
    terminal::shorten,
    watch::{Instances, Nodes, Services, Watch},
};

/// Between two lists, when things change faster.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
/// On a terminal ages go on even when nothing changes.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a list depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Services,
    Instances,
    Nodes,
    /// Nothing tells of changes: look again after this.
    Every(Duration),
}

/// Prints the list once, or for ever.
///
/// # Errors
/// Whatever fetching or printing ends with.
pub async fn list<T, F, Fut>(app: &App, watch: bool, source: Source, fetch: F) -> Result<(), Failure>
where
    T: Row,
    F: Fn() -> Fut,
    Fut: Future<Output = Result<Vec<T>, Failure>>,
{
    if !watch {
        return app.print_list(&fetch().await?);
    }
    let mut signals = Signals::new(app, source);
    let mut screen = Screen::default();
    loop {
        let fetched = Instant::now();
        screen.show(app, &fetch().await?)?;
        signals.changed(fetched).await?;
    }
}

struct Signals<'a> {
    services: Option<Watch<'a, Services>>,
    instances: Option<Watch<'a, Instances>>,
    nodes: Option<Watch<'a, Nodes>>,
    longest: Duration,
}

impl<'a> Signals<'a> {
    fn new(app: &'a App, source: Source) -> Self {
        let masters = &app.api.masters;
        let has = |wanted: &[Source]| wanted.contains(&source);
        Self {
            services: has(&[Source::Services]).then(|| Watch::new(masters, Services)),
            instances: has(&[Source::Services, Source::Instances, Source::Nodes])
                .then(|| Watch::new(masters, Instances::default())),
            nodes: has(&[Source::Nodes]).then(|| Watch::new(masters, Nodes)),
            longest: match source {
                Source::Every(pause) => pause,
                _ => LONGEST_PAUSE,
            },
        }
    }

    async fn changed(&mut self, fetched: Instant) -> Result<(), Failure> {
        tokio::select! {
            news = next(&mut self.services) => { news?; }
            news = next(&mut self.instances) => { news?; }
            news = next(&mut self.nodes) => { news?; }
            () = sleep_until(fetched + self.longest) => return Ok(()),
        }
        // The rest of a burst comes with the next list.
        sleep_until(fetched + SHORTEST_PAUSE).await;
        if let Some(services) = &mut self.services {
            while services.take_ready().is_some() {}
        }
        if let Some(instances) = &mut self.instances {
            while instances.take_ready().is_some() {}
        }
        Ok(())
    }
}

async fn next<S: crate::watch::Subject>(watch: &mut Option<Watch<'_, S>>) -> Result<(), Failure> {
    match watch {
        Some(watch) => watch.next().await.map(|_| ()),
        None => std::future::pending().await,
    }
}

/// What has been shown.
#[derive(Default)]
struct Screen {
    drawn: usize,
    rows: BTreeMap<String, String>,
    widths: Vec<usize>,
}

impl Screen {
    fn show<T: Row>(&mut self, app: &App, items: &[T]) -> Result<(), Failure> {
        match app.format {
            Format::Table | Format::Wide if app.terminal.out_is_terminal => self.redraw(app, items),
            Format::Table | Format::Wide => self.append(app, items),
            Format::Json => {
                let value = serde_json::Value::Array(items.iter().map(Row::json).collect());
                Ok(app.terminal.print_line(&value.to_string())?)
            }
            Format::Yaml => Ok(app
                .terminal
                .print(&format!("---\n{}", output::render(items, app.format, text::now(), None)))?),
            Format::Name => app.print_list(items),
        }
    }

    fn redraw<T: Row>(&mut self, app: &App, items: &[T]) -> Result<(), Failure> {
        let width = app.terminal.width.unwrap_or(80);
        let room = app.terminal.height.unwrap_or(24).saturating_sub(2).max(2);
        let full = output::render(items, app.format, text::now(), Some(width));
        let lines: Vec<String> = full.lines().map(|line| shorten(line, width)).collect();
        let mut text = if self.drawn == 0 { String::new() } else { format!("\x1b[{}A\x1b[J", self.drawn) };
        for line in lines.iter().take(room) {
            text.push_str(line);
            text.push('\n');
        }
        self.drawn = lines.len().min(room);
        if lines.len() > room {
            text.push_str(&format!("... {} more\n", lines.len() - room));
            self.drawn += 1;
        }
        Ok(app.terminal.print(&text)?)
    }

    fn append<T: Row>(&mut self, app: &App, items: &[T]) -> Result<(), Failure> {
        let wide = app.format == Format::Wide;
        let rows = table::rows(items, wide, text::now());
        let mut text = String::new();
        if self.widths.is_empty() {
            self.widths = table::widths::<T>(&rows, wide);
            text.push_str(&table::line(&table::titles::<T>(wide), &self.widths, None));
        }
        let mut known = BTreeMap::new();
        for (item, row) in items.iter().zip(&rows) {
            let key = item.json().get("id").map_or_else(|| item.name(), ToString::to_string);
            let line = table::line(row, &self.widths, None);
            // An age alone is no change.
            let essence = essence(&line);
            if self.rows.get(&key) != Some(&essence) {
                text.push_str(&line);
            }
            known.insert(key, essence);
        }
        self.rows = known;
        Ok(app.terminal.print(&text)?)
    }
}

/// A line without its ages.
fn essence(line: &str) -> String {
    let is_age = |word: &&str| {
        let digits = word.trim_end_matches(['s', 'm', 'h', 'd']);
        word.len() == digits.len() + 1
            && !digits.is_empty()
            && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    line.split_whitespace().filter(|word| !is_age(word)).collect::<Vec<_>>().join(" ")
}
