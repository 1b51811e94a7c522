//! The user's hand: the `skein` command.
//!
//! Invariant: a client only; it knows the API and the common vocabulary, never masters or agents.

pub mod compose;
