//! Tests without a guest: fixtures, scenarios, the real binary, a real registry.
#![allow(clippy::disallowed_methods, reason = "tests read files and start programs")]

mod tidy;
