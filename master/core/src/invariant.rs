//! Recomputes what must always hold (follows).
