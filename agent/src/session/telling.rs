//! What of the node's news a leader has been told, and what is to be told next.
//!
//! Invariant: what is told is the difference between two states of the node, so nothing can be
//! lost or queued without bound. An instance that is not held any more is Gone.
//! Deliberately not here: when to send (`stream`).

use imbl::{OrdMap, ordmap::DiffItem};
use skein_common::{
    InstanceId,
    instance::{InstanceReport, News},
};

/// Reports in one message: some 200 bytes each.
const MAX_REPORTS: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Told(OrdMap<InstanceId, News>);

impl Told {
    /// The Hello tells all of it.
    pub(super) fn everything(news: &OrdMap<InstanceId, News>) -> (Self, Vec<InstanceReport>) {
        let reports = news.iter().map(|(instance, news)| report(*instance, news.clone()));
        (Self(news.clone()), reports.collect())
    }

    /// What is new, as much as one message takes; and whether there is more.
    pub(super) fn next(&mut self, news: &OrdMap<InstanceId, News>) -> (Vec<InstanceReport>, bool) {
        let mut reports = Vec::new();
        let mut forgotten = Vec::new();
        let mut is_whole = true;
        for item in self.0.diff(news) {
            if reports.len() >= MAX_REPORTS {
                is_whole = false;
                break;
            }
            match item {
                DiffItem::Add(instance, news) | DiffItem::Update { new: (instance, news), .. } => {
                    reports.push(report(*instance, news.clone()));
                }
                DiffItem::Remove(instance, News::Gone) => forgotten.push(*instance),
                DiffItem::Remove(instance, News::Observed(_)) => {
                    forgotten.push(*instance);
                    reports.push(report(*instance, News::Gone));
                }
            }
        }
        if is_whole {
            self.0 = news.clone();
            return (reports, false);
        }
        for instance in forgotten {
            self.0.remove(&instance);
        }
        for told in reports.iter().filter(|told| news.contains_key(&told.instance)) {
            self.0.insert(told.instance, told.news.clone());
        }
        (reports, true)
    }
}

fn report(instance: InstanceId, news: News) -> InstanceReport {
    InstanceReport { instance, news }
}

#[cfg(test)]
mod tests {
    use skein_common::{
        Timestamp,
        instance::{Observed, Phase, Progress},
    };

    use super::*;

    fn id(number: u64) -> InstanceId {
        InstanceId::from_random(number)
    }

    fn at(phase: Phase) -> News {
        News::Observed(Observed::of(Progress { attempt: 1, phase }, Timestamp::default()))
    }

    #[test]
    fn the_difference_is_told_once() {
        let before: OrdMap<_, _> =
            [(id(1), at(Phase::Creating)), (id(2), at(Phase::Ready)), (id(3), News::Gone)]
                .into_iter()
                .collect();
        let (mut told, hello) = Told::everything(&before);
        assert_eq!(hello.len(), 3);
        let now: OrdMap<_, _> = [(id(1), at(Phase::Ready)), (id(4), at(Phase::Ready))].into_iter().collect();
        let (reports, more) = told.next(&now);
        let expected =
            [report(id(1), at(Phase::Ready)), report(id(2), News::Gone), report(id(4), at(Phase::Ready))];
        assert_eq!(reports, expected, "what was told as gone is not told again");
        assert!(!more);
        assert_eq!(told.next(&now), (Vec::new(), false));
    }

    #[test]
    fn much_news_comes_in_several_messages() {
        let before: OrdMap<_, _> = (0..1500).map(|n| (id(n * 2 + 1), at(Phase::Ready))).collect();
        let now: OrdMap<_, _> = (0..1500).map(|n| (id(n * 2 + 2), at(Phase::Ready))).collect();
        let (mut told, _) = Told::everything(&before);
        let mut gone = 0;
        let mut new = 0;
        loop {
            let (reports, more) = told.next(&now);
            assert!(reports.len() <= MAX_REPORTS);
            gone += reports.iter().filter(|report| report.news == News::Gone).count();
            new += reports.iter().filter(|report| report.news != News::Gone).count();
            if !more {
                break;
            }
        }
        assert_eq!((gone, new), (1500, 1500));
    }
}
