//! Host and path → who takes the request.
//!
//! Invariant: of all entries that match, one with the most specific host wins (a name, then the longest `*.name`, then
//! every host), and of those the longest path. Hosts are compared without case, port and last dot.

use std::{borrow::Cow, collections::BTreeMap};

/// A pure table; `T` is whatever the request goes to.
#[derive(Debug, Clone)]
pub struct RouteTable<T> {
    names: BTreeMap<String, Paths<T>>,
    /// By what follows `*.`.
    below: BTreeMap<String, Paths<T>>,
    any: Paths<T>,
}

/// The longest first.
type Paths<T> = Vec<(String, T)>;

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self { names: BTreeMap::new(), below: BTreeMap::new(), any: Vec::new() }
    }
}

impl<T> RouteTable<T> {
    /// Of two with the same host and path the first one stays.
    pub fn insert(&mut self, host: &str, path: &str, target: T) {
        let paths = match host.strip_prefix("*.") {
            _ if host.is_empty() => &mut self.any,
            Some(name) => self.below.entry(name.to_owned()).or_default(),
            None => self.names.entry(host.to_owned()).or_default(),
        };
        if paths.iter().all(|(known, _)| known != path) {
            paths.push((path.to_owned(), target));
            paths.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.below.is_empty() && self.any.is_empty()
    }

    /// Who takes a request to this host, as the client wrote it, and path, without its query.
    #[must_use]
    pub fn find(&self, host: &str, path: &str) -> Option<&T> {
        self.hosts(&bare(host)).find_map(|paths| longest(paths, path))
    }

    /// Whoever has this host, whatever the path.
    #[must_use]
    pub fn find_host(&self, host: &str) -> Option<&T> {
        self.hosts(&bare(host)).find_map(|paths| paths.first()).map(|(_, target)| target)
    }

    /// The most specific first.
    fn hosts<'a, 'h>(&'a self, host: &'h str) -> impl Iterator<Item = &'a Paths<T>> + use<'a, 'h, T> {
        let above = host.match_indices('.').filter(|(at, _)| *at > 0).map(move |(at, _)| &host[at + 1..]);
        let below = above.filter_map(|name| self.below.get(name));
        self.names.get(host).into_iter().chain(below).chain(std::iter::once(&self.any))
    }
}

/// Whole segments.
fn longest<'a, T>(paths: &'a Paths<T>, path: &str) -> Option<&'a T> {
    let takes = |prefix: &str| {
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
    };
    paths.iter().find(|(prefix, _)| prefix == "/" || takes(prefix)).map(|(_, target)| target)
}

/// Without port and last dot, in lower case.
fn bare(host: &str) -> Cow<'_, str> {
    let host = match host.rsplit_once(':') {
        // The colons of an address in brackets are its own.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(entries: &[(&'static str, &'static str)]) -> RouteTable<(&'static str, &'static str)> {
        let mut table = RouteTable::default();
        for (host, path) in entries {
            table.insert(host, path, (*host, *path));
        }
        table
    }

    #[test]
    fn the_most_specific_host_wins_and_then_the_longest_path() {
        let table = table(&[
            ("", "/"),
            ("", "/status"),
            ("shop.example", "/"),
            ("shop.example", "/api"),
            ("shop.example", "/api/v2/"),
            ("*.example", "/"),
            ("*.shop.example", "/"),
            ("bare.example", "/only"),
        ]);
        for (host, path, expected) in [
            ("shop.example", "/", ("shop.example", "/")),
            ("SHOP.example:8080", "/x", ("shop.example", "/")),
            ("shop.example.", "/api", ("shop.example", "/api")),
            ("shop.example", "/api/", ("shop.example", "/api")),
            ("shop.example", "/apix", ("shop.example", "/")),
            ("shop.example", "/api/v2", ("shop.example", "/api")),
            ("shop.example", "/api/v2/x", ("shop.example", "/api/v2/")),
            ("shop.example", "/status", ("shop.example", "/")),
            ("a.shop.example", "/", ("*.shop.example", "/")),
            ("a.b.shop.example", "/", ("*.shop.example", "/")),
            ("blog.example", "/", ("*.example", "/")),
            ("bare.example", "/only", ("bare.example", "/only")),
            // Its own route does not take it: whoever else does.
            ("bare.example", "/", ("*.example", "/")),
            ("example", "/", ("", "/")),
            ("", "/status/x", ("", "/status")),
            ("[::1]:80", "/", ("", "/")),
            ("192.0.2.1", "*", ("", "/")),
        ] {
            assert_eq!(table.find(host, path), Some(&expected), "{host} {path}");
        }
    }

    #[test]
    fn nobody_takes_what_no_route_names() {
        let table = table(&[("shop.example", "/api"), ("*.example", "/x")]);
        for (host, path) in [("shop.example", "/"), ("other", "/api"), (".example", "/x"), ("example", "/x")]
        {
            assert_eq!(table.find(host, path), None, "{host} {path}");
        }
        assert!(RouteTable::<()>::default().is_empty() && !table.is_empty());
        assert_eq!(table.find_host("a.example"), Some(&("*.example", "/x")));
        assert_eq!(table.find_host("nobody"), None);
    }

    proptest! {
        /// The same as looking at every entry.
        #[test]
        fn it_is_what_a_look_at_every_entry_finds(
            entries in prop::collection::vec(("(\\*\\.)?[ab](\\.[ab]){0,2}|", "(/[ab]){1,3}/?|/"), 0..12),
            host in "[ab](\\.[ab]){0,3}", path in "(/[ab]){0,4}/?",
        ) {
            let mut table = RouteTable::default();
            for entry in &entries {
                table.insert(&entry.0, &entry.1, entry.clone());
            }
            let matches = |(h, p): &&(String, String)| {
                let has_host = h.is_empty()
                    || *h == host
                    || h.strip_prefix("*").is_some_and(|below| host.len() > below.len() && host.ends_with(below));
                has_host && (p == "/" || path == *p || path.starts_with(&format!("{}/", p.trim_end_matches('/'))))
            };
            let found = entries.iter().filter(matches).max_by_key(|(h, p)| (!h.starts_with('*') && !h.is_empty(), h.len(), p.len()));
            prop_assert_eq!(table.find(&host, &path).map(|(h, p)| (h.len(), p.len())), found.map(|(h, p)| (h.len(), p.len())));
        }

        #[test]
        fn any_text_is_looked_up(host in ".{0,40}", path in ".{0,40}") {
            let _ = table(&[("a", "/b"), ("*.a", "/")]).find(&host, &path);
        }
    }
}
