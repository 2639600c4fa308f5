//! The end of a sandbox's log, for error messages.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::home::Home;
use crate::spec::Name;
use crate::supervisor::SandboxPaths;
use crate::supervisor::logs::{self, LogRange};

use super::engine::{SharedStore, lock};
use super::escape::escape;
use super::ui::Ui;

/// Lines that are shown.
const LINES: usize = 10;
/// How much of a plain file is looked at, in bytes.
const TAIL_BYTES: u64 = 4 << 10;

/// Prints the last lines that the workload of the last run wrote, or, where it wrote nothing, those
/// of the boot console and the supervisor which the error that was `told` does not quote.
pub(crate) fn say(
    ui: &Ui,
    home: &Home,
    store: &SharedStore,
    (project, name): (&Name, &Name),
    told: &str,
) {
    let Ok(Some(row)) = lock(store).sandbox(project.as_str(), name.as_str()) else { return };
    let paths = SandboxPaths::new(home, &row.id);
    let started = u64::try_from(row.started_ms.unwrap_or(0)).unwrap_or(0);
    let since = std::time::UNIX_EPOCH + std::time::Duration::from_millis(started);
    let range = LogRange { since: Some(since), tail: Some(LINES) };
    let records = logs::read(&paths.logs(), &range).unwrap_or_default();
    if !records.is_empty() {
        ui.always(&format!("the last lines of its log ({name}):"));
        for record in records {
            ui.always(&format!("  {}", escape(&record.message)));
        }
        return;
    }
    for (what, path) in
        [("its boot console", paths.console_log()), ("its supervisor", paths.supervisor_log())]
    {
        let mut lines = tail(&path);
        lines.retain(|line| !told.contains(line.trim()));
        if !lines.is_empty() {
            ui.always(&format!("the last lines of {what} ({name}):"));
            for line in lines {
                ui.always(&format!("  {}", escape(&line)));
            }
        }
    }
}

fn tail(path: &Path) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].iter().map(|line| (*line).to_owned()).collect()
}
