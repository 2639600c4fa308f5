//! `docs/cli.md`, made from the definitions in `args.rs`.

use std::fmt::Write as _;

use clap::{Command, CommandFactory};

use super::args::Cli;

/// Exit codes as the reference states them.
const EXIT_CODES: &str = "\
| code | meaning |
|---|---|
| 0 | done |
| 1 | an operation failed |
| 2 | `plan --detailed-exitcode`: there is something to do |
| 3 | the Sandboxfile is invalid or missing |
| 4 | waiting took too long |
| 5 | a dependency failed or is unhealthy |
| 6 | another command is changing the project |
| 7 | a confirmation is needed and nobody can be asked |
| 64 | the command line makes no sense |
| 125 | a part that runs microVMs is missing |
| *n* | `exec`: the code of the command in the guest, 128 + *n* for signal *n* |
| 130 | interrupted |
| 141 | whoever read the output went away |
";

/// The reference of every command, in Markdown.
pub fn reference() -> String {
    let mut root = Cli::command().term_width(96);
    root.build();
    let mut text = String::from(
        "# Command line\n\n\
         Made from the program's own help; `UPDATE_EXPECT=1` on the test `cli_docs` renews it.\n\n\
         Progress and messages go to standard error, data to standard output. With `--format json` \
         a listing is one JSON\ndocument whose `schema` names its contract, such as `msb.ps/1`. \
         `NO_COLOR` turns colours off.\n\n",
    );
    section(&mut text, &mut root, "msb");
    text.push_str("## Exit codes\n\n");
    text.push_str(EXIT_CODES);
    text
}

fn section(text: &mut String, command: &mut Command, path: &str) {
    let help = command.render_long_help().to_string();
    let _ = write!(text, "## {path}\n\n```text\n");
    for line in help.lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text.push_str("```\n\n");
    for child in command.get_subcommands_mut() {
        if !child.is_hide_set() {
            let name = format!("{path} {}", child.get_name());
            section(text, child, &name);
        }
    }
}
