//! `msb logs`: what the workloads wrote, and write.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cli::args::{Format, Global, Logs};
use crate::cli::error::{CliError, Exit};
use crate::cli::log_lines::{self, Printer, Shown, Style};
use crate::cli::ui::Ui;
use crate::cli::{filter, interrupt, project};
use crate::spec::Millis;
use crate::supervisor::logs::LogRange;

pub(crate) fn run(ui: &Ui, global: &Global, args: &Logs) -> Result<Exit, CliError> {
    let home = project::home()?;
    let project = project::name(ui, global)?;
    let range = LogRange { since: args.since.as_deref().map(since).transpose()?, tail: args.tail };
    let rows = filter::rows(&project, &args.names, &args.filter)?;
    let sandboxes: Vec<Shown> =
        rows.into_iter().map(|row| Shown { id: row.id, name: row.name }).collect();
    let style = Style {
        prefix: !args.no_log_prefix,
        timestamps: args.timestamps,
        raw: args.raw,
        json: args.format == Format::Json,
    };
    let printer = Printer::new(ui, style, &sandboxes);
    if !args.follow {
        for (index, record) in log_lines::read(&home, &sandboxes, &range)? {
            printer.print(index, &record)?;
        }
        return Ok(Exit::Ok);
    }
    let runtime = interrupt::runtime()?;
    runtime.block_on(async {
        let mut interrupts = interrupt::Interrupts::listen()?;
        tokio::select! {
            done = log_lines::follow(&printer, &home, &sandboxes, &range) => done.map(|()| Exit::Ok),
            () = interrupts.next() => Ok(Exit::Interrupted),
        }
    })
}

/// A time, or a duration before now.
fn since(text: &str) -> Result<SystemTime, CliError> {
    if let Ok(ago) = text.parse::<Millis>() {
        return Ok(SystemTime::now().checked_sub(ago.duration()).unwrap_or(UNIX_EPOCH));
    }
    let time: jiff::Timestamp = text.parse().map_err(|_: jiff::Error| {
        let message = format!("`{text}` is neither a time nor a duration");
        CliError::message(Exit::Usage, message)
            .hint("write a time as 2026-01-31T12:00:00Z, or as `10m`")
    })?;
    let ms = u64::try_from(time.as_millisecond()).unwrap_or(0);
    Ok(UNIX_EPOCH + Duration::from_millis(ms))
}
