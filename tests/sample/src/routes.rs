//! What each path does: who is here, and the ways to misbehave on request.
//!
//! Invariant: every answer counts once in `requests`; a bad parameter is answered with 400 and
//! what is wrong. Waiting and burning are bounded by [`LONGEST_MS`].

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::http::{Request, Response};

const LONGEST_MS: u64 = 600_000;
const MOST_MIB: u64 = 16 * 1024;
const BYTES_PER_MIB: usize = 1024 * 1024;
const PAGE_BYTES: usize = 4096;

/// What the server does once the answer is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    Go,
    Exit(i32),
}

#[derive(Debug)]
pub struct Site {
    hostname: String,
    name: String,
    version: String,
    /// `SKEIN_*`, sorted by name.
    environment: Vec<(String, String)>,
    requests: AtomicU64,
    unhealthy: AtomicBool,
    ballast: Mutex<Vec<u8>>,
}

/// As the container calls itself: `web-1`.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

impl Site {
    pub fn from_environment() -> Self {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        let mut environment: Vec<_> =
            std::env::vars().filter(|(name, _)| name.starts_with("SKEIN_")).collect();
        environment.sort();
        Self {
            hostname: host_name(),
            name: variable("NAME"),
            version: variable("VERSION"),
            environment,
            requests: AtomicU64::new(0),
            unhealthy: AtomicBool::new(false),
            ballast: Mutex::default(),
        }
    }

    pub fn answer(&self, request: &Request) -> (Response, After) {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        self.route(request, number).unwrap_or_else(|refusal| (refusal, After::Go))
    }

    fn route(&self, request: &Request, number: u64) -> Result<(Response, After), Response> {
        let response = match request.path.as_str() {
            "/" => self.who(number),
            "/slow" => {
                thread::sleep(duration(request)?);
                self.who(number)
            }
            "/burn" => {
                burn(duration(request)?);
                self.who(number)
            }
            "/fill" => self.fill(request)?,
            "/fail" => Response::text(code(request, "status", 500, 200..=599)?, "failing as told\n"),
            "/healthz" => self.health(),
            "/health" => self.set_health(request)?,
            "/log" => log(request)?,
            "/exit" => {
                let code = code(request, "code", 1, 0..=255)?;
                return Ok((Response::text(200, "exiting as told\n"), After::Exit(i32::from(code))));
            }
            path => Response::text(404, format!("no {path} here; --help lists the paths\n")),
        };
        Ok((response, After::Go))
    }

    fn who(&self, number: u64) -> Response {
        let environment: Vec<_> = self
            .environment
            .iter()
            .map(|(name, value)| format!("{}:{}", quoted(name), quoted(value)))
            .collect();
        Response::json(
            200,
            format!(
                "{{\"name\":{},\"hostname\":{},\"version\":{},\"requests\":{number},\"env\":{{{}}}}}\n",
                quoted(&self.name),
                quoted(&self.hostname),
                quoted(&self.version),
                environment.join(",")
            ),
        )
    }

    fn health(&self) -> Response {
        if self.unhealthy.load(Ordering::Relaxed) {
            Response::text(503, "unhealthy as told\n")
        } else {
            Response::text(200, "ok\n")
        }
    }

    fn set_health(&self, request: &Request) -> Result<Response, Response> {
        let unhealthy = match request.query("set") {
            Some("fail") => true,
            Some("ok") => false,
            _ => return Err(Response::text(400, "set: allowed are ok and fail\n")),
        };
        self.unhealthy.store(unhealthy, Ordering::Relaxed);
        Ok(Response::text(200, "set\n"))
    }

    /// Holds this much memory from now on, instead of what it held before.
    fn fill(&self, request: &Request) -> Result<Response, Response> {
        let mib = request.number("mib", 0)?.min(MOST_MIB);
        let bytes = usize::try_from(mib).unwrap_or(usize::MAX).saturating_mul(BYTES_PER_MIB);
        let mut ballast = vec![0_u8; bytes];
        // Memory that was never written takes no room.
        ballast.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 1);
        *self.ballast.lock().unwrap_or_else(PoisonError::into_inner) = black_box(ballast);
        Ok(Response::text(200, format!("holding {mib} MiB\n")))
    }
}

fn duration(request: &Request) -> Result<Duration, Response> {
    Ok(Duration::from_millis(request.number("ms", 1000)?.min(LONGEST_MS)))
}

fn code(
    request: &Request,
    name: &'static str,
    default: u64,
    allowed: std::ops::RangeInclusive<u16>,
) -> Result<u16, Response> {
    let number = request.number(name, default)?;
    u16::try_from(number).ok().filter(|code| allowed.contains(code)).ok_or_else(|| {
        Response::text(400, format!("{name}: allowed are {} to {}\n", allowed.start(), allowed.end()))
    })
}

fn burn(time: Duration) {
    let start = Instant::now();
    let mut state = 1_u64;
    while start.elapsed() < time {
        for _ in 0..1000 {
            state = black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
}

fn log(request: &Request) -> Result<Response, Response> {
    let line = request.query("line").unwrap_or_default();
    match request.query("to") {
        None | Some("stdout") => println!("{line}"),
        Some("stderr") => eprintln!("{line}"),
        Some(_) => return Err(Response::text(400, "to: allowed are stdout and stderr\n")),
    }
    Ok(Response::text(200, "printed\n"))
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => json.extend(['\\', character]),
            control if control < ' ' => {
                // Writing to a String cannot fail.
                let _ = write!(json, "\\u{:04x}", u32::from(control));
            }
            other => json.push(other),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;

    fn ask(site: &Site, target: &str) -> (Response, After) {
        let text = format!("GET {target} HTTP/1.1\r\n\r\n");
        site.answer(&http::read_request(&mut text.as_bytes()).expect("valid").expect("one request"))
    }

    #[test]
    fn each_path_answers_with_its_status() {
        let site = Site::from_environment();
        for (target, status) in [
            ("/", 200),
            ("/slow?ms=0", 200),
            ("/slow?ms=soon", 400),
            ("/burn?ms=1", 200),
            ("/fill?mib=1", 200),
            ("/fail", 500),
            ("/fail?status=503", 503),
            ("/fail?status=42", 400),
            ("/healthz", 200),
            ("/health", 400),
            ("/health?set=fail", 200),
            ("/healthz", 503),
            ("/health?set=ok", 200),
            ("/healthz", 200),
            ("/log?line=x&to=nowhere", 400),
            ("/nowhere", 404),
        ] {
            assert_eq!(ask(&site, target).0.status, status, "{target}");
        }
    }

    #[test]
    fn exit_answers_first() {
        let (response, after) = ask(&Site::from_environment(), "/exit?code=3");
        assert_eq!((response.status, after), (200, After::Exit(3)));
    }

    #[test]
    fn json_strings_are_escaped() {
        assert_eq!(quoted("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    }
}
