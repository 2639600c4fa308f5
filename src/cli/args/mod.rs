//! The words of the command line. Doc comments here are the help texts and `docs/cli.md`.

mod cp;
mod guest;
mod images;
mod lifecycle;
mod session;
mod volumes;
mod watching;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::image::DiskUsage;
use crate::runtime::{DriverChoice, InvalidDriver};
use crate::spec::{Millis, Name};

pub(crate) use cp::Cp;
pub(crate) use guest::InGuest;
pub(crate) use images::{Images, ImagesRm, Inspect, Load, Prune, Pull, Save, Update};
pub(crate) use lifecycle::{
    Down, Ls, Machine, Names, Plan, Ps, Restart, Rm, Select, Selection, Start, Stop, Up,
};
pub(crate) use session::{Attach, Drain, Exec, Kill, Logs, Run, Shell};
pub(crate) use volumes::{VolumeCreate, VolumeNames, VolumePrune, VolumeResize, Volumes};
pub(crate) use watching::{Events, Filter, Graph, GraphFormat, Stats, Top, Until, Wait};

/// Compose for microVMs: a Sandboxfile declares sandboxes, `msb up` makes the machine match it
#[derive(Debug, Parser)]
#[command(name = "msb", version, max_term_width = 100, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Sandboxfile to read; `-` is standard input; repeat to merge, later files win
    #[arg(short = 'f', long = "file", id = "file", global = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Project name, over the one that the Sandboxfile gives
    #[arg(short = 'p', long, global = true, value_name = "NAME")]
    pub(crate) project: Option<Name>,
    /// Activate a profile; repeat for more
    #[arg(long = "profile", id = "profile", global = true, value_name = "NAME")]
    pub(crate) profiles: Vec<Name>,
    /// Read variables for interpolation from this file; repeat for more, later files win
    #[arg(long = "env-file", id = "env_file", global = true, value_name = "FILE")]
    pub(crate) env_files: Vec<PathBuf>,
    /// When to use colours
    #[arg(long, global = true, value_enum, default_value_t = When::Auto, value_name = "WHEN")]
    pub(crate) color: When,
    /// Say nothing but results and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

