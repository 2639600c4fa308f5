//! `msb events`: what has happened, and what happens.

use serde_json::{Value, json};

use crate::cli::args::{Events, Format, Global};
use crate::cli::error::{CliError, Exit};
use crate::cli::escape::escape;
use crate::cli::ui::Ui;
use crate::cli::{interrupt, project};
use crate::client::EventFollower;
use crate::store::{EventRow, Store};

/// Events that are read at a time.
const BATCH: u32 = 256;

pub(crate) fn run(ui: &Ui, global: &Global, args: &Events) -> Result<Exit, CliError> {
    let home = project::home()?;
    let project = if args.all_projects { None } else { Some(project::name(ui, global)?) };
    let project = project.as_ref().map(crate::spec::Name::as_str);
    if let Some(store) = Store::open_read_only(&home)? {
        let oldest = store.oldest_event()?.unwrap_or(0);
        if args.since_seq > 0 && args.since_seq.saturating_add(1) < oldest {
            ui.warn(&format!("events before number {oldest} are not kept any more"));
        }
        if !args.follow {
            let mut after = args.since_seq;
            loop {
                let events = store.events_since(project, after, BATCH)?;
                let Some(last) = events.last() else { return Ok(Exit::Ok) };
                after = last.seq;
                print(ui, args, &events)?;
            }
        }
    }
    if !args.follow {
        return Ok(Exit::Ok);
    }
    interrupt::runtime()?.block_on(async {
        let mut interrupts = interrupt::Interrupts::listen()?;
        let mut follower = EventFollower::open(&home, project, args.since_seq)?;
        loop {
            tokio::select! {
                events = follower.next() => print(ui, args, &events?)?,
                () = interrupts.next() => return Ok(Exit::Interrupted),
            }
        }
    })
}

fn print(ui: &Ui, args: &Events, events: &[EventRow]) -> Result<(), CliError> {
    let named = |event: &&EventRow| {
        args.names.is_empty()
            || args.names.iter().any(|name| event.sandbox.as_deref() == Some(name.as_str()))
    };
    for event in events.iter().filter(named) {
        match args.format {
            Format::Json => ui.json_line(&document(event))?,
            Format::Text => ui.log_line(&text(event, args.all_projects))?,
        }
    }
    Ok(())
}

fn time(event: &EventRow) -> String {
    let time = jiff::Timestamp::from_millisecond(event.at_ms).unwrap_or_default();
    format!("{time:.3}")
}

fn document(event: &EventRow) -> Value {
    let detail = event.detail.as_deref().map(serde_json::from_str::<Value>);
    json!({
        "schema": "msb.events/1",
        "seq": event.seq,
        "time": time(event),
        "project": event.project,
        "sandbox": event.sandbox,
        "sandbox_id": event.sandbox_id,
        "kind": event.kind,
        "detail": detail.and_then(Result::ok),
    })
}

/// Such as `2026-01-31T12:00:00.000Z web crashed exit_code=137`.
fn text(event: &EventRow, with_project: bool) -> String {
    let mut line = time(event);
    let mut word = |text: &str| {
        line.push(' ');
        line.push_str(&escape(text));
    };
    if with_project {
        word(&event.project);
    }
    word(event.sandbox.as_deref().unwrap_or("-"));
    word(&event.kind);
    let detail = event.detail.as_deref().map(serde_json::from_str::<Value>);
    if let Some(Ok(Value::Object(fields))) = detail {
        for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            let value = match value {
                Value::String(text) => text.lines().next().unwrap_or_default().to_owned(),
                value => value.to_string(),
            };
            word(&format!("{key}={value}"));
        }
    }
    line
}
