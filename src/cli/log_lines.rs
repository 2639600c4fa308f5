//! Workload logs as lines of the terminal: of one sandbox or of many, prefixed and coloured.

use std::path::PathBuf;

use tokio::sync::mpsc;

use crate::home::Home;
use crate::supervisor::logs::{LogFollower, LogRange, LogRecord, LogStream};
use crate::supervisor::{self, SandboxPaths, StatusEvent};

use super::error::CliError;
use super::escape::escape;
use super::ui::Ui;

/// Records that wait to be printed.
const QUEUE: usize = 256;

/// A sandbox whose log is shown.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) id: String,
    pub(crate) name: String,
}

/// How lines look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub(crate) prefix: bool,
    pub(crate) timestamps: bool,
    /// Control characters go to the terminal as they are.
    pub(crate) raw: bool,
    pub(crate) json: bool,
}

/// Prints records of several sandboxes.
pub(crate) struct Printer<'a> {
    ui: &'a Ui,
    style: Style,
    names: Vec<String>,
    width: usize,
}

impl<'a> Printer<'a> {
    pub(crate) fn new(ui: &'a Ui, style: Style, sandboxes: &[Shown]) -> Self {
        let names: Vec<String> = sandboxes.iter().map(|shown| shown.name.clone()).collect();
        let width = names.iter().map(String::len).max().unwrap_or(0);
        Self { ui, style, names, width }
    }

    /// Prints a record of the sandbox at `index`.
    pub(crate) fn print(&self, index: usize, record: &LogRecord) -> Result<(), CliError> {
        let name = self.names.get(index).map_or("", String::as_str);
        if self.style.json {
            let line = serde_json::json!({
                "schema": "msb.logs/1",
                "sandbox": name,
                "time": record.time,
                "stream": record.stream.to_string(),
                "message": record.message,
                "partial": record.partial,
            });
            return self.ui.json_line(&line);
        }
        let message = if self.style.raw || !self.ui.stdout_is_terminal() {
            record.message.as_str().into()
        } else {
            escape(&record.message)
        };
        let mut line = String::new();
        if self.style.prefix {
            line.push_str(&self.ui.log_prefix(name, index, self.width));
            line.push(' ');
        }
        if self.style.timestamps {
            line.push_str(&record.time);
            line.push(' ');
        }
        if record.stream == LogStream::Msb {
            line.push_str("[msb] ");
        }
        line.push_str(&message);
        self.ui.log_line(&line)
    }
}

/// The logs of sandboxes, oldest record first.
pub(crate) fn read(
    home: &Home,
    sandboxes: &[Shown],
    range: &LogRange,
) -> std::io::Result<Vec<(usize, LogRecord)>> {
    let mut records = Vec::new();
    for (index, shown) in sandboxes.iter().enumerate() {
        let found = supervisor::logs::read(&directory(home, shown), range)?;
        records.extend(found.into_iter().map(|record| (index, record)));
    }
    // Stable, so lines of one sandbox that were written at the same time keep their order.
    records.sort_by(|a, b| a.1.time.cmp(&b.1.time));
    Ok(records)
}

fn directory(home: &Home, shown: &Shown) -> PathBuf {
    SandboxPaths::new(home, &shown.id).logs()
}

/// What is known of a sandbox whose log is followed.
enum Told {
    Wrote(LogRecord),
    Ended(StatusEvent),
}

/// Prints the logs of sandboxes as they are written, until all have ended.
pub(crate) async fn follow(
    printer: &Printer<'_>,
    home: &Home,
    sandboxes: &[Shown],
    range: &LogRange,
) -> Result<(), CliError> {
    follow_until(printer, home, sandboxes, range, |_, _| false).await.map(drop)
}

/// [`follow`], until `enough` of the end of one, given by its index, of which everything is printed
/// by then; which that was.
pub(crate) async fn follow_until(
    printer: &Printer<'_>,
    home: &Home,
    sandboxes: &[Shown],
    range: &LogRange,
    enough: impl Fn(usize, &StatusEvent) -> bool,
) -> Result<Option<(usize, StatusEvent)>, CliError> {
    let (send, mut receive) = mpsc::channel(QUEUE);
    let mut before = Vec::new();
    for (index, shown) in sandboxes.iter().enumerate() {
        let dir = directory(home, shown);
        if !dir.exists() {
            continue;
        }
        let (records, follower) = LogFollower::open(&dir, range)?;
        before.extend(records.into_iter().map(|record| (index, record)));
        let (home, id, send) = (home.clone(), shown.id.clone(), send.clone());
        tokio::spawn(tail(home, id, index, follower, send));
    }
    drop(send);
    before.sort_by(|a, b| a.1.time.cmp(&b.1.time));
    for (index, record) in &before {
        printer.print(*index, record)?;
    }
    while let Some((index, told)) = receive.recv().await {
        match told {
            Told::Wrote(record) => printer.print(index, &record)?,
            Told::Ended(event) if enough(index, &event) => return Ok(Some((index, event))),
            Told::Ended(_) => {}
        }
    }
    Ok(None)
}

/// Passes on the records of one sandbox until its run has ended.
async fn tail(
    home: Home,
    id: String,
    index: usize,
    mut follower: LogFollower,
    send: mpsc::Sender<(usize, Told)>,
) {
    let ended = supervisor::wait_until(&home, &id, |_| false);
    tokio::pin!(ended);
    let mut live = true;
    let mut last = None;
    // Everything was written before the end was told.
    while live || follower.is_behind() {
        tokio::select! {
            event = &mut ended, if live => {
                live = false;
                last = event.ok();
            }
            changed = follower.changed() => live &= changed.is_ok(),
        }
        for record in follower.read().unwrap_or_default() {
            if send.send((index, Told::Wrote(record))).await.is_err() {
                return;
            }
        }
    }
    if let Some(event) = last {
        let _ = send.send((index, Told::Ended(event))).await;
    }
}
