//! What tells of sandboxes: events, waiting, the graph; and which sandboxes a command is about.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::spec::{Millis, Name, Status};

use super::{Format, duration};

/// Which sandboxes, by what they are rather than by name.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Filter {
    /// Only sandboxes with this label, with this value where one is given; repeat for more
    #[arg(long = "label", value_name = "KEY[=VALUE]")]
    pub(crate) labels: Vec<String>,
    /// Only sandboxes with this status; repeat for any of several
    #[arg(long = "status", value_name = "STATUS", value_parser = status)]
    pub(crate) statuses: Vec<Status>,
}

fn status(text: &str) -> Result<Status, String> {
    let known = Status::ALL.into_iter().find(|status| status.as_str() == text);
    known.ok_or_else(|| {
        let words: Vec<_> = Status::ALL.iter().map(|status| format!("`{status}`")).collect();
        format!("write one of {}", words.join(", "))
    })
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Only events of these sandboxes
    #[arg(value_name = "SANDBOX")]
    pub(crate) names: Vec<Name>,
    /// Sandboxfile to read; `-` is standard input; repeat to merge, later files win
    // Same id as the global flag, without its short form: `-f` follows, as everywhere else.
    #[arg(long = "file", id = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Go on as more happens
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only events after the one with this sequence number
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) since_seq: i64,
    /// Of all projects
    #[arg(long, conflicts_with = "project")]
    pub(crate) all_projects: bool,
    /// Output format; JSON is one object a line
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Until {
    /// The last run has ended
    #[default]
    Ended,
    /// The workload runs
    Started,
    /// The health check passes
    Healthy,
    /// A job has ended with 0
    Completed,
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Only these sandboxes; default all
    #[arg(value_name = "SANDBOX")]
    pub(crate) names: Vec<Name>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// What to wait for
    #[arg(long, value_enum, default_value_t)]
    pub(crate) condition: Until,
    /// Give up after this time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Millis>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    /// For people, in the order of starts
    #[default]
    Text,
    /// For Graphviz
    Dot,
    /// One JSON document whose `schema` names its contract
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Graph {
    /// Only these sandboxes and what they depend on
    #[arg(value_name = "SANDBOX")]
    pub(crate) names: Vec<Name>,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: GraphFormat,
}

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Only these sandboxes; default all
    #[arg(value_name = "SANDBOX")]
    pub(crate) names: Vec<Name>,
    #[command(flatten)]
    pub(crate) filter: Filter,
}

#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Only these sandboxes; default all that run
    #[arg(value_name = "SANDBOX")]
    pub(crate) names: Vec<Name>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Measure once
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Output format; JSON is one document a measurement
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}
