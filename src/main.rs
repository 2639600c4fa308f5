//! The `msb` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    msb::cli::main()
}