impl Global {
    /// The words that have another `msb` mean the same project.
    pub(crate) fn project_words(&self) -> Vec<OsString> {
        let names = |names: &[Name]| names.iter().map(|name| name.to_string().into()).collect();
        let paths = |paths: &[PathBuf]| paths.iter().map(|path| path.clone().into()).collect();
        let flags: [(&str, Vec<OsString>); 4] = [
            ("--file", paths(&self.files)),
            ("--project", names(self.project.as_slice())),
            ("--profile", names(&self.profiles)),
            ("--env-file", paths(&self.env_files)),
        ];
        let words = flags.into_iter().flat_map(|(flag, values)| {
            values.into_iter().flat_map(move |value| [flag.into(), value])
        });
        words.collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON document whose `schema` names its contract
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the machine match the Sandboxfile
    Up(Up),
    /// Stop and remove the project's sandboxes
    Down(Down),
    /// Show what `up` would do, and why
    Plan(Plan),
    /// List the project's sandboxes
    Ps(Ps),
    /// Show all that is known of sandboxes, as JSON
    Inspect(Select),
    /// List projects
    Ls(Ls),
    /// Show what the workloads write
    Logs(Logs),
    /// Show what has happened to sandboxes, and happens
    Events(Events),
    /// Wait until sandboxes have ended; the exit code is that of their workloads
    Wait(Wait),
    /// Show what running sandboxes use, once a second
    Stats(Stats),
    /// Watch the project's sandboxes on the whole terminal, and restart, stop or enter them
    Top(Top),
    /// Show which sandboxes depend on which
    Graph(Graph),
    /// Show what the workload of a sandbox writes, until it ends, and end as it did
    Attach(Attach),
    /// Run a command in a running sandbox
    Exec(Exec),
    /// Open a shell in a running sandbox
    Shell(Shell),
    /// Copy files and trees into a running sandbox, or out of one
    Cp(Cp),
    /// Run a script of a sandbox; or a command in a new sandbox like it, which is removed afterwards
    Run(Run),
    /// Start sandboxes that exist
    Start(Start),
    /// Stop sandboxes and keep their disks
    Stop(Stop),
    /// Let running commands of sandboxes end, begin none, then stop them
    Drain(Drain),
    /// End sandboxes at once, or send their workloads a signal
    Kill(Kill),
    /// Stop sandboxes, then start them on the same disks
    Restart(Restart),
    /// Remove stopped sandboxes and their disks
    Rm(Rm),
    /// Get images, of the project's sandboxes or by reference
    Pull(Pull),
    /// Ask the registries what image references mean, and write it to Sandboxfile.lock
    Update(Update),
    /// Show and manage the images on this machine
    #[command(subcommand)]
    Images(Images),
    /// Show and manage the volumes on this machine
    #[command(subcommand)]
    Volume(Volumes),
    /// Show what msb keeps on the disk
    Df(Formatted),
    /// Check the Sandboxfile and print its canonical form
    Config(Config),
    /// Write a first Sandboxfile
    Init(Init),
    /// Explain what this machine has and what it lacks
    Doctor(Formatted),
    /// Provide the runtime parts
    Setup(Setup),
    /// Print the completion script of a shell
    Completion(Completion),
    /// Print the JSON schema of the Sandboxfile
    Schema,
    /// Print the version
    Version(Formatted),
}

#[derive(Debug, Args)]
pub(crate) struct Formatted {
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Config {
    /// Explain a key, such as `sandbox.memory`
    #[arg(long, value_name = "KEY")]
    pub(crate) explain: Option<String>,
    /// Output format; text is TOML
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Where to write; default `Sandboxfile` here
    #[arg(value_name = "FILE")]
    pub(crate) path: Option<PathBuf>,
    /// The image of the first sandbox
    #[arg(long, value_name = "REFERENCE", default_value = "alpine:3")]
    pub(crate) image: String,
    /// Overwrite the file
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Setup {
    /// Say what is there and fetch nothing; exit 125 when something is missing
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// Which shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// An empty variable is as good as none.
fn driver(text: &str) -> Result<DriverChoice, InvalidDriver> {
    if text.is_empty() { Ok(DriverChoice::Auto) } else { text.parse() }
}

fn duration(text: &str) -> Result<Millis, String> {
    text.parse().map_err(|error| format!("{error}: write it as `30s` or `5m`"))
}

/// As compose: a bare number is seconds.
fn grace(text: &str) -> Result<Millis, String> {
    match text.parse::<u32>() {
        Ok(seconds) => Ok(Millis::from_secs(u64::from(seconds))),
        Err(_) => duration(text),
    }
}

/// A size for people: in the largest unit that it fills, with one decimal unless it is whole.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let power = bytes.checked_ilog2().unwrap_or(0) / 10;
    let (unit, name) = (1u64 << (10 * power), UNITS[power as usize]);
    let (whole, rest) = (bytes / unit, bytes % unit);
    if rest == 0 {
        format!("{whole} {name}")
    } else {
        // Two steps, because ten times the rest of an EiB does not fit.
        format!("{whole}.{} {name}", rest / (unit / 1024) * 10 / 1024)
    }
}

/// What is taken of a disk, for people.
pub(crate) fn disk_size(used: DiskUsage) -> String {
    format!("{}{}", if used.complete { "" } else { ">" }, size(used.bytes))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn sizes_are_for_people() {
        let all = [0, 1, 1023, 1024, 1536, 141_718, 64 << 20, 111_039_000, u64::MAX].map(size);
        let expected = [
            "0 B",
            "1 B",
            "1023 B",
            "1 KiB",
            "1.5 KiB",
            "138.3 KiB",
            "64 MiB",
            "105.8 MiB",
            "15.9 EiB",
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_short_file_flag_follows_in_logs_only() {
        let cli = Cli::parse_from(["msb", "-f", "a", "logs", "-f"]);
        assert_eq!(cli.global.files, [PathBuf::from("a")]);
        assert!(matches!(cli.command, Command::Logs(Logs { follow: true, .. })));
        let cli = Cli::parse_from(["msb", "logs", "--file", "b"]);
        assert_eq!(cli.global.files, [PathBuf::from("b")]);
        let cli = Cli::parse_from(["msb", "up", "-f", "a", "-f", "b", "-d", "web"]);
        assert_eq!(cli.global.files, [PathBuf::from("a"), PathBuf::from("b")]);
    }

    #[test]
    fn another_msb_is_told_the_same_project() {
        let words = ["--file", "a", "--file", "b", "--project", "p", "--env-file", "e"];
        let cli = Cli::parse_from(["msb", "ps"].into_iter().chain(words));
        assert_eq!(cli.global.project_words(), words);
    }

    #[test]
    fn only_what_starts_takes_a_driver() {
        for command in ["up", "start", "restart"] {
            Cli::try_parse_from(["msb", command, "--driver", "qemu", "--require-jail"]).unwrap();
            let refused = Cli::try_parse_from(["msb", command, "--driver", "steam"]).unwrap_err();
            assert!(refused.to_string().contains("use `auto`, `krun` or `qemu`"), "{refused}");
        }
        for command in ["stop", "rm", "down"] {
            for flag in ["--driver=qemu", "--require-jail"] {
                Cli::try_parse_from(["msb", command, flag]).unwrap_err();
            }
        }
        let cli = Cli::parse_from(["msb", "start", "--driver="]);
        let Command::Start(start) = cli.command else { panic!("not start") };
        assert_eq!(start.machine.driver, DriverChoice::Auto);
    }

    #[test]
    fn exec_keeps_the_commands_own_flags() {
        let cli = Cli::parse_from(["msb", "exec", "-T", "web", "ls", "-l", "--", "-p"]);
        let Command::Exec(exec) = cli.command else { panic!("not exec") };
        assert!(exec.guest.no_tty);
        assert_eq!(exec.argv, ["ls", "-l", "--", "-p"]);
        let cli = Cli::parse_from(["msb", "exec", "web", "--", "ls", "-l"]);
        assert!(matches!(cli.command, Command::Exec(Exec { argv, .. }) if argv == ["ls", "-l"]));
    }
}
