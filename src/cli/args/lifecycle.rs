//! What brings sandboxes up and down, and lists them.

use clap::Args;
use clap::builder::FalseyValueParser;

use crate::runtime::DriverChoice;
use crate::spec::{Millis, Name};

use super::{Filter, Format, driver, duration, grace};

/// How sandboxes are brought up; shared with `plan`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Selection {
    /// Only these sandboxes and what they depend on
    #[arg(value_name = "SANDBOX")]
    pub(crate) names: Vec<Name>,
    /// Leave out what the named sandboxes depend on
    #[arg(long, requires = "names")]
    pub(crate) no_deps: bool,
    /// Replace the sandboxes even where nothing has changed
    #[arg(long, visible_alias = "force-recreate")]
    pub(crate) replace: bool,
    /// Remove sandboxes that the Sandboxfile does not declare
    #[arg(long)]
    pub(crate) remove_orphans: bool,
    /// Accept a Sandboxfile without sandboxes, which removes everything
    #[arg(long)]
    pub(crate) allow_empty: bool,
    /// Refuse unless Sandboxfile.lock says what every image is
    #[arg(long)]
    pub(crate) locked: bool,
}

/// How microVMs are run.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Machine {
    /// How to run microVMs: `krun`, `qemu`, or `auto` for the better one of those that work
    #[arg(long, env = "MSB_DRIVER", value_name = "DRIVER", hide_env_values = true)]
    #[arg(value_parser = driver, default_value = "", hide_default_value = true)]
    pub(crate) driver: DriverChoice,
    /// Start nothing unless every layer of its jail holds; `msb doctor` shows them
    #[arg(long, env = "MSB_REQUIRE_JAIL", hide_env_values = true)]
    #[arg(value_parser = FalseyValueParser::new())]
    pub(crate) require_jail: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Return once everything is started, and leave it running
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Return once services are healthy and jobs have completed; implies `--detach`
    #[arg(long)]
    pub(crate) wait: bool,
    /// Give up waiting after this time
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m")]
    pub(crate) wait_timeout: Millis,
    /// Stop what was started once a service has ended or a job has failed, and end with its exit code
    #[arg(long, visible_alias = "abort-on-container-exit", conflicts_with_all = ["detach", "wait"])]
    pub(crate) abort_on_exit: bool,
    /// Stop what was started once something has failed, and end with its exit code
    #[arg(long, visible_alias = "abort-on-container-failure", conflicts_with_all = ["detach", "wait"])]
    pub(crate) abort_on_failure: bool,
    /// End with the exit code of this sandbox once it has ended; a job that has completed runs again.
    /// Implies `--abort-on-exit`
    #[arg(long, value_name = "SANDBOX", conflicts_with_all = ["detach", "wait"])]
    pub(crate) exit_code_from: Option<Name>,
    /// Print the plan and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Answer yes to every question
    #[arg(short, long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// How long to wait for another command that is changing the project
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1m")]
    pub(crate) lock_timeout: Millis,
    /// Leave out the sandbox names before log lines (attached)
    #[arg(long)]
    pub(crate) no_log_prefix: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Only these sandboxes
    #[arg(value_name = "SANDBOX")]
    pub(crate) names: Vec<Name>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Remove the project's volumes too
    #[arg(short, long)]
    pub(crate) volumes: bool,
    /// Remove sandboxes that the Sandboxfile does not declare
    #[arg(long)]
    pub(crate) remove_orphans: bool,
    /// Time between the stop signal and the kill, over each sandbox's own
    #[arg(short, long, value_name = "DURATION", value_parser = grace)]
    pub(crate) timeout: Option<Millis>,
    /// Print the plan and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Answer yes to every question
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// How long to wait for another command that is changing the project
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1m")]
    pub(crate) lock_timeout: Millis,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// Exit with 2 when there is something to do
    #[arg(long)]
    pub(crate) detailed_exitcode: bool,
}

/// Sandboxes that exist.
#[derive(Debug, Args)]
pub(crate) struct Names {
    /// Only these sandboxes; default all
    #[arg(value_name = "SANDBOX")]
    pub(crate) names: Vec<Name>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// How long to wait for another command that is changing the project
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1m")]
    pub(crate) lock_timeout: Millis,
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    #[command(flatten)]
    pub(crate) target: Names,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    pub(crate) target: Names,
    /// Time between the stop signal and the kill, over each sandbox's own
    #[arg(short, long, value_name = "DURATION", value_parser = grace)]
    pub(crate) timeout: Option<Millis>,
}

#[derive(Debug, Args)]
pub(crate) struct Restart {
    #[command(flatten)]
    pub(crate) stop: Stop,
    #[command(flatten)]
    pub(crate) machine: Machine,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    pub(crate) target: Names,
    /// Stop them first
    #[arg(short, long)]
    pub(crate) stop: bool,
    /// Answer yes to every question
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Only these sandboxes
    #[arg(value_name = "SANDBOX")]
    pub(crate) names: Vec<Name>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Select {
    /// Which sandboxes
    #[arg(value_name = "SANDBOX", required = true)]
    pub(crate) names: Vec<Name>,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}
