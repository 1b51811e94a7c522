//! Images the node lacks, and when to try to pull them again.
//!
//! Invariant: at most one pull of an image is under way; a pull uses up no attempt.
//! Deliberately not here: whether an image is here: `create` finds out, so that the usual
//! start asks the engine nothing it need not.

use std::collections::{BTreeMap, BTreeSet};

use skein_common::Timestamp;

use crate::backoff::{self, Retry};

/// What is known of images in use. An image not listed has not been tried.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Images(BTreeMap<String, Image>);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Image {
    /// When last tried.
    present: bool,
    /// A pull is under way.
    pulling: bool,
    retry: Retry,
    /// Why the last pull failed; empty while none has.
    reason: String,
}

/// What has to happen before a container of this image can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: it was here when last used.
    Nothing,
    /// Not known: try.
    Try,
    /// A pull; now.
    Pull { reason: String },
    /// The pull under way, or the next one at a time.
    Wait { until: Option<Timestamp>, reason: String },
}

impl Images {
    pub(crate) fn need(&self, image: &str, now: Timestamp) -> Need {
        let Some(known) = self.0.get(image) else { return Need::Try };
        let reason = known.reason.clone();
        if known.present {
            Need::Nothing
        } else if known.pulling {
            Need::Wait { until: None, reason }
        } else if now < known.retry.not_before {
            Need::Wait { until: Some(known.retry.not_before), reason }
        } else {
            Need::Pull { reason }
        }
    }

    /// It was tried, and was not here.
    pub(crate) fn is_missing(&self, image: &str) -> bool {
        self.0.get(image).is_some_and(|known| !known.present)
    }

    fn entry(&mut self, image: &str) -> &mut Image {
        self.0.entry(image.to_owned()).or_default()
    }

    pub(crate) fn pulling(&mut self, image: &str) {
        self.entry(image).pulling = true;
    }

    /// `create` made a container of it.
    pub(crate) fn present(&mut self, image: &str) {
        let known = self.entry(image);
        *known = Image { present: true, pulling: known.pulling, ..Image::default() };
    }

    /// `create` did not find it. When that follows a pull that said it was done, the pull was
    /// worth nothing (another platform's image): wait as after a failure.
    pub(crate) fn missing(&mut self, image: &str, reason: &str, now: Timestamp) {
        let known = self.entry(image);
        let pulled_in_vain = known.present && known.retry.failures > 0;
        known.present = false;
        if pulled_in_vain {
            known.retry.fail(backoff::PULL, now);
            known.reason = reason.to_owned();
        }
    }

    /// The pull is done. Its failures are forgotten when a container could be made (`present`).
    pub(crate) fn pulled(&mut self, image: &str) {
        let known = self.entry(image);
        known.present = true;
        known.pulling = false;
        known.retry.failures = known.retry.failures.max(1);
    }

    pub(crate) fn failed(&mut self, image: &str, reason: &str, now: Timestamp) {
        let known = self.entry(image);
        known.present = false;
        known.pulling = false;
        known.retry.fail(backoff::PULL, now);
        known.reason = reason.to_owned();
    }

    /// Forgets images nobody wants, except those under way.
    pub(crate) fn keep(&mut self, wanted: &BTreeSet<&str>) {
        self.0.retain(|image, known| known.pulling || wanted.contains(image.as_str()));
    }
}
