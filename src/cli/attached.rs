//! Attached `up`: the logs of what runs, until it ends or Ctrl-C.
//!
//! The first Ctrl-C stops what this command started, in order; the second kills it.

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use crate::home::Home;
use crate::plan::{Intent, PlanOptions};
use crate::reconcile;
use crate::spec::{Name, Status};
use crate::store::{SandboxRow, Store};
use crate::supervisor::ControlClient;
use crate::supervisor::logs::LogRange;

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
    /// Shows the logs until everything has ended (1 where something crashed) or Ctrl-C (130), be it
    /// one that came before this was called.
    pub(crate) fn follow(&self, ui: &Ui, listening: Listening) -> Result<Exit, CliError> {
        let home = project::home()?;
        let sandboxes: Vec<Shown> = self
            .rows(&home)?
            .into_iter()
            .filter(|row| row.status.is_live() || self.has_started(&row.name))
            .map(|row| Shown { id: row.id, name: row.name })
            .collect();
        let since = UNIX_EPOCH + Duration::from_millis(u64::try_from(self.since_ms).unwrap_or(0));
        let range = LogRange { since: Some(since), tail: None };
        let style =
            Style { prefix: !self.args.no_log_prefix, timestamps: false, raw: false, json: false };
        let printer = Printer::new(ui, style, &sandboxes);
        let Listening { runtime, mut interrupts } = listening;
        let ended = runtime.block_on(async {
            tokio::select! {
                followed = log_lines::follow(&printer, &home, &sandboxes, &range) => {
                    followed.map(|()| true)
                }
                () = interrupts.next() => Ok(false),
            }
        });
        drop(runtime);
        let ended = ended?;
        if !ended {
            self.stop(ui)?;
            return Ok(Exit::Interrupted);
        }
        let crashed = self.rows(&home)?.iter().any(|row| row.status == Status::Crashed);
        Ok(if crashed { Exit::Failed } else { Exit::Ok })
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
