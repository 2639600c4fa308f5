//! The agent's end of the line.
//!
//! Everything that arrives is hostile. On the control stream an agent may say: one `Ready` or
//! `BootFailed`, then one `Bye`. Anything else breaks the link, so a flood of messages ends with
//! its second one; nothing is queued without bound.

use std::time::SystemTime;

use msb_protocol::mux::{self, Opener};
use msb_protocol::{
    BootConfig, ControlInput, ControlOutput, Request, host_handshake, read_frame, write_message,
};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::run::Notice;
use super::state::Input;

/// The longest text of the guest's that is kept, in characters.
const MAX_TEXT: usize = 1 << 10;

/// Attends to the link until it ends; the last notice says why.
pub(super) async fn attend(
    stream: std::os::unix::net::UnixStream,
    boot: BootConfig,
    commands: mpsc::Receiver<ControlInput>,
    notices: mpsc::Sender<Notice>,
) {
    let why = match converse(stream, boot, commands, &notices).await {
        Ok(never) => never,
        Err(why) => why,
    };
    tracing::debug!(why, "the link ended");
    let _ = notices.send(Notice::Input(Input::LinkLost(why))).await;
}

async fn converse(
    stream: std::os::unix::net::UnixStream,
    mut boot: BootConfig,
    mut commands: mpsc::Receiver<ControlInput>,
    notices: &mpsc::Sender<Notice>,
) -> Result<String, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let mut stream = UnixStream::from_std(stream).map_err(|e| text(&e))?;
    host_handshake(&mut stream).await.map_err(|e| text(&e))?;
    let (opener, driver) = mux::client(stream);
    let talk = async {
        let mut control = opener.open().await.map_err(|e| text(&e))?;
        write_message(&mut control, &Request::Control).await.map_err(|e| text(&e))?;
        boot.clock_ns = wall_clock_ns();
        let first = ControlInput::Boot(Box::new(boot));
        write_message(&mut control, &first).await.map_err(|e| text(&e))?;
        control.flush().await.map_err(|e| text(&e))?;
        let (reader, mut writer) = tokio::io::split(control);
        let speak = async {
            while let Some(command) = commands.recv().await {
                write_message(&mut writer, &command).await.map_err(|e| text(&e))?;
                writer.flush().await.map_err(|e| text(&e))?;
            }
            // The run is over; the other side ends the link.
            std::future::pending::<Result<String, String>>().await
        };
        tokio::select! {
            heard = hear(reader, &opener, notices) => heard,
            spoken = speak => spoken,
        }
    };
    tokio::select! {
        ended = driver => match ended {
            Ok(()) => Err("the agent closed it".into()),
            Err(error) => Err(chain(&error)),
        },
        talked = talk => talked,
    }
}

async fn hear(
    mut reader: impl AsyncRead + Unpin,
    opener: &Opener,
    notices: &mpsc::Sender<Notice>,
) -> Result<String, String> {
    let mut buffer = Vec::new();
    let mut ready = false;
    loop {
        let frame = read_frame(&mut reader, &mut buffer).await.map_err(|e| chain(&e))?;
        let Some(frame) = frame else { return Err("the agent closed the control stream".into()) };
        let message = frame.message().map_err(|e| e.to_string())?;
        let notice = match message {
            ControlOutput::Ready { uptime_us } if !ready => {
                ready = true;
                tracing::info!(uptime_us, "the guest is ready");
                Notice::Ready(opener.clone())
            }
            ControlOutput::BootFailed(failed) if !ready => {
                ready = true;
                let why = format!("{}: {}", short(&failed.stage), short(&failed.message));
                Notice::Input(Input::BootFailed(why))
            }
            ControlOutput::Bye if ready => {
                let _ = notices.send(Notice::Input(Input::Bye)).await;
                // Nothing that follows matters; the VM ends next.
                return std::future::pending().await;
            }
            ControlOutput::Ready { .. } | ControlOutput::BootFailed(_) | ControlOutput::Bye => {
                return Err("the agent broke the protocol".into());
            }
        };
        if notices.send(notice).await.is_err() {
            return Err("the supervisor ended".into());
        }
    }
}

/// Taken when it is sent, because the guest starts its clock from it.
fn wall_clock_ns() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// A text of the guest's, made harmless: bounded, and without control characters.
pub(super) fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
