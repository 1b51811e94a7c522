//! Versions of kernels, engines and drivers: `5.10`, `v20.10.24`, `1.3.0-rc1`.
//!
//! Invariant: missing numbers count as zero, so `1.2` equals `1.2.0`; a pre-release comes before
//! its release. Deliberately not here: semver's build metadata rules (what follows `+` is ignored).

use std::{cmp::Ordering, fmt, str::FromStr};

/// A version; compares by number, then pre-release.
#[derive(Debug, Clone)]
pub struct Version {
    numbers: Vec<u64>,
    /// What follows `-`; empty for a release.
    pre: String,
    text: String,
}

/// All bounds must hold: `>= 1.2, < 2`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VersionRange(Vec<(Bound, Version)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Bound {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Longer signs first, so that `>` does not hide `>=`.
const SIGNS: [(&str, Bound); 7] = [
    ("==", Bound::Equal),
    ("!=", Bound::NotEqual),
    ("<=", Bound::LessOrEqual),
    (">=", Bound::GreaterOrEqual),
    ("<", Bound::Less),
    (">", Bound::Greater),
    ("=", Bound::Equal),
];

impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.trim();
        let bare = text.strip_prefix('v').unwrap_or(text);
        let bare = bare.split('+').next().unwrap_or(bare);
        let (numbers, pre) = bare.split_once('-').unwrap_or((bare, ""));
        let numbers: Result<Vec<u64>, _> = numbers.split('.').map(str::parse).collect();
        let mut numbers = numbers.map_err(|_| ())?;
        while numbers.last() == Some(&0) {
            numbers.pop();
        }
        Ok(Self { numbers, pre: pre.to_owned(), text: text.to_owned() })
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        // Trailing zeros are gone, so the longer of equal beginnings is the greater.
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => self.pre.cmp(&other.pre),
        })
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl std::hash::Hash for Version {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (&self.numbers, &self.pre).hash(state);
    }
}

impl VersionRange {
    #[must_use]
    pub fn contains(&self, version: &Version) -> bool {
        self.0.iter().all(|(bound, limit)| {
            let order = version.cmp(limit);
            match bound {
                Bound::Equal => order.is_eq(),
                Bound::NotEqual => order.is_ne(),
                Bound::Less => order.is_lt(),
                Bound::LessOrEqual => order.is_le(),
                Bound::Greater => order.is_gt(),
                Bound::GreaterOrEqual => order.is_ge(),
            }
        })
    }
}

impl FromStr for VersionRange {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let bounds = text.split(',').map(|part| {
            let part = part.trim();
            let found = SIGNS.iter().find_map(|(sign, bound)| Some((*bound, part.strip_prefix(sign)?)));
            let (bound, version) = found.unwrap_or((Bound::Equal, part));
            Ok((bound, version.parse()?))
        });
        bounds.collect::<Result<_, ()>>().map(Self)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (bound, version)) in self.0.iter().enumerate() {
            let sign = match bound {
                Bound::Equal => "==",
                Bound::NotEqual => "!=",
                Bound::Less => "<",
                Bound::LessOrEqual => "<=",
                Bound::Greater => ">",
                Bound::GreaterOrEqual => ">=",
            };
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}{sign} {}", version.text)?;
        }
        Ok(())
    }
}
