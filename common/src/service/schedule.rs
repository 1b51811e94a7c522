//! When a job runs by itself: a cron line in a time zone, and what becomes of times that pass.
//!
//! The line has five fields (minute, hour, day of month, month, day of week), or six with seconds in front;
//! names, lists, ranges, steps, `L`, `W`, `#` and `@daily` and the like are understood. Days are either-or
//! when both day fields are restricted, as in Vixie cron. Across a change of daylight saving time a line
//! of fixed times runs once: one that is skipped at the first moment after the gap, one that comes twice at
//! its first occurrence. A line with `*` or a step in its minutes or hours follows the clock on the wall.
//!
//! Invariant: pure. The zones are compiled in, so the same line gives the same times on every machine that
//! runs the same version; only the leader evaluates it, and its result travels in the command.
//! Deliberately not here: which run is begun (`master/core`).

mod calendar;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::calendar::{Calendar, NoCalendar};
use crate::{Timestamp, Violations};

/// Completed runs that are kept of a schedule that does not say (Kubernetes' default).
pub const DEFAULT_KEEP_COMPLETED: u32 = 3;
/// Failed ones.
pub const DEFAULT_KEEP_FAILED: u32 = 1;
/// How late a run may begin when missed ones are skipped: longer than masters take to elect a leader.
pub const DEFAULT_TOLERANCE: Duration = Duration::from_secs(60);
/// Longest name of a scheduled service: its runs are called `<name>-<time>`.
pub const MAX_SCHEDULED_NAME: usize = 46;
const MAX_KEPT: u32 = 1_000;
/// Longer lines are no lines.
const MAX_LINE: usize = 256;

/// When a job is run, and what becomes of its runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// `30 2 * * mon-fri`, `*/10 * * * * *`, `@daily`.
    pub cron: String,
    /// IANA name; empty = UTC.
    #[serde(default)]
    pub time_zone: String,
    #[serde(default)]
    pub concurrency: Concurrency,
    #[serde(default)]
    pub missed: MissedRuns,
    /// A run begins at most this late; later it is not begun at all. `None` = however late, or
    /// [`DEFAULT_TOLERANCE`] when missed runs are skipped.
    #[serde(default)]
    pub starting_deadline: Option<Duration>,
    /// No run is begun; times that pass meanwhile are not made up for.
    #[serde(default)]
    pub suspend: bool,
    /// Completed runs that are kept, with their logs.
    pub keep_completed: u32,
    pub keep_failed: u32,
}

/// What becomes of a run whose time comes while an earlier one is still under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Concurrency {
    /// Both run.
    #[default]
    Allow,
    /// It is skipped.
    Forbid,
    /// The earlier one is deleted.
    Replace,
}

/// What becomes of times that passed while there was no leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum MissedRuns {
    /// The latest of them is run, however many they were.
    #[default]
    RunOnce,
    /// None of them is run.
    Skip,
}

impl Schedule {
    /// The line in UTC, with every default.
    #[must_use]
    pub fn new(cron: impl Into<String>) -> Self {
        Self {
            cron: cron.into(),
            time_zone: String::new(),
            concurrency: Concurrency::default(),
            missed: MissedRuns::default(),
            starting_deadline: None,
            suspend: false,
            keep_completed: DEFAULT_KEEP_COMPLETED,
            keep_failed: DEFAULT_KEEP_FAILED,
        }
    }

    /// How late a run may begin; `None` = however late.
    #[must_use]
    pub fn tolerance(&self) -> Option<Duration> {
        match self.missed {
            MissedRuns::RunOnce => self.starting_deadline,
            MissedRuns::Skip => Some(self.starting_deadline.unwrap_or(DEFAULT_TOLERANCE)),
        }
    }

    /// Whether both come at the same times.
    #[must_use]
    pub fn keeps_time_of(&self, other: &Self) -> bool {
        (&self.cron, &self.time_zone, self.suspend) == (&other.cron, &other.time_zone, other.suspend)
    }

    /// What is wrong whatever the line says: the same in every version, so that it may be asked while a
    /// command is applied.
    pub(super) fn check_form(&self, found: &mut Violations) {
        for (name, kept) in [("keep_completed", self.keep_completed), ("keep_failed", self.keep_failed)] {
            if kept > MAX_KEPT {
                found.add(format!("spec.schedule.{name}"), format!("{kept} is more than {MAX_KEPT}"));
            }
        }
        if self.cron.len() > MAX_LINE || self.cron.trim().is_empty() {
            found.add("spec.schedule.cron", "a cron line such as \"30 2 * * *\" is required");
        }
        if self.starting_deadline == Some(Duration::ZERO) {
            found.add("spec.schedule.starting_deadline", "0 would let no run begin");
        }
    }

    /// What is wrong with the line and the zone. Only where a spec comes in: what a line may say, and which
    /// zones there are, differs between versions, so no master may decide by it what a command does.
    pub fn check_times(&self, found: &mut Violations) {
        if let Err(error) = Calendar::of(self) {
            found.add(error.field(), error.to_string());
        }
    }

    /// Name of the run of this time; one of a whole minute has no seconds.
    #[must_use]
    pub fn run_name(service: &str, at: Timestamp) -> String {
        // 2026-11-23T21:15:00.000Z
        let text = at.to_string();
        let digits: String = text.chars().filter(char::is_ascii_digit).take(14).collect();
        let (day, time) = digits.split_at(digits.len().min(8));
        let time = time.strip_suffix("00").unwrap_or(time);
        format!("{service}-{day}t{time}")
    }
}
