//! What an unquoted scalar means, as the YAML library of Docker's CLI (yaml.v3) reads it.
//!
//! Invariant: a value that Docker would print differently from how it is written (`0440` is 288,
//! `1.10` is 1.1) is recognisable, so that a reader can warn instead of changing it silently.

use super::yaml::Scalar;

#[derive(Debug, Clone, PartialEq)]
pub enum Meaning {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text,
}

impl Scalar {
    /// Nothing was written, or `null` or `~`.
    pub fn is_null(&self) -> bool {
        self.meaning() == Meaning::Null
    }

    pub fn meaning(&self) -> Meaning {
        if !self.plain {
            return Meaning::Text;
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => Meaning::Null,
            "true" | "True" | "TRUE" => Meaning::Bool(true),
            "false" | "False" | "FALSE" => Meaning::Bool(false),
            ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Meaning::Float(f64::INFINITY),
            "-.inf" | "-.Inf" | "-.INF" => Meaning::Float(f64::NEG_INFINITY),
            ".nan" | ".NaN" | ".NAN" => Meaning::Float(f64::NAN),
            text => number(text),
        }
    }

    /// The text Docker makes of it where text is expected.
    pub fn as_docker_prints(&self) -> String {
        match self.meaning() {
            Meaning::Null | Meaning::Text => self.text.clone(),
            Meaning::Bool(value) => value.to_string(),
            Meaning::Integer(value) => value.to_string(),
            Meaning::Float(value) => print_float(value),
        }
    }
}

fn number(text: &str) -> Meaning {
    let starts_like_one = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    if !starts_like_one {
        return Meaning::Text;
    }
    let bare = text.replace('_', "");
    if let Some(value) = integer(&bare) {
        return Meaning::Integer(value);
    }
    if is_decimal_float(&bare)
        && let Ok(value) = bare.parse::<f64>()
        && value.is_finite()
    {
        return Meaning::Float(value);
    }
    Meaning::Text
}

/// Go's `strconv.ParseInt(text, 0, 64)`, and `ParseUint` beyond it: a leading zero means octal.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
        [b'0', b'o' | b'O', ..] => (&digits[2..], 8),
        [b'0', b'b' | b'B', ..] => (&digits[2..], 2),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value = i128::from_str_radix(digits, radix).ok()?;
    let value = if negative { -value } else { value };
    (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&value).then_some(value)
}

/// yaml.v3: `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_decimal_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let mantissa_fits = match mantissa.split_once('.') {
        Some(("", fraction)) => digits(fraction),
        Some((whole, fraction)) => digits(whole) && (fraction.is_empty() || digits(fraction)),
        None => digits(mantissa),
    };
    mantissa_fits && exponent.is_none_or(|part| digits(part.strip_prefix(['-', '+']).unwrap_or(part)))
}

/// Go's `%v` of a float64: shortest digits, an exponent below 1e-4 and from 1e21.
fn print_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let size = value.abs();
    if size == 0.0 || (1e-4..1e21).contains(&size) {
        return value.to_string();
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Scalar {
        Scalar { text: text.to_owned(), plain: true }
    }

    #[test]
    fn reads_what_docker_reads() {
        for (text, meaning) in [
            ("", Meaning::Null),
            ("~", Meaning::Null),
            ("yes", Meaning::Text),
            ("on", Meaning::Text),
            ("true", Meaning::Bool(true)),
            ("0440", Meaning::Integer(288)),
            ("0o440", Meaning::Integer(288)),
            ("0x1F", Meaning::Integer(31)),
            ("1_000", Meaning::Integer(1000)),
            ("-7", Meaning::Integer(-7)),
            ("089", Meaning::Float(89.0)),
            ("1.10", Meaning::Float(1.1)),
            ("1e3", Meaning::Float(1000.0)),
            (".5", Meaning::Float(0.5)),
            ("22:22", Meaning::Text),
            ("1.2.3", Meaning::Text),
            ("+", Meaning::Text),
            ("-", Meaning::Text),
            (".", Meaning::Text),
            ("0x", Meaning::Text),
            ("18446744073709551615", Meaning::Integer(18_446_744_073_709_551_615)),
        ] {
            assert_eq!(plain(text).meaning(), meaning, "{text}");
        }
        let quoted = Scalar { text: "0440".to_owned(), plain: false };
        assert_eq!(quoted.meaning(), Meaning::Text);
    }

    #[test]
    fn prints_as_go_does() {
        for (text, printed) in [
            ("1.10", "1.1"),
            ("1e3", "1000"),
            ("1e21", "1e+21"),
            ("0.00001", "1e-05"),
            ("2.0", "2"),
            ("0440", "288"),
            ("TRUE", "true"),
            ("v1", "v1"),
        ] {
            assert_eq!(plain(text).as_docker_prints(), printed, "{text}");
        }
    }
}
