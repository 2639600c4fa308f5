//! Attached `up`: the logs of what runs, until it ends, or one that decides has ended, or Ctrl-C.
//!
//! The first Ctrl-C stops what this command started, in order; the second kills it. So does the end
//! of a sandbox by which `--exit-code-from`, `--abort-on-exit` or `--abort-on-failure` abort.

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use crate::home::Home;
use crate::plan::{Intent, PlanOptions};
use crate::reconcile;
use crate::spec::{Name, SandboxKind, Status};
use crate::store::{SandboxRow, Store};
use crate::supervisor::logs::LogRange;
use crate::supervisor::{self, ControlClient, StatusEvent};

use super::args::{Machine, Up};
use super::engine::{self, Request};
use super::error::{CliError, Exit};
use super::interrupt::{self, Listening};
use super::log_lines::{self, Printer, Shown, Style};
use super::project::{self, Loaded};
use super::ui::Ui;

/// The sandboxes that an attached command shows, and those that are its own.
pub(crate) struct Attached<'a> {
    pub(crate) loaded: &'a Loaded,
    pub(crate) args: &'a Up,
    /// What the command was about.
    pub(crate) selected: &'a BTreeSet<Name>,
    /// What it started, and stops when it is interrupted.
    pub(crate) started: &'a BTreeSet<Name>,
    /// Log lines from here on, in milliseconds since the Unix epoch.
    pub(crate) since_ms: i64,
}

