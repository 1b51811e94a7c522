//! What the sample is told by its flags and its environment. A flag wins over the environment.
//!
//! Invariant: an unknown flag or an unreadable value is an error that names it and what is
//! allowed; nothing is guessed.

use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

pub const USAGE: &str = "\
skein-sample: a web server that shows who it is and misbehaves on request

flag               environment           meaning
--healthcheck                            ask /healthz of the server on PORT once; exit 0 if healthy
--port N           PORT                  listen on N (8080); 0 lets the system choose
--udp-port N       UDP_PORT              also send datagrams to N back, with who answers
--ignore-term      SAMPLE_IGNORE_TERM    ignore SIGTERM (1, true, 0, false)
--start-after-ms N SAMPLE_START_AFTER_MS listen only after N milliseconds
--exit-after-ms N  SAMPLE_EXIT_AFTER_MS  exit by itself N milliseconds after the start
--exit-code N      SAMPLE_EXIT_CODE      with this code (1)
                   NAME, VERSION, SKEIN_*  shown by /

/                    who answers, as JSON       /burn?ms=N       keep a core busy
/slow?ms=N           answer late                /fill?mib=N      keep N MiB of memory
/fail?status=N       answer with this status    /exit?code=N     answer, then exit
/healthz             200 or 503                 /health?set=ok|fail  switch /healthz
/log?line=TEXT&to=stdout|stderr   print a line

get URL   resolve NAME [a|srv]   ask HOST:PORT TEXT   (UDP)   as a client, by name";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Serve,
    Healthcheck,
    Help,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    pub mode: Mode,
    pub port: u16,
    pub udp_port: Option<u16>,
    pub ignore_term: bool,
    pub start_after: Option<Duration>,
    pub exit_after: Option<Duration>,
    pub exit_code: u8,
}

#[derive(Debug, PartialEq, Eq)]
pub enum InvalidConfig {
    UnknownFlag { flag: String },
    MissingValue { flag: String },
    Value { key: String, value: String, allowed: &'static str },
}

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownFlag { flag } => write!(f, "unknown flag {flag}; allowed:\n{USAGE}"),
            Self::MissingValue { flag } => write!(f, "{flag} needs a value"),
            Self::Value { key, value, allowed } => write!(f, "{key}: {value:?} is not {allowed}"),
        }
    }
}

impl Error for InvalidConfig {}

impl Config {
    /// `arguments` without the program's name; `environment` looks one variable up.
    pub fn load(
        arguments: impl IntoIterator<Item = String>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, InvalidConfig> {
        let mut config = Self::from_environment(environment)?;
        let mut arguments = arguments.into_iter();
        while let Some(flag) = arguments.next() {
            config.take_flag(&flag, || arguments.next())?;
        }
        Ok(config)
    }

    fn from_environment(environment: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidConfig> {
        let millis = |name: &str| match environment(name) {
            Some(value) => parse_millis(name, value).map(Some),
            None => Ok(None),
        };
        Ok(Self {
            mode: Mode::Serve,
            port: environment("PORT").map_or(Ok(8080), |value| parse_port("PORT", value))?,
            udp_port: environment("UDP_PORT").map(|value| parse_port("UDP_PORT", value)).transpose()?,
            ignore_term: environment("SAMPLE_IGNORE_TERM")
                .map_or(Ok(false), |value| parse_bool("SAMPLE_IGNORE_TERM", value))?,
            start_after: millis("SAMPLE_START_AFTER_MS")?,
            exit_after: millis("SAMPLE_EXIT_AFTER_MS")?,
            exit_code: environment("SAMPLE_EXIT_CODE")
                .map_or(Ok(1), |value| parse_code("SAMPLE_EXIT_CODE", value))?,
        })
    }

    fn take_flag(&mut self, flag: &str, next: impl FnOnce() -> Option<String>) -> Result<(), InvalidConfig> {
        let value = || next().ok_or_else(|| InvalidConfig::MissingValue { flag: flag.to_owned() });
        match flag {
            "--healthcheck" => self.mode = Mode::Healthcheck,
            "--help" | "-h" => self.mode = Mode::Help,
            "--ignore-term" => self.ignore_term = true,
            "--port" => self.port = parse_port(flag, value()?)?,
            "--start-after-ms" => self.start_after = Some(parse_millis(flag, value()?)?),
            "--udp-port" => self.udp_port = Some(parse_port(flag, value()?)?),
            "--exit-after-ms" => self.exit_after = Some(parse_millis(flag, value()?)?),
            "--exit-code" => self.exit_code = parse_code(flag, value()?)?,
            _ => return Err(InvalidConfig::UnknownFlag { flag: flag.to_owned() }),
        }
        Ok(())
    }
}

fn parse_port(key: &str, value: String) -> Result<u16, InvalidConfig> {
    parse(key, value, "a port from 0 to 65535")
}

fn parse_code(key: &str, value: String) -> Result<u8, InvalidConfig> {
    parse(key, value, "an exit code from 0 to 255")
}

fn parse_millis(key: &str, value: String) -> Result<Duration, InvalidConfig> {
    parse(key, value, "a number of milliseconds").map(Duration::from_millis)
}

fn parse_bool(key: &str, value: String) -> Result<bool, InvalidConfig> {
    match value.as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" | "" => Ok(false),
        _ => Err(InvalidConfig::Value { key: key.to_owned(), value, allowed: "1, true, 0 or false" }),
    }
}

fn parse<T: FromStr>(key: &str, value: String, allowed: &'static str) -> Result<T, InvalidConfig> {
    value.parse().map_err(|_| InvalidConfig::Value { key: key.to_owned(), value, allowed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Config, InvalidConfig> {
        Config::load(arguments.iter().map(ToString::to_string), |name| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_flag_wins_over_the_environment() {
        let config = load(
            &["--exit-code", "7", "--ignore-term"],
            &[("SAMPLE_EXIT_CODE", "3"), ("PORT", "81"), ("UDP_PORT", "53")],
        );
        let expected = Config {
            mode: Mode::Serve,
            port: 81,
            udp_port: Some(53),
            ignore_term: true,
            start_after: None,
            exit_after: None,
            exit_code: 7,
        };
        assert_eq!(config, Ok(expected));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (arguments, environment, named) in [
            (&["--frobnicate"][..], &[][..], "--frobnicate"),
            (&["--exit-after-ms"], &[], "--exit-after-ms"),
            (&["--exit-code", "256"], &[], "--exit-code"),
            (&[], &[("PORT", "http")], "PORT"),
            (&[], &[("SAMPLE_IGNORE_TERM", "maybe")], "SAMPLE_IGNORE_TERM"),
        ] {
            let error = load(arguments, environment).expect_err("must be refused").to_string();
            assert!(error.contains(named), "{error:?} does not name {named}");
        }
    }
}
