//! Docker through bollard. Soon.
