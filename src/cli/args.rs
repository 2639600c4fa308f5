//! The words of the command line. Doc comments here are the help texts and `docs/cli.md`.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::image::{ImageRef, Platform};
use crate::runtime::{DriverChoice, InvalidDriver};
use crate::spec::{ByteSize, Millis, Name};

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
    /// Run a command in a running sandbox
    Exec(Exec),
    /// Start sandboxes that exist
    Start(Start),
    /// Stop sandboxes and keep their disks
    Stop(Stop),
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

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Only these sandboxes
    #[arg(value_name = "SANDBOX")]
    pub(crate) names: Vec<Name>,
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
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Formatted {
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

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

/// Sandboxes that exist.
#[derive(Debug, Args)]
pub(crate) struct Names {
    /// Only these sandboxes; default all
    #[arg(value_name = "SANDBOX")]
    pub(crate) names: Vec<Name>,
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
pub(crate) struct Pull {
    /// Only the images of these sandboxes, or the images of these references; a word that names a
    /// sandbox of the project is one. Default: all images of the project
    #[arg(value_name = "SANDBOX|REFERENCE")]
    pub(crate) names: Vec<String>,
    /// Platform of the references, for instance `linux/arm64`; sandboxes state their own
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
    /// Refuse unless Sandboxfile.lock says what the image of every sandbox is
    #[arg(long)]
    pub(crate) locked: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Only the images of these sandboxes; default all, whatever the profiles
    #[arg(value_name = "SANDBOX")]
    pub(crate) names: Vec<Name>,
    /// Say what would change and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Images {
    /// List the images on this machine
    Ls(Formatted),
    /// Show an image in detail
    Inspect(Inspect),
    /// Remove images that no sandbox uses
    Rm(ImagesRm),
    /// Remove images that nothing names and no sandbox uses, and what interrupted pulls left
    Prune(Prune),
    /// Take images from an archive or an image layout, under the names that they have there
    Load(Load),
    /// Write images to an archive (an OCI layout in tar) that other programs read too
    Save(Save),
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// A reference, or a digest that may be cut short
    #[arg(value_name = "IMAGE")]
    pub(crate) name: String,
    /// Which of the images of that reference
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesRm {
    /// References, or digests that may be cut short. An image with several references loses only
    /// the one given
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) names: Vec<String>,
    /// Which of the images of these references
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    /// An archive, which may be compressed, or a layout directory; `#tag` behind it chooses one of
    /// several images; `-` is standard input
    #[arg(value_name = "FILE|DIR[#TAG]", default_value = "-")]
    pub(crate) source: String,
    /// Name the image so, whatever it is called there
    #[arg(long, value_name = "REFERENCE")]
    pub(crate) name: Option<ImageRef>,
    /// Take the images for this platform; default this machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
}

#[derive(Debug, Args)]
pub(crate) struct Save {
    /// References, or digests that may be cut short
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) names: Vec<String>,
    /// Write to this file; default standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Which of the images of these references
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Images that a reference names too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// The compressed layers of the images that stay too: these cannot be saved then, and another
    /// image with the same layers downloads them again
    #[arg(long)]
    pub(crate) layers: bool,
    /// Print what would be removed and remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Answer yes to every question
    #[arg(short, long)]
    pub(crate) yes: bool,
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

/// A size with a unit, for messages.
pub(crate) fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes {
        0..MIB => ByteSize::from_bytes(bytes).to_string(),
        _ => format!("{}.{} MiB", bytes / MIB, bytes % MIB * 10 / MIB),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

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
        assert!(exec.no_tty);
        assert_eq!(exec.argv, ["ls", "-l", "--", "-p"]);
        let cli = Cli::parse_from(["msb", "exec", "web", "--", "ls", "-l"]);
        assert!(matches!(cli.command, Command::Exec(Exec { argv, .. }) if argv == ["ls", "-l"]));
    }
}
