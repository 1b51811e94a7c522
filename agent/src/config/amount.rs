//! Amounts as people write them: `512MiB`, `0.5`.
//!
//! Invariant: exact; what is not understood or too large is refused with an example.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de::Error as _};

/// Memory. Units are powers of 1024, as Docker reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) u64);

/// CPU in thousandths of a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cores(pub(super) u64);

const UNITS: [(&str, u32); 5] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("B", 0)];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => Some(0),
            "k" | "kb" | "kib" => Some(10),
            "m" | "mb" | "mib" => Some(20),
            "g" | "gb" | "gib" => Some(30),
            "t" | "tb" | "tib" => Some(40),
            _ => None,
        };
        let bytes = number.parse::<u64>().ok().zip(shift).and_then(|(n, shift)| n.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| "expected an amount such as 512MiB or 2GiB".to_owned())
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS[..4].iter().rev().find(|(_, shift)| self.0 >> shift > 0).unwrap_or(&UNITS[4]);
        write!(f, "{}{}", self.0 >> unit.1, unit.0)
    }
}

impl FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected cores such as 0.5 or 2, to a thousandth".to_owned();
        let (whole, rest) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
        let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(whole) || !is_digits(rest) || rest.len() > 3 {
            return Err(wrong());
        }
        let millis = format!("{rest:0<3}").parse::<u64>().map_err(|_| wrong())?;
        let cores = whole.parse::<u64>().map_err(|_| wrong())?;
        cores.checked_mul(1000).and_then(|cores| cores.checked_add(millis)).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("512", Some(512)),
            ("512MiB", Some(512 << 20)),
            ("2 gib", Some(2 << 30)),
            ("1m", Some(1 << 20)),
            ("", None),
            ("-1", None),
            ("1.5GiB", None),
            ("99999999TiB", None),
            ("5 apples", None),
        ] {
            assert_eq!(text.parse::<Bytes>().ok().map(|bytes| bytes.0), bytes, "{text:?}");
        }
        for (text, millis) in [
            ("2", Some(2000)),
            ("0.5", Some(500)),
            ("0.125", Some(125)),
            ("1.", None),
            (".5", None),
            ("0.1234", None),
            ("-1", None),
            ("NaN", None),
        ] {
            assert_eq!(text.parse::<Cores>().ok().map(|cores| cores.0), millis, "{text:?}");
        }
        assert_eq!(Bytes(3 << 30).to_string(), "3GiB");
        assert_eq!(Bytes(17).to_string(), "17B");
        assert_eq!(Cores(2500).to_string(), "2.500");
    }
}
