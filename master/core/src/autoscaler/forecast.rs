//! What the demand will be when an instance that is asked for now begins to serve.
//!
//! Invariant: models learn only from what came before; one is trusted only while its forecasts of the recent hours were
//! better than "as now" and no worse than "as yesterday" were, so that it is off by itself when its error grows. Memory is bounded by
//! a week and a day of samples; one sample costs a pass over the models.
//! Deliberately not here: fitting. Seasons of an hour, a day and a week are compared as they are; nothing needs refitting,
//! and no library's models were smaller than these.

use std::{collections::VecDeque, time::Duration};

use super::quantity::float;

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;
/// How long an error counts: half as much after this.
const HALF_LIFE: Duration = Duration::from_secs(13_000);
/// Forecasts that must have come due before a model may be trusted.
const PROOF: Duration = Duration::from_secs(HOUR);
/// A model must be this much better than both of the simplest, in mean squared error; "as yesterday" better than "as now".
const GAIN: f64 = 0.95;
/// Too little costs requests, too much only instances.
const UNDER: f64 = 4.0;
/// A demand above this quantile of what was expected is a surprise: then the last movement is taken to go on.
const SURPRISE: f64 = 0.95;
/// Part of the mean demand that every error is held against, so that errors of a small demand are not large ones.
const SCALE: f64 = 0.25;

/// One way to foresee.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Model {
    AsNow,
    /// The same time of yesterday.
    Yesterday,
    /// The movement of the last samples goes on, for this part of the horizon.
    Trend {
        samples: usize,
        part: f64,
    },
    /// The mean of the last seasons, moved by this part of how far they were off now.
    Season {
        seconds: u64,
        seasons: usize,
        follow: f64,
    },
}

const fn trend(samples: usize, part: f64) -> Model {
    Model::Trend { samples, part }
}

const fn season(seconds: u64, seasons: usize, follow: f64) -> Model {
    Model::Season { seconds, seasons, follow }
}

const MODELS: [Model; 22] = [
    Model::AsNow,
    Model::Yesterday,
    trend(1, 0.5),
    trend(1, 1.0),
    trend(2, 0.5),
    trend(2, 1.0),
    trend(5, 0.5),
    trend(5, 1.0),
    trend(15, 0.5),
    season(HOUR, 1, 0.0),
    season(HOUR, 1, 0.5),
    season(HOUR, 1, 1.0),
    season(HOUR, 3, 0.0),
    season(HOUR, 3, 1.0),
    season(DAY, 1, 0.0),
    season(DAY, 1, 0.5),
    season(DAY, 1, 1.0),
    season(DAY, 3, 0.0),
    season(DAY, 3, 1.0),
    season(WEEK, 1, 0.0),
    season(WEEK, 1, 0.5),
    season(WEEK, 1, 1.0),
];
const AS_NOW: usize = 0;
const YESTERDAY: usize = 1;

impl Model {
    const fn name(self) -> &'static str {
        match self {
            Self::AsNow => "as now",
            Self::Yesterday => "as yesterday",
            Self::Trend { .. } => "trend",
            Self::Season { seconds: HOUR, .. } => "hourly season",
            Self::Season { seconds: DAY, .. } => "daily season",
            Self::Season { .. } => "weekly season",
        }
    }
}

/// How well a model has done.
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    loss: f64,
    proofs: u64,
    /// What it said of the present, when the present was the future.
    said: Option<f64>,
    surprise: Quantile,
    margin: Quantile,
    error: f64,
}

/// A quantile of a stream, followed step by step.
#[derive(Debug, Clone, Copy, Default)]
struct Quantile {
    level: f64,
    spread: f64,
}

impl Quantile {
    fn push(&mut self, value: f64, quantile: f64) {
        self.spread += (value.abs() - self.spread) * 0.005;
        let below = if value <= self.level { 1.0 } else { 0.0 };
        self.level += 0.02 * self.spread.max(1e-6) * (quantile - below);
    }
}

/// The demand of one service, and what every model makes of it.
#[derive(Debug, Clone)]
pub struct Forecaster {
    step: Duration,
    /// Samples ahead.
    ahead: usize,
    quantile: f64,
    /// The last is now.
    samples: VecDeque<f64>,
    kept: usize,
    seen: u64,
    mean: f64,
    records: [Record; MODELS.len()],
    /// Forecasts that have not come due, the oldest first.
    due: VecDeque<[Option<f64>; MODELS.len()]>,
}

/// A forecast at the horizon.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlook {
    /// The quantile that was asked for; never below 0.
    pub demand: f64,
    pub model: &'static str,
    /// Mean absolute error of the last hours, in percent of the mean demand.
    pub error_percent: f64,
    /// It was better than "as now", and no worse than "as yesterday".
    pub trusted: bool,
    /// Demand is higher than expected, and the last movement is taken to go on.
    pub surprised: bool,
}

