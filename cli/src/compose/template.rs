//! `${VARIABLE}` in values, as Compose substitutes it.
//!
//! `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME-default}`, `${NAME:?error}`, `${NAME?error}`,
//! `${NAME:+instead}`, `${NAME+instead}`, `$$` for a dollar sign; defaults may nest.

use std::{collections::BTreeSet, iter::Peekable, str::Chars};

/// `${A:-${B:-...}}` nests no deeper.
const MAX_NESTING: usize = 8;

/// A value with its variables replaced.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Substituted {
    pub text: String,
    /// Variables that are not set and have no default; they became empty.
    pub unset: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubstituteError {
    #[error("a $ must begin a variable such as ${{NAME}}; write $$ for a dollar sign")]
    Dollar,
    #[error("${{ has no matching }}; write $$ for a dollar sign")]
    Unclosed,
    #[error("{0:?} is not a variable name: letters, digits and _, not beginning with a digit")]
    Name(String),
    #[error("after ${{{name} comes }}, :-, -, :?, ?, :+ or +, not {found:?}")]
    Operator { name: String, found: char },
    #[error("the variable {name} must be set: {message}")]
    Required { name: String, message: String },
    #[error("variables nest more than {MAX_NESTING} deep")]
    Nesting,
}

/// # Errors
/// A malformed or a required variable.
pub fn substitute(
    template: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Substituted, SubstituteError> {
    let mut reader = Reader { rest: template.chars().peekable(), lookup, unset: BTreeSet::new() };
    let text = reader.text(0, true)?;
    Ok(Substituted { text, unset: reader.unset })
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    unset: BTreeSet<String>,
}

impl Reader<'_> {
    /// Text up to the end, or up to the brace that closes a default. In a branch that is not
    /// taken (`live` false) nothing is looked up.
    fn text(&mut self, depth: usize, live: bool) -> Result<String, SubstituteError> {
        if depth > MAX_NESTING {
            return Err(SubstituteError::Nesting);
        }
        let mut text = String::new();
        loop {
            match self.rest.peek().copied() {
                None if depth > 0 => return Err(SubstituteError::Unclosed),
                None => return Ok(text),
                Some('}') if depth > 0 => return Ok(text),
                Some('$') => {
                    self.rest.next();
                    self.dollar(&mut text, depth, live)?;
                }
                Some(other) => {
                    self.rest.next();
                    text.push(other);
                }
            }
        }
    }

    fn dollar(&mut self, text: &mut String, depth: usize, live: bool) -> Result<(), SubstituteError> {
        match self.rest.peek().copied() {
            Some('$') => {
                self.rest.next();
                text.push('$');
            }
            Some('{') => {
                self.rest.next();
                text.push_str(&self.braced(depth, live)?);
            }
            Some(first) if first == '_' || first.is_ascii_alphabetic() => {
                let name = self.name();
                text.push_str(&self.value(&name, live));
            }
            _ => return Err(SubstituteError::Dollar),
        }
        Ok(())
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(next) = self.rest.next_if(|c| *c == '_' || c.is_ascii_alphanumeric()) {
            name.push(next);
        }
        name
    }

    fn value(&mut self, name: &str, live: bool) -> String {
        let value = if live { (self.lookup)(name) } else { None };
        if live && value.is_none() {
            self.unset.insert(name.to_owned());
        }
        value.unwrap_or_default()
    }

    fn braced(&mut self, depth: usize, live: bool) -> Result<String, SubstituteError> {
        let name = self.name();
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            let shown: String = self.rest.by_ref().take_while(|c| *c != '}').take(40).collect();
            return Err(SubstituteError::Name(format!("{name}{shown}")));
        }
        let empty_counts = self.rest.next_if_eq(&':').is_some();
        let operator = self.rest.next().ok_or(SubstituteError::Unclosed)?;
        let (operator, empty_counts) = match operator {
            '}' if !empty_counts => return Ok(self.value(&name, live)),
            '-' | '?' | '+' => (operator, empty_counts),
            found => return Err(SubstituteError::Operator { name, found }),
        };
        let value = (self.lookup)(&name).filter(|value| !(empty_counts && value.is_empty()));
        let takes_word = if operator == '+' { value.is_some() } else { value.is_none() };
        let word = self.text(depth + 1, live && takes_word)?;
        self.rest.next();
        match (operator, value) {
            ('?', None) if live => {
                let message = if word.is_empty() { "it is not".to_owned() } else { word };
                Err(SubstituteError::Required { name, message })
            }
            ('+', None) => Ok(String::new()),
            ('-', Some(value)) | ('?', Some(value)) => Ok(value),
            _ => Ok(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn substitutes_as_compose_does() {
        for (template, text) in [
            ("plain", "plain"),
            ("$SET", "value"),
            ("${SET}", "value"),
            ("a${SET}b$SET.c", "avalueb$SET.c".replace("$SET", "value").as_str()),
            ("$$SET", "$SET"),
            ("$$$SET", "$value"),
            ("${SET:-x}", "value"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY-x}", ""),
            ("${NONE-x}", "x"),
            ("${NONE:-}", ""),
            ("${NONE:-a b:c}", "a b:c"),
            ("${NONE:-${SET}}", "value"),
            ("${NONE:-${OTHER:-deep}}", "deep"),
            ("${SET:?must}", "value"),
            ("${EMPTY?must}", ""),
            ("${SET:+instead}", "instead"),
            ("${EMPTY:+instead}", ""),
            ("${EMPTY+instead}", "instead"),
            ("${NONE}", ""),
            ("{SET}", "{SET}"),
            ("}", "}"),
        ] {
            assert_eq!(
                substitute(template, &lookup).map(|done| done.text).as_deref(),
                Ok(text),
                "{template}"
            );
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (template, error) in [
            ("cost: 5$", "write $$ for a dollar sign"),
            ("$5", "write $$ for a dollar sign"),
            ("${SET", "no matching }"),
            ("${SET:-x", "no matching }"),
            ("${}", "not a variable name"),
            ("${1A}", "not a variable name"),
            ("${SET!x}", "not '!'"),
            ("${NONE:?give me}", "NONE must be set: give me"),
            ("${EMPTY:?}", "EMPTY must be set: it is not"),
        ] {
            let found = substitute(template, &lookup).expect_err(template).to_string();
            assert!(found.contains(error), "{template}: {found}");
        }
        let deep = "${A:-".repeat(20) + &"}".repeat(20);
        assert_eq!(substitute(&deep, &lookup), Err(SubstituteError::Nesting));
    }

    #[test]
    fn names_the_unset() {
        let done = substitute("$NONE ${OTHER} ${NONE} ${SET:+${UNSEEN}} ${SET:-$HIDDEN}", &lookup).unwrap();
        let unset: Vec<&str> = done.unset.iter().map(String::as_str).collect();
        assert_eq!(unset, ["NONE", "OTHER", "UNSEEN"]);
    }
}
