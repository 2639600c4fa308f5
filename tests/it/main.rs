//! Tests without a guest: fixtures, scenarios, the real binary, a real registry.
#![allow(clippy::disallowed_methods, reason = "tests read files and start programs")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a failed test is what a panic is for"
)]

mod agent;
mod cli_abort;
mod cli_archives;
mod cli_crash;
mod cli_directories;
mod cli_docs;
mod cli_faults;
mod cli_images;
mod cli_life;
mod cli_lock;
mod cli_mounts;
mod cli_noop;
mod cli_patches;
mod cli_registry;
mod cli_session;
mod cli_terminal;
mod cli_top;
mod cli_up;
mod cli_volumes;
mod cli_watching;
mod cli_words;
mod client;
mod client_exec;
mod corpus;
mod disk_patches;
mod disks;
mod environment;
mod erofs;
mod files;
#[allow(dead_code, reason = "its arguments are not tried")]
#[path = "../../examples/library/main.rs"]
mod library_example;
mod lying_registry;
mod manifest;
mod registry;
mod runtime;
mod scenarios;
mod store;
mod supervisor;
mod support;
mod terminal;
mod tidy;