impl Attached<'_> {
    /// Shows the logs until everything has ended (1 where something crashed), the end of one aborts
    /// the rest (its exit code), or Ctrl-C (130), be it one that came before this was called.
    pub(crate) fn follow(&self, ui: &Ui, listening: Listening) -> Result<Exit, CliError> {
        let home = project::home()?;
        let sandboxes: Vec<Shown> = self
            .rows(&home)?
            .into_iter()
            .filter(|row| {
                row.status.is_live() || self.has_started(&row.name) || self.has_ended_since(row)
            })
            .map(|row| Shown { id: row.id, name: row.name })
            .collect();
        let since = UNIX_EPOCH + Duration::from_millis(u64::try_from(self.since_ms).unwrap_or(0));
        let range = LogRange { since: Some(since), tail: None };
        let style =
            Style { prefix: !self.args.no_log_prefix, timestamps: false, raw: false, json: false };
        let printer = Printer::new(ui, style, &sandboxes);
        let Listening { runtime, mut interrupts } = listening;
        let aborts = |index: usize, event: &StatusEvent| {
            sandboxes.get(index).is_some_and(|shown| self.aborts(&shown.name, event))
        };
        let ended = runtime.block_on(async {
            tokio::select! {
                followed = log_lines::follow_until(&printer, &home, &sandboxes, &range, aborts) => {
                    followed.map(Some)
                }
                () = interrupts.next() => Ok(None),
            }
        });
        drop(runtime);
        match ended? {
            None => self.stop(ui).map(|()| Exit::Interrupted),
            Some(Some((index, event))) => self.abort(ui, &home, &sandboxes[index].name, &event),
            Some(None) => {
                let rows = self.rows(&home)?;
                if let Some(from) = &self.args.exit_code_from {
                    let row = rows.iter().find(|row| row.name == from.as_str());
                    return Ok(
                        row.map_or(Exit::Failed, |row| Exit::of_run(&supervisor::as_event(row)))
                    );
                }
                let crashed = rows.iter().any(|row| row.status == Status::Crashed);
                Ok(if crashed { Exit::Failed } else { Exit::Ok })
            }
        }
    }

    /// Whether the end of the sandbox `name` is the end of everything.
    fn aborts(&self, name: &str, event: &StatusEvent) -> bool {
        let spec = self.loaded.project.sandboxes.iter().find(|(known, _)| known.as_str() == name);
        let is_job = spec.is_some_and(|(_, spec)| spec.kind == SandboxKind::Job);
        let has_failed = Exit::of_run(event) != Exit::Ok;
        let from = self.args.exit_code_from.as_ref();
        from.is_some_and(|from| from.as_str() == name)
            || ((self.args.abort_on_exit || from.is_some()) && (has_failed || !is_job))
            || (self.args.abort_on_failure && has_failed)
    }

    /// Stops what this command started, because the sandbox `name` has ended.
    fn abort(
        &self,
        ui: &Ui,
        home: &Home,
        name: &str,
        event: &StatusEvent,
    ) -> Result<Exit, CliError> {
        let exit = Exit::of_run(event);
        let code = event.exit_code.map_or_else(String::new, |code| format!(" (exit {code})"));
        ui.say(&format!("sandbox {name} has ended{code}"));
        self.stop(ui)?;
        let Some(from) = self.args.exit_code_from.as_ref().filter(|from| from.as_str() != name)
        else {
            return Ok(exit);
        };
        // It did not come to its own end, so that this is no success.
        let row = self.rows(home)?.into_iter().find(|row| row.name == from.as_str());
        let codes = [row.map(|row| Exit::of_run(&supervisor::as_event(&row))), Some(exit)];
        Ok(codes.into_iter().flatten().find(|exit| *exit != Exit::Ok).unwrap_or(Exit::Failed))
    }

    /// What remains to be done where not everything could be brought up: nothing, unless one end is
    /// to be the end of everything.
    pub(crate) fn give_up(&self, ui: &Ui, exit: Exit) -> Result<Exit, CliError> {
        let args = self.args;
        if !args.abort_on_exit && !args.abort_on_failure && args.exit_code_from.is_none() {
            return Ok(exit);
        }
        self.stop(ui)?;
        let rows = self.rows(&project::home()?)?;
        let row = rows.into_iter().find(|row| {
            args.exit_code_from.as_ref().is_some_and(|from| from.as_str() == row.name)
                && self.has_ended_since(row)
        });
        let own = row.map(|row| Exit::of_run(&supervisor::as_event(&row)));
        Ok(own.filter(|own| *own != Exit::Ok).unwrap_or(exit))
    }

    /// Whether it ended while this command was at work.
    fn has_ended_since(&self, row: &SandboxRow) -> bool {
        row.finished_ms.is_some_and(|at| at >= self.since_ms)
    }

    fn has_started(&self, name: &str) -> bool {
        self.started.iter().any(|started| started.as_str() == name)
    }

    fn rows(&self, home: &Home) -> Result<Vec<SandboxRow>, CliError> {
        let Some(store) = Store::open_read_only(home)? else { return Ok(Vec::new()) };
        let mut rows = reconcile::rows(&store, self.loaded.project.name.as_str())?;
        rows.retain(|row| self.selected.iter().any(|name| name.as_str() == row.name));
        Ok(rows)
    }

    /// Stops what this command started; another Ctrl-C kills it.
    pub(crate) fn stop(&self, ui: &Ui) -> Result<(), CliError> {
        if self.started.is_empty() {
            return Ok(());
        }
        ui.say("stopping; Ctrl-C again kills");
        let home = project::home()?;
        let ids: Vec<String> = self
            .rows(&home)?
            .into_iter()
            .filter(|row| self.has_started(&row.name))
            .map(|row| row.id)
            .collect();
        let request = Request {
            command: "msb up",
            loaded: self.loaded,
            selected: self.loaded.project.sandboxes.keys().cloned().collect(),
            options: PlanOptions {
                intent: Intent::Stop,
                names: self.started.clone(),
                ..PlanOptions::default()
            },
            machine: Machine::default(),
            locked: Vec::new(),
            lock_timeout: self.args.lock_timeout,
            wait_timeout: None,
            dry_run: false,
            yes: true,
            fingerprint: None,
            owned: None,
        };
        let killer = move || async move {
            for id in ids {
                // One that has ended meanwhile is what is wanted.
                let _ = ControlClient::new(&home, &id).kill().await;
            }
        };
        engine::run_with(ui, &request, interrupt::OnInterrupt::kill(killer)).map(drop)
    }
}