impl Forecaster {
    /// One sample every `step`; the forecast is for `horizon` later, rounded up.
    #[must_use]
    pub fn new(step: Duration, horizon: Duration, quantile_permille: u16) -> Self {
        let step = step.max(Duration::from_secs(1));
        let ahead =
            usize::try_from(horizon.as_nanos().div_ceil(step.as_nanos())).unwrap_or(1).clamp(1, 3_600);
        let kept = samples_of(WEEK, step).max(3 * samples_of(DAY, step)) + ahead + 8;
        Self {
            step,
            ahead,
            quantile: f64::from(quantile_permille) / 1000.0,
            samples: VecDeque::new(),
            kept,
            seen: 0,
            mean: 0.0,
            records: [Record::default(); MODELS.len()],
            due: VecDeque::new(),
        }
    }

    /// The demand of now, and what it will be. A number that is none counts as the last one.
    pub fn push(&mut self, demand: f64) -> Outlook {
        let last = self.samples.back().copied().unwrap_or_default();
        let demand = if demand.is_finite() && demand >= 0.0 { demand } else { last };
        self.seen += 1;
        let day = samples_of(DAY, self.step);
        self.mean += (demand - self.mean) / float(self.seen.min(u64::try_from(day).unwrap_or(1)));
        self.judge(demand);
        self.samples.push_back(demand);
        if self.samples.len() > self.kept {
            self.samples.pop_front();
        }
        let forecasts = MODELS.map(|model| self.foresee(model));
        self.due.push_back(forecasts);
        self.outlook(demand, last, &forecasts)
    }

    /// What came due now.
    fn judge(&mut self, demand: f64) {
        if self.due.len() < self.ahead {
            return;
        }
        let Some(forecasts) = self.due.pop_front() else { return };
        let keep = 0.5f64.powf(self.step.as_secs_f64() / HALF_LIFE.as_secs_f64());
        let scale = self.mean * SCALE + 1e-9;
        for (record, forecast) in self.records.iter_mut().zip(forecasts) {
            record.said = forecast;
            let Some(forecast) = forecast else { continue };
            let error = demand - forecast;
            let loss = if error > 0.0 { UNDER * error * error } else { error * error };
            record.loss = record.loss * keep + (1.0 - keep) * loss;
            record.error = record.error * keep + (1.0 - keep) * error.abs();
            record.proofs += 1;
            let relative = error / (forecast + scale);
            record.surprise.push(relative, SURPRISE);
            record.margin.push(relative, self.quantile);
        }
    }

    fn foresee(&self, model: Model) -> Option<f64> {
        let now = self.back(0)?;
        let ahead = float(self.ahead as u64);
        let forecast = match model {
            Model::AsNow => now,
            Model::Yesterday => self.season(samples_of(DAY, self.step), 1)?.0,
            Model::Trend { samples, part } => {
                now + (now - self.back(samples)?) / float(samples as u64) * ahead * part
            }
            Model::Season { seconds, seasons, follow } => {
                let (then, around) = self.season(samples_of(seconds, self.step), seasons)?;
                then + follow * (now - around)
            }
        };
        Some(forecast.max(0.0))
    }

    /// Of the last seasons: the mean of what was at the horizon, and of what was around now.
    fn season(&self, period: usize, seasons: usize) -> Option<(f64, f64)> {
        if period <= self.ahead + 2 {
            return None;
        }
        let (mut then, mut around) = (0.0, 0.0);
        for season in 1..=seasons {
            let back = season * period;
            then += self.back(back - self.ahead)?;
            for beside in back - 2..=back + 2 {
                around += self.back(beside)? / 5.0;
            }
        }
        let seasons = float(seasons as u64);
        Some((then / seasons, around / seasons))
    }

    fn back(&self, samples: usize) -> Option<f64> {
        self.samples.len().checked_sub(samples + 1).and_then(|index| self.samples.get(index)).copied()
    }

    fn outlook(&self, demand: f64, last: f64, forecasts: &[Option<f64>; MODELS.len()]) -> Outlook {
        let best = self.best(forecasts);
        let record = &self.records[best];
        let scale = self.mean * SCALE + 1e-9;
        let mut foreseen = forecasts[best].unwrap_or(demand);
        foreseen += record.margin.level.max(0.0) * (foreseen + scale);
        let surprise = record.said.map(|said| (demand - said) / (said + scale));
        let surprised = surprise.is_some_and(|surprise| surprise > record.surprise.level.max(0.0));
        if surprised {
            foreseen = foreseen.max(demand + (demand - last) * float(self.ahead as u64));
        }
        Outlook {
            demand: foreseen.max(0.0),
            model: MODELS[best].name(),
            error_percent: 100.0 * record.error / self.mean.max(1e-9),
            trusted: best != AS_NOW,
            surprised,
        }
    }

