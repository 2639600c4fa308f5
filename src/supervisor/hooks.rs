//! Hooks: commands in the guest after the start and before the stop.

use std::time::Duration;

use msb_protocol::mux::Opener;
use msb_protocol::{ExecRequest, ExitStatus};
use tokio::sync::mpsc;

use super::capture;
use super::run::Notice;
use super::state::{Hook, Input};

/// Runs `commands` one after the other, up to the first that fails, and tells how that went.
pub(super) async fn run(
    opener: Opener,
    hook: Hook,
    commands: Vec<ExecRequest>,
    grace: Duration,
    notices: mpsc::Sender<Notice>,
) {
    let mut failure = None;
    for command in &commands {
        failure = one(&opener, command).await.err();
        if let Some(why) = &failure {
            tracing::warn!(?hook, why, "a hook failed");
            break;
        }
    }
    let _ = notices.send(Notice::Input(Input::HooksEnded { hook, failure, grace })).await;
}

async fn one(opener: &Opener, command: &ExecRequest) -> Result<(), String> {
    let mut output = Vec::new();
    let how = match capture::exec(opener, command, &mut output).await {
        Some(ExitStatus::Code(0)) => return Ok(()),
        Some(status) => format!("exit code {}", status.code()),
        None => "its session broke".to_owned(),
    };
    let program = command.argv.first().map_or("", String::as_str);
    let mut why = format!("`{program}` failed ({how})");
    let output = String::from_utf8_lossy(&output);
    if !output.trim().is_empty() {
        why.push_str(": ");
        why.push_str(output.trim());
    }
    Err(why)
}
