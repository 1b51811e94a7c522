//! In memory, with injectable faults. Soon.