    /// The one with the least loss, when it is better than both of the simplest; else the better of these.
    fn best(&self, forecasts: &[Option<f64>; MODELS.len()]) -> usize {
        let enough = u64::try_from(samples_of(PROOF.as_secs(), self.step)).unwrap_or(u64::MAX);
        let proved = |index: &usize| self.records[*index].proofs >= enough && forecasts[*index].is_some();
        let loss = |index: usize| self.records[index].loss;
        let best = (YESTERDAY + 1..MODELS.len())
            .filter(proved)
            .min_by(|one, other| loss(*one).total_cmp(&loss(*other)))
            .filter(|best| loss(*best) < GAIN * loss(AS_NOW))
            .filter(|best| !proved(&YESTERDAY) || loss(*best) < GAIN * loss(YESTERDAY));
        let yesterday = Some(YESTERDAY).filter(proved).filter(|best| loss(*best) < GAIN * loss(AS_NOW));
        best.or(yesterday).unwrap_or(AS_NOW)
    }
}

fn samples_of(seconds: u64, step: Duration) -> usize {
    usize::try_from(u128::from(seconds) * 1_000_000_000 / step.as_nanos().max(1)).unwrap_or(usize::MAX / 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Outlooks over a demand a minute, each with what came.
    fn replay(minutes: usize, ahead: u64, demand: impl Fn(usize) -> f64) -> Vec<(Outlook, f64, f64)> {
        let mut forecaster = Forecaster::new(MINUTE, MINUTE * u32::try_from(ahead).unwrap(), 500);
        let later = usize::try_from(ahead).unwrap();
        (0..minutes)
            .map(|minute| (forecaster.push(demand(minute)), demand(minute + later), demand(minute)))
            .collect()
    }

    /// 10, and 100 for six minutes of each hour.
    fn hourly(minute: usize) -> f64 {
        if minute % 60 < 6 { 100.0 } else { 10.0 }
    }

    #[test]
    fn a_season_is_found_and_trusted() {
        let outlooks = replay(600, 5, hourly);
        let (outlook, came, now) = outlooks[595 - 60];
        assert_eq!((outlook.model, outlook.trusted, came, now), ("hourly season", true, 100.0, 10.0));
        assert!((outlook.demand - 100.0).abs() < 1.0, "{outlook:?}");
        assert!(outlooks[..65].iter().all(|(outlook, ..)| outlook.model != "hourly season"));
    }

    #[test]
    fn what_repeats_yesterday_exactly_or_never_changes_is_left_to_the_simple() {
        let outlook = replay(3_000, 5, hourly)[2_995].0;
        assert_eq!((outlook.model, outlook.trusted), ("as yesterday", true), "{outlook:?}");
        assert!(replay(3_000, 5, |_| 7.0).iter().all(|(outlook, ..)| !outlook.trusted));
        // Steps at times without order.
        let noise = |minute: usize| float(((minute as u64 * 2_654_435_761) >> 7) % 97);
        let trusted = replay(3_000, 5, noise).iter().filter(|(outlook, ..)| outlook.trusted).count();
        assert!(trusted > 0, "a mean of seasons beats the last value of noise");
        assert!(replay(50, 5, hourly).iter().all(|(outlook, ..)| !outlook.trusted), "no proof in 50 minutes");
    }

    #[test]
    fn trust_ends_when_the_season_does() {
        let demand = |minute: usize| if minute < 1_000 { hourly(minute) } else { 50.0 };
        let outlooks = replay(2_500, 5, demand);
        assert!(outlooks[990].0.trusted);
        let season = |outlook: &Outlook| outlook.trusted && outlook.model == "hourly season";
        assert!(
            outlooks[2_400..]
                .iter()
                .all(|(outlook, ..)| !season(outlook) || (outlook.demand - 50.0).abs() < 1.0)
        );
    }

    #[test]
    fn a_surprise_is_taken_to_go_on() {
        let demand = |minute: usize| {
            let base = hourly(minute);
            if minute >= 800 { base + 20.0 * float((minute - 800) as u64) } else { base }
        };
        let outlooks = replay(806, 5, demand);
        let (outlook, came, now) = outlooks[802];
        assert!(outlook.surprised && outlook.demand > now + 60.0, "{outlook:?} {came} {now}");
        assert!(!outlooks[790].0.surprised);
    }

    #[test]
    fn a_higher_quantile_is_higher_and_what_is_no_number_changes_nothing() {
        let noisy = |minute: usize| hourly(minute) + float((minute as u64 * 7_919) % 13);
        let run = |permille: u16| {
            let mut forecaster = Forecaster::new(MINUTE, MINUTE * 5, permille);
            (0..900).map(|minute| forecaster.push(noisy(minute)).demand).sum::<f64>()
        };
        assert!(run(950) > run(700) && run(700) > run(500));
        let mut forecaster = Forecaster::new(MINUTE, MINUTE, 500);
        forecaster.push(5.0);
        for odd in [f64::NAN, f64::INFINITY, -3.0] {
            assert!((forecaster.push(odd).demand - 5.0).abs() < 1e-9);
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut forecaster = Forecaster::new(MINUTE, MINUTE * 5, 500);
        for minute in 0..12_000 {
            forecaster.push(hourly(minute));
        }
        assert!(forecaster.samples.len() < 10_200 && forecaster.due.len() <= 6);
    }
}
