//! `msb top`: a dashboard of a project on the terminal.
//!
//! ```text
//! keys, signals ─┐
//! rows, logs ────┼─▶ Event ─▶ update(&mut State) ─▶ draw(&State), at most ten times a second
//! metrics ───────┘                     └──────────▶ Action: another command, or a shell
//! ```
//!
//! `state`, `update` and `draw` are pure. Only `screen`, `backend` and `keys` know the terminal.

mod backend;
mod draw;
mod errands;
mod keys;
mod screen;
mod sources;
mod state;
#[cfg(test)]
mod testing;
mod update;

use std::io::{self, Write};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::args::{Global, Top};
use super::error::{CliError, Exit};
use super::interactive::{Signals, WINCH};
use super::ui::Ui;
use super::{filter, interrupt, project, terminal};
use crate::client::EventFollower;
use crate::store::now_ms;

use errands::complaint;
use keys::Keyboard;
use screen::Screen;
use sources::{Scope, Sources};
use state::State;
use update::{Action, Event, update};

/// The shortest time between two drawings.
const FRAME: Duration = Duration::from_millis(100);
/// What is kept of what a shell complains about, in bytes.
const COMPLAINT: u64 = 4 << 10;
/// Signals that the keys of a terminal send to everybody on it, and that are a shell's while it runs.
const FROM_KEYS: [i32; 2] = [2, 3];

/// Runs the dashboard until the user leaves it.
pub(super) fn run(ui: &Ui, global: &Global, args: &Top) -> Result<Exit, CliError> {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    if dumb || !terminal::is_interactive() {
        let message = "`msb top` needs a terminal that can be drawn on";
        return Err(CliError::message(Exit::Usage, message)
            .hint("`msb stats --no-stream` prints what the sandboxes use"));
    }
    let project = project::name(ui, global)?;
    // One that is named and does not exist is told before anything is drawn.
    filter::rows(&project, &args.names, &args.filter)?;
    let scope = Scope {
        home: project::home()?,
        project: project.clone(),
        names: args.names.clone(),
        filter: args.filter.clone(),
    };
    let state =
        State { project: project.to_string(), color: ui.stdout_is_colored(), ..State::default() };
    let runtime = interrupt::runtime()?;
    let exit = runtime.block_on(async {
        let follower = EventFollower::from_now(&scope.home, Some(project.as_str()))?;
        let signals = Signals::listen()?;
        let keyboard = Keyboard::open()?;
        let screen = Screen::enter(Ui::stdout())?;
        let sources = Sources::new(scope);
        Dashboard { global, state, signals, keyboard, screen, sources }.show(follower).await
    });
    // Whoever still works on an answer is not waited for.
    runtime.shutdown_background();
    exit
}

struct Dashboard<'a, W: Write> {
    global: &'a Global,
    state: State,
    signals: Signals,
    keyboard: Keyboard,
    screen: Screen<W>,
    sources: Sources,
}

impl<W: Write> Dashboard<'_, W> {
    async fn show(mut self, mut follower: EventFollower) -> Result<Exit, CliError> {
        let mut changed = true;
        let mut next_frame = Instant::now();
        loop {
            self.sources.look_at(&self.state);
            if changed && Instant::now() >= next_frame {
                self.state.now_ms = now_ms();
                self.screen.draw(&self.state)?;
                (changed, next_frame) = (false, Instant::now() + FRAME);
            }
            let events = tokio::select! {
                keys = self.keyboard.read() => match keys? {
                    Some(keys) => keys.into_iter().map(Event::Key).collect(),
                    None => return Ok(Exit::Interrupted),
                },
                event = self.sources.next() => vec![event],
                happened = follower.next() => {
                    happened?;
                    self.sources.reload();
                    continue;
                }
                number = self.signals.next() => match number {
                    WINCH => vec![Event::Resized],
                    _ => return Ok(Exit::Interrupted),
                },
                () = tokio::time::sleep_until(next_frame), if changed => continue,
            };
            changed = true;
            for event in events {
                let Some(action) = update(&mut self.state, event) else { continue };
                let was_away = matches!(action, Action::Shell { .. });
                if let Some(exit) = self.act(action).await? {
                    return Ok(exit);
                }
                if was_away {
                    // Keys that came along were meant for the shell.
                    break;
                }
            }
        }
    }

    /// Carries an action out; an exit code where the dashboard ends.
    async fn act(&mut self, action: Action) -> Result<Option<Exit>, CliError> {
        match action {
            Action::Quit => return Ok(Some(Exit::Ok)),
            Action::Reload => self.sources.reload(),
            Action::Run { verb, name } => {
                errands::run(self.global, verb, name, self.sources.sender());
            }
            Action::Shell { name } => {
                self.sources.look_away();
                self.screen.lend()?;
                let said = self.shell(&name).await?;
                let Some(said) = said else { return Ok(Some(Exit::Interrupted)) };
                self.screen.take()?;
                self.sources.reload();
                if let Some(text) = said {
                    update(&mut self.state, Event::Said { text, is_error: true });
                }
            }
        }
        Ok(None)
    }

    /// Waits for the end of a shell: what it complained about, if anything; `None` where this
    /// program is to end.
    async fn shell(&mut self, name: &str) -> io::Result<Option<Option<String>>> {
        let mut child = errands::shell(self.global, name).spawn()?;
        let stderr = child.stderr.take();
        let ended = async {
            let mut said = Vec::new();
            if let Some(stderr) = stderr {
                stderr.take(COMPLAINT).read_to_end(&mut said).await?;
            }
            child.wait().await?;
            io::Result::Ok(said)
        };
        tokio::pin!(ended);
        loop {
            tokio::select! {
                ended = &mut ended => {
                    // Its code is that of what was typed last, and says nothing.
                    return Ok(Some(complaint(&ended?)));
                }
                number = self.signals.next() => {
                    if number != WINCH && !FROM_KEYS.contains(&number) {
                        // Dropping the child kills it.
                        return Ok(None);
                    }
                }
            }
        }
    }
}
