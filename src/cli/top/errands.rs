//! Other commands that the dashboard runs: this program again, with the same flags.

use std::process::Stdio;

use tokio::process::Command;
use tokio::sync::mpsc;

use super::state::Verb;
use super::update::Event;
use crate::cli::args::Global;

/// This program, even where its file has been replaced meanwhile.
const SELF: &str = "/proc/self/exe";

/// `msb` with the flags that say which project is meant.
fn msb(global: &Global) -> Command {
    let mut command = Command::new(SELF);
    command.arg0("msb").args(global.project_words());
    command
}

/// Runs `msb VERB NAME` in the background. It ends by itself, whether the dashboard lives or not.
pub(super) fn run(global: &Global, verb: Verb, name: String, done: mpsc::Sender<Event>) {
    let mut command = msb(global);
    command.args(["--quiet", "--color", "never", verb.command(), &name]);
    // What the terminal's keys and its end do to the dashboard is not for this one.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    tokio::spawn(async move {
        let failure = match command.output().await {
            Ok(output) if output.status.success() => None,
            Ok(output) => {
                Some(complaint(&output.stderr).unwrap_or_else(|| output.status.to_string()))
            }
            Err(error) => Some(error.to_string()),
        };
        let _ = done.send(Event::Done { name, verb, failure }).await;
    });
}

/// `msb shell NAME`, with this program's terminal; what it complains about is kept.
pub(super) fn shell(global: &Global, name: &str) -> Command {
    let mut command = msb(global);
    command.args(["--color", "never", "shell", name]).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// The first error that a command told.
pub(super) fn complaint(stderr: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    text.lines().find_map(|line| line.strip_prefix("error: ")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_is_what_went_wrong() {
        let said = b"warning: x\nerror: no\n  caused by: y\nerror: more\n";
        assert_eq!(complaint(said).as_deref(), Some("no"));
        assert_eq!(complaint(b"hint: x\n\xff"), None);
    }
}
