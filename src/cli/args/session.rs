//! Commands in sandboxes, and what they write.

use std::path::PathBuf;

use clap::Args;

use crate::spec::Name;

use super::Format;

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Only these sandboxes
    #[arg(value_name = "SANDBOX")]
    pub(crate) names: Vec<Name>,
    /// Sandboxfile to read; `-` is standard input; repeat to merge, later files win
    // Same id as the global flag, without its short form: `-f` follows, as everywhere else.
    #[arg(long = "file", id = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Go on as more is written
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only lines since this time (RFC 3339) or for this long (`10m`)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only the last N lines of each sandbox
    #[arg(long, value_name = "N")]
    pub(crate) tail: Option<usize>,
    /// Show when each line was written
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Leave out the sandbox names before lines
    #[arg(long)]
    pub(crate) no_log_prefix: bool,
    /// Pass control characters on to the terminal
    #[arg(long)]
    pub(crate) raw: bool,
    /// Output format; JSON is one object a line
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Which sandbox
    #[arg(value_name = "SANDBOX")]
    pub(crate) name: Name,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, num_args = 1..)]
    #[arg(allow_hyphen_values = true)]
    pub(crate) argv: Vec<String>,
    /// No terminal, even on one
    #[arg(short = 'T', long)]
    pub(crate) no_tty: bool,
    /// Run as this user (`user[:group]`)
    #[arg(short, long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Run in this directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Set a variable; `NAME` alone passes this environment's value
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
}
