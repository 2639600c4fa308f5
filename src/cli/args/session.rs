//! Commands in sandboxes, and what they write.

use std::path::PathBuf;

use clap::Args;

use crate::spec::{Millis, Name, Signal};

use super::{Filter, Format, InGuest, Machine, duration};

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Only these sandboxes
    #[arg(value_name = "SANDBOX")]
    pub(crate) names: Vec<Name>,
    #[command(flatten)]
    pub(crate) filter: Filter,
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
    #[command(flatten)]
    pub(crate) guest: InGuest,
}

#[derive(Debug, Args)]
pub(crate) struct Shell {
    /// Which sandbox
    #[arg(value_name = "SANDBOX")]
    pub(crate) name: Name,
    /// Have the shell run this instead of what is typed
    #[arg(short, long, value_name = "SCRIPT")]
    pub(crate) command: Option<String>,
    #[command(flatten)]
    pub(crate) guest: InGuest,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Which sandbox it is like, or whose script is run
    #[arg(value_name = "SANDBOX")]
    pub(crate) name: Name,
    /// A script of the sandbox and its arguments; else the command, after the entrypoint if there is
    /// one; default the sandbox's own
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) argv: Vec<String>,
    /// Run this instead of the entrypoint, in a new sandbox whatever scripts are called
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Leave what it depends on as it is
    #[arg(long)]
    pub(crate) no_deps: bool,
    #[command(flatten)]
    pub(crate) guest: InGuest,
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// How long to wait for another command that is changing the project
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1m")]
    pub(crate) lock_timeout: Millis,
}

#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// Which sandbox
    #[arg(value_name = "SANDBOX")]
    pub(crate) name: Name,
    /// Show the last N lines first
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) tail: usize,
    /// Pass signals on to the workload, Ctrl-C among them, which otherwise ends this command only
    #[arg(long)]
    pub(crate) sig_proxy: bool,
    /// Pass control characters on to the terminal
    #[arg(long)]
    pub(crate) raw: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// Only these sandboxes; default all that run
    #[arg(value_name = "SANDBOX")]
    pub(crate) names: Vec<Name>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Return at once: they end when their commands have
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// Only these sandboxes; default all that run
    #[arg(value_name = "SANDBOX")]
    pub(crate) names: Vec<Name>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Send this to the workload instead of ending the machine, such as `HUP`
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub(crate) signal: Signal,
}
