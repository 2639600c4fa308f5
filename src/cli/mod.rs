//! Words in, words and an exit code out.
//!
//! One file per command in `commands/`. Nothing but `ui.rs` prints; every error becomes a
//! [`error::CliError`], which knows its exit code.
#![allow(
    clippy::disallowed_methods,
    reason = "the command line reads files, the environment and the clock for the pure modules"
)]

mod args;
mod attached;
mod commands;
mod detach_keys;
mod discover;
mod engine;
mod error;
mod escape;
mod filter;
mod fingerprint;
mod interactive;
mod interrupt;
mod last_words;
mod lockfile;
mod log_lines;
mod machine;
mod mounts;
mod patches;
mod progress;
mod project;
mod reference;
mod takeover;
mod terminal;
mod top;
mod ui;

use std::process::ExitCode;

use clap::Parser;

use error::Exit;
use ui::Ui;

pub use reference::reference;

/// Runs the command that the process's arguments name and returns its exit code.
pub fn main() -> ExitCode {
    #[cfg(feature = "test-support")]
    let _failpoints = fail::FailScenario::setup();
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let ui = Ui::new(&cli.global);
    let exit = match commands::run(&ui, cli) {
        Ok(exit) => exit,
        Err(error) => {
            ui.error(&error);
            error.exit
        }
    };
    ExitCode::from(exit.code())
}

/// Help and version are data; anything else is a misuse.
fn usage(error: &clap::Error) -> ExitCode {
    // A reader that has gone away is no reason to fail.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { Exit::Usage.code() } else { Exit::Ok.code() })
}
