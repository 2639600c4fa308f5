//! The `msb` program.

use std::process::ExitCode;

use msb::runtime::{jail, krun};

fn main() -> ExitCode {
    // Before anything of the command line is set up: supervisors, VMs and file servers are small.
    match std::env::args_os().nth(1) {
        Some(word) if word == "__supervise" => msb::supervisor::supervise(),
        Some(word) if word == krun::WORD => krun::run(),
        Some(word) if word == msb::files::WORD => msb::files::run(),
        Some(word) if word == jail::WORD => ExitCode::SUCCESS,
        _ => msb::cli::main(),
    }
}
