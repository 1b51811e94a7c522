//! `skein events`: what happened, and what happens.

use skein_proto::v1::Event;

use crate::{
    app::App,
    failure::Failure,
    output::{Format, Row, table, text},
    watch::{Events, News, Watch},
};

/// Show what happened in the cluster, the newest last
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  skein events                          the last 50
  skein events -w                       and go on with what happens from now on
  skein events --subject shop_web       about a service and its instances
  skein events -n 1000 -o json")]
pub struct Args {
    /// Go on with what happens from now on
    #[arg(long, short)]
    pub watch: bool,
    /// Only about this service (with its instances), instance or node, by name or id
    #[arg(long, short, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub subject: String,
    /// How many of those that happened
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 50)]
    pub tail: usize,
}

/// # Errors
/// Whatever the command ends with.
pub async fn run(app: &App, args: Args) -> Result<(), Failure> {
    if !args.watch {
        return app.print_list(&app.api.events(&args.subject, args.tail).await?);
    }
    let mut watch = Watch::new(&app.api.masters, Events { subject: args.subject.clone() });
    // The watch stands before the list is asked for, so that nothing happens between the two.
    let mut last = 0;
    let mut printer = Printer::new(app);
    loop {
        let event = match watch.next().await? {
            News::All(_) => {
                for event in app.api.events(&args.subject, args.tail).await? {
                    if event.sequence > last {
                        last = event.sequence;
                        printer.show(event)?;
                    }
                }
                continue;
            }
            News::Changed(event) | News::Gone(event) => event,
        };
        if event.sequence > last {
            last = event.sequence;
            printer.show(event)?;
        }
    }
}

/// Rows one by one, columns as wide as the widest so far.
struct Printer<'a> {
    app: &'a App,
    widths: Vec<usize>,
}

impl<'a> Printer<'a> {
    const fn new(app: &'a App) -> Self {
        Self { app, widths: Vec::new() }
    }

    fn show(&mut self, event: Event) -> Result<(), Failure> {
        let wide = self.app.format == Format::Wide;
        let line = match self.app.format {
            Format::Json => event.json().to_string() + "\n",
            Format::Yaml => format!("---\n{}", crate::output::yaml::render(&event.json())),
            Format::Name => event.name() + "\n",
            Format::Table | Format::Wide => {
                let rows = table::rows(&[event], wide, text::now());
                let widths = table::widths::<Event>(&rows, wide);
                self.widths.resize(widths.len(), 0);
                for (known, width) in self.widths.iter_mut().zip(widths) {
                    *known = width.max(*known);
                }
                rows.iter().map(|row| table::line(row, &self.widths, None)).collect()
            }
        };
        Ok(self.app.terminal.print(&line)?)
    }
}
