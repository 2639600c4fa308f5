//! How a command is run in a guest: flags of `exec`, `shell` and `run`, and what they mean.

use std::collections::BTreeMap;

use clap::Args;
use clap::builder::ArgAction;

use crate::cli::detach_keys::DetachKeys;
use crate::cli::error::{CliError, Exit};
use crate::cli::terminal;
use crate::client::ExecConfig;
use crate::spec::Millis;

use super::duration;

#[derive(Clone, Debug, Args)]
pub(crate) struct InGuest {
    /// Return once the command runs, and leave it running; what it writes is dropped
    #[arg(short, long, conflicts_with_all = ["tty", "timeout"])]
    pub(crate) detach: bool,
    /// A terminal, even where standard output is not one
    #[arg(short, long, conflicts_with = "no_tty")]
    pub(crate) tty: bool,
    /// No terminal, even on one
    #[arg(short = 'T', long)]
    pub(crate) no_tty: bool,
    /// Pass standard input on, which is what happens anyway
    #[arg(short, long, hide = true, action = ArgAction::SetTrue)]
    #[allow(dead_code, reason = "a habit from other programs; it changes nothing")]
    pub(crate) interactive: bool,
    /// Run as this user (`user[:group]`)
    #[arg(short, long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Run in this directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Set a variable; `NAME` alone passes this environment's value
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Kill the command and its process group after this time, and exit with 124
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Millis>,
    /// Limit a resource of the command, such as `nofile=1024`; a limit may be `unlimited`
    #[arg(long, visible_alias = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    pub(crate) rlimit: Vec<RlimitFlag>,
    /// Keys that leave the command running and return (on a terminal); empty: none do
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub(crate) detach_keys: DetachKeys,
}

/// A resource limit as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RlimitFlag {
    name: String,
    soft: Option<u64>,
    hard: Option<u64>,
}

impl std::str::FromStr for RlimitFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, limits) = text.split_once('=').ok_or("write it as `nofile=1024`")?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let limit = |text: &str| match text {
            "unlimited" | "-1" => Ok(None),
            number => number.parse().map(Some).map_err(|_| format!("`{number}` is no limit")),
        };
        Ok(Self { name: name.to_owned(), soft: limit(soft)?, hard: limit(hard)? })
    }
}

impl InGuest {
    /// `config` with what the flags say, but for streams.
    pub(crate) fn apply(&self, mut config: ExecConfig) -> Result<ExecConfig, CliError> {
        config = config.envs(environment(&self.env)?);
        if let Some(user) = &self.user {
            config = config.user(user);
        }
        if let Some(workdir) = &self.workdir {
            config = config.cwd(workdir);
        }
        if let Some(timeout) = self.timeout {
            config = config.timeout(timeout.duration());
        }
        for limit in &self.rlimit {
            config = config.rlimit(&limit.name, limit.soft, limit.hard);
        }
        Ok(config)
    }

    /// Whether the command gets a terminal.
    pub(crate) fn wants_tty(&self) -> Result<bool, CliError> {
        if self.tty && !terminal::has_input() {
            let message = "`--tty` needs a terminal as standard input";
            return Err(CliError::message(Exit::Usage, message));
        }
        Ok(!self.no_tty && (self.tty || terminal::is_interactive()))
    }
}

fn environment(flags: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let mut env = BTreeMap::new();
    for flag in flags {
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => match std::env::var(flag) {
                Ok(value) => (flag.as_str(), value),
                Err(_) => continue,
            },
        };
        if name.is_empty() {
            let message = format!("`--env {flag}` names no variable");
            return Err(CliError::message(Exit::Usage, message));
        }
        env.insert(name.to_owned(), value);
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_pairs_or_names() {
        let flags = ["A=1".to_owned(), "B==x".to_owned(), "MSB_SURELY_UNSET".to_owned()];
        let env = environment(&flags).unwrap_or_default();
        assert_eq!(env.get("A").map(String::as_str), Some("1"));
        assert_eq!(env.get("B").map(String::as_str), Some("=x"));
        assert_eq!(env.len(), 2);
        assert!(environment(&["=x".to_owned()]).is_err());
    }

    #[test]
    fn limits_are_one_number_or_two() {
        let limit = |name: &str, soft, hard| RlimitFlag { name: name.to_owned(), soft, hard };
        assert_eq!("nofile=10".parse(), Ok(limit("nofile", Some(10), Some(10))));
        assert_eq!("core=0:unlimited".parse(), Ok(limit("core", Some(0), None)));
        for wrong in ["nofile", "nofile=", "nofile=x", "nofile=1:2:3"] {
            assert!(wrong.parse::<RlimitFlag>().is_err(), "{wrong}");
        }
    }
}
