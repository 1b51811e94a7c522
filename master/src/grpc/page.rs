//! Pages of lists.
//!
//! A page token holds the key of the last object given out and a check sum of the filter; it is
//! opaque, and one token fits one list with one filter.
//! Pages are read from the state of their own moment (old states are not kept): an object that
//! exists throughout is given out exactly once, because keys never change and lists are in their
//! order; one that appears or goes in between may be seen or not. Each page says its revision.
//!
//! Invariant: a token is refused (INVALID_ARGUMENT) unless every bit of it is ours.

use skein_common::Violations;

const VERSION: u8 = 1;
const TOKEN_BYTES: usize = 1 + 8 + 4 + 4;
/// Page size when the caller does not say, and at most.
pub const DEFAULT_SIZE: usize = 100;
pub const MAX_SIZE: usize = 1000;

/// What a list call asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    pub size: usize,
    /// Key of the last object of the page before.
    pub after: Option<u64>,
    filter: u32,
}

/// One page.
#[derive(Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next_token: String,
}

impl PageRequest {
    /// Reads `page_size` and `page_token`. `filter` is whatever narrows the list, as text.
    pub fn decode(size: u32, token: &str, filter: &str) -> Result<Self, Violations> {
        let size = match usize::try_from(size).unwrap_or(MAX_SIZE) {
            0 => DEFAULT_SIZE,
            asked => asked.min(MAX_SIZE),
        };
        let filter = crc32c::crc32c(filter.as_bytes());
        if token.is_empty() {
            return Ok(Self { size, after: None, filter });
        }
        let (after, of) = decode_token(token).ok_or_else(|| refused("is not a token of this list"))?;
        if of != filter {
            return Err(refused("belongs to a list with another filter"));
        }
        Ok(Self { size, after: Some(after), filter })
    }

    /// The page from all items in the order of their keys, from the key after `self.after` on.
    pub fn cut<T>(&self, items: impl Iterator<Item = T>, key: impl Fn(&T) -> u64) -> Page<T> {
        let mut items: Vec<T> = items.take(self.size + 1).collect();
        let more = items.len() > self.size;
        items.truncate(self.size);
        let next_token = match items.last() {
            Some(last) if more => self.token(key(last)),
            _ => String::new(),
        };
        Page { items, next_token }
    }

    fn token(&self, last: u64) -> String {
        let mut bytes = Vec::with_capacity(TOKEN_BYTES);
        bytes.push(VERSION);
        bytes.extend(last.to_be_bytes());
        bytes.extend(self.filter.to_be_bytes());
        bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn refused(reason: &str) -> Violations {
    let mut found = Violations::default();
    found.add("page_token", format!("{reason}; begin again without one"));
    found
}

fn decode_token(token: &str) -> Option<(u64, u32)> {
    if token.len() != 2 * TOKEN_BYTES || !token.is_ascii() {
        return None;
    }
    let bytes: Vec<u8> = (0..TOKEN_BYTES)
        .map(|at| u8::from_str_radix(token.get(2 * at..2 * at + 2)?, 16).ok())
        .collect::<Option<_>>()?;
    let (content, sum) = bytes.split_at(TOKEN_BYTES - 4);
    let (version, rest) = content.split_first()?;
    let (last, filter) = rest.split_at(8);
    let intact = *version == VERSION && crc32c::crc32c(content).to_be_bytes() == sum;
    intact.then_some(())?;
    Some((u64::from_be_bytes(last.try_into().ok()?), u32::from_be_bytes(filter.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(size: u32, items: &[u64]) -> Vec<Vec<u64>> {
        let (mut pages, mut token) = (Vec::new(), String::new());
        loop {
            let request = PageRequest::decode(size, &token, "web").unwrap();
            let rest = items.iter().copied().filter(|key| request.after.is_none_or(|after| *key > after));
            let page = request.cut(rest, |key| *key);
            pages.push(page.items);
            token = page.next_token;
            if token.is_empty() {
                return pages;
            }
        }
    }

    #[test]
    fn pages_cover_the_list_once() {
        for (size, items, expected) in [
            (2, &[1, 2, 3, 4, 5][..], &[&[1, 2][..], &[3, 4], &[5]][..]),
            (2, &[1, 2], &[&[1, 2]]),
            (0, &[1, 2], &[&[1, 2]]),
            (5000, &[], &[&[]]),
        ] {
            assert_eq!(pages(size, items), expected);
        }
    }

    #[test]
    fn foreign_tokens_are_refused() {
        let request = PageRequest::decode(1, "", "web").unwrap();
        let token = request.cut([1, 2].into_iter(), |key| *key).next_token;
        assert_eq!(PageRequest::decode(1, &token, "web").unwrap().after, Some(1));
        let other_filter = PageRequest::decode(1, &token, "db");
        assert!(other_filter.unwrap_err().to_string().contains("another filter"));
        let mut flipped = token.clone().into_bytes();
        flipped[5] = if flipped[5] == b'0' { b'1' } else { b'0' };
        for text in ["x", "00", &token[2..], std::str::from_utf8(&flipped).unwrap(), &"é".repeat(17)] {
            assert!(PageRequest::decode(1, text, "web").is_err(), "{text}");
        }
    }
}
