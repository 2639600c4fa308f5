//! The `msb` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything of the command line is set up: a supervisor is small.
    if std::env::args_os().nth(1).is_some_and(|word| word == "__supervise") {
        return msb::supervisor::supervise();
    }
    msb::cli::main()
}
