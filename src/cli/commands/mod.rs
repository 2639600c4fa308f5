//! One file per command.

mod attach;
mod completion;
mod config;
mod cp;
mod df;
mod doctor;
mod down;
mod drain;
mod events;
mod exec;
mod graph;
mod images;
mod init;
mod inspect;
mod kill;
mod lifecycle;
mod logs;
mod ls;
mod plan;
mod ps;
mod pull;
mod run;
mod schema;
mod setup;
mod stats;
mod up;
mod update;
mod version;
mod volume;
mod wait;

use super::args::{Cli, Command};
use super::error::{CliError, Exit};
use super::takeover::take_over;
use super::top;
use super::ui::Ui;

pub(super) use ps::{span as span_text, status as status_text};
pub(super) use setup::hint as setup_hint;

/// Runs the chosen command.
pub(crate) fn run(ui: &Ui, cli: Cli) -> Result<Exit, CliError> {
    let global = &cli.global;
    if uses_state(&cli.command) {
        take_over(ui)?;
    }
    match cli.command {
        Command::Up(args) => up::run(ui, global, &args),
        Command::Down(args) => down::run(ui, global, &args),
        Command::Plan(args) => plan::run(ui, global, &args),
        Command::Ps(args) => ps::run(ui, global, &args),
        Command::Inspect(args) => inspect::run(ui, global, &args),
        Command::Ls(args) => ls::run(ui, &args),
        Command::Events(args) => events::run(ui, global, &args),
        Command::Wait(args) => wait::run(ui, global, &args),
        Command::Stats(args) => stats::run(ui, global, &args),
        Command::Top(args) => top::run(ui, global, &args),
        Command::Graph(args) => graph::run(ui, global, &args),
        Command::Attach(args) => attach::run(ui, global, &args),
        Command::Exec(args) => exec::exec(ui, global, &args),
        Command::Shell(args) => exec::shell(ui, global, &args),
        Command::Run(args) => run::run(ui, global, &args),
        Command::Drain(args) => drain::run(ui, global, &args),
        Command::Kill(args) => kill::run(ui, global, &args),
        Command::Cp(args) => cp::run(ui, global, &args),
        Command::Logs(args) => logs::run(ui, global, &args),
        Command::Start(args) => lifecycle::start(ui, global, &args),
        Command::Stop(args) => lifecycle::stop(ui, global, &args),
        Command::Restart(args) => lifecycle::restart(ui, global, &args),
        Command::Rm(args) => lifecycle::rm(ui, global, &args),
        Command::Pull(args) => pull::run(ui, global, &args),
        Command::Update(args) => update::run(ui, global, &args),
        Command::Images(args) => images::run(ui, args),
        Command::Volume(args) => volume::run(ui, global, args),
        Command::Df(args) => df::run(ui, &args),
        Command::Config(args) => config::run(ui, global, &args),
        Command::Init(args) => init::run(ui, &args),
        Command::Completion(args) => completion::run(ui, &args),
        Command::Version(args) => version::run(ui, &args),
        Command::Doctor(args) => doctor::run(ui, &args),
        Command::Setup(args) => setup::run(ui, &args),
        Command::Schema => schema::run(ui),
    }
}

/// Whether the command looks at what exists.
const fn uses_state(command: &Command) -> bool {
    matches!(
        command,
        Command::Up(_)
            | Command::Down(_)
            | Command::Plan(_)
            | Command::Ps(_)
            | Command::Inspect(_)
            | Command::Ls(_)
            | Command::Events(_)
            | Command::Wait(_)
            | Command::Stats(_)
            | Command::Top(_)
            | Command::Attach(_)
            | Command::Exec(_)
            | Command::Shell(_)
            | Command::Run(_)
            | Command::Drain(_)
            | Command::Kill(_)
            | Command::Cp(_)
            | Command::Logs(_)
            | Command::Start(_)
            | Command::Stop(_)
            | Command::Restart(_)
            | Command::Rm(_)
            | Command::Pull(_)
            | Command::Images(_)
            | Command::Volume(_)
            | Command::Df(_)
    )
}
