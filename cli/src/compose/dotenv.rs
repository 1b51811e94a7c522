//! Files of variables: `.env` in Compose's spelling, and `env_file` as `docker stack deploy` reads it.
//!
//! The two differ: `.env` knows quotes, escapes, comments after values and `${...}`; an
//! `env_file` of a stack takes every line as it is, quotes included.

use std::collections::BTreeMap;

use super::template;

/// A line that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    pub line: usize,
    pub message: String,
}

/// The variables of a `.env` file; `outer` (the process's environment) wins in substitutions.
///
/// # Errors
/// The first line that cannot be read.
pub fn parse_dotenv(
    text: &str,
    outer: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, BadLine> {
    let mut found = BTreeMap::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.lines().enumerate();
    while let Some((position, line)) = lines.next() {
        let bad = |message: String| BadLine { line: position + 1, message };
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").map_or(line, str::trim_start);
        let Some(end) = line.find(['=', ':']) else {
            // A bare name takes the value it has in the environment.
            let name = checked_name(line).map_err(&bad)?;
            if let Some(value) = outer.get(name) {
                found.insert(name.to_owned(), value.clone());
            }
            continue;
        };
        let name = checked_name(&line[..end]).map_err(&bad)?.to_owned();
        let value = line[end + 1..].trim_start();
        let raw = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let mut body = value[1..].to_owned();
                loop {
                    if let Some(end) = closing(&body, quote) {
                        body.truncate(end);
                        break;
                    }
                    let (_, next) = lines.next().ok_or_else(|| bad(format!("{quote} is not closed")))?;
                    body.push('\n');
                    body.push_str(next);
                }
                if quote == '\'' { Raw::Literal(body) } else { Raw::Template(unescape(&body)) }
            }
            _ => Raw::Template(without_comment(value).to_owned()),
        };
        let value = match raw {
            Raw::Literal(text) => text,
            Raw::Template(text) => {
                let lookup = |name: &str| outer.get(name).or_else(|| found.get(name)).cloned();
                template::substitute(&text, &lookup).map_err(|error| bad(error.to_string()))?.text
            }
        };
        found.insert(name, value);
    }
    Ok(found)
}

enum Raw {
    Literal(String),
    Template(String),
}

fn checked_name(text: &str) -> Result<&str, String> {
    let name = text.trim_end();
    let valid = name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if valid { Ok(name) } else { Err(format!("{name:?} is not NAME=VALUE")) }
}

fn closing(body: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    body.char_indices().find_map(|(position, c)| {
        let closes = c == quote && !escaped;
        escaped = c == '\\' && !escaped && quote == '"';
        closes.then_some(position)
    })
}

fn unescape(body: &str) -> String {
    let mut text = String::new();
    let mut rest = body.chars();
    while let Some(c) = rest.next() {
        match (c, c == '\\') {
            (_, true) => match rest.next() {
                Some('n') => text.push('\n'),
                Some('r') => text.push('\r'),
                Some('t') => text.push('\t'),
                Some('$') => text.push_str("$$"),
                Some(other @ ('"' | '\\')) => text.push(other),
                Some(other) => text.extend(['\\', other]),
                None => text.push('\\'),
            },
            (c, false) => text.push(c),
        }
    }
    text
}

/// A `#` after white space begins a comment.
fn without_comment(value: &str) -> &str {
    let end = value
        .char_indices()
        .zip(std::iter::once(' ').chain(value.chars()))
        .find(|((_, c), before)| *c == '#' && before.is_whitespace())
        .map_or(value.len(), |((position, _), _)| position);
    value[..end].trim_end()
}

/// The lines of an `env_file`: name, and the value when there is a `=`.
///
/// # Errors
/// The first line that cannot be read.
pub fn parse_env_file(text: &str) -> Result<Vec<(String, Option<String>)>, BadLine> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Vec::new();
    for (position, line) in text.lines().enumerate() {
        let bad = |message: String| BadLine { line: position + 1, message };
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (line, None),
        };
        if name.is_empty() {
            return Err(bad("no variable name before =".to_owned()));
        }
        if name.contains([' ', '\t']) {
            return Err(bad(format!("the variable name {name:?} has white space in it")));
        }
        found.push((name.to_owned(), value));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotenv_in_compose_spelling() {
        let outer = BTreeMap::from([("HOME".to_owned(), "/users/ann".to_owned())]);
        let text = "# comment\n\nA=1\nexport B = two words  # not this\nC='$A literal'\nD=\"x ${A}\\n\\$y\"\n\
                    E=${HOME}/e\nF: colon\nG=\nHOME\nI=a#b\nMULTI=\"one\ntwo\"\nJ=$A$B\n";
        let found = parse_dotenv(text, &outer).unwrap();
        for (name, value) in [
            ("A", "1"),
            ("B", "two words"),
            ("C", "$A literal"),
            ("D", "x 1\n$y"),
            ("E", "/users/ann/e"),
            ("F", "colon"),
            ("G", ""),
            ("HOME", "/users/ann"),
            ("I", "a#b"),
            ("MULTI", "one\ntwo"),
            ("J", "1two words"),
        ] {
            assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}");
        }
    }

    #[test]
    fn dotenv_names_the_bad_line() {
        for (text, line) in [("A=1\n1B=2\n", 2), ("A=\"open\n", 1), ("X=${\n", 1), ("a b=1", 1)] {
            assert_eq!(parse_dotenv(text, &BTreeMap::new()).expect_err(text).line, line, "{text}");
        }
    }

    #[test]
    fn env_file_keeps_lines_as_they_are() {
        let found = parse_env_file("\u{feff}A=\"quoted\" # kept\n  B=x=y\n#no\nC\n").unwrap();
        let expected = [("A", Some("\"quoted\" # kept")), ("B", Some("x=y")), ("C", None)];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        assert_eq!(found, expected);
        assert_eq!(parse_env_file("A=1\n=x").unwrap_err().line, 2);
        assert_eq!(parse_env_file("A B=1").unwrap_err().line, 1);
    }
}
