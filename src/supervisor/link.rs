//! The agent's end of the line.
//!
//! Everything that arrives is hostile. On the control stream an agent may say: one `Ready` or
//! `BootFailed`, then one `Bye`. Anything else breaks the link, so a flood of messages ends with
//! its second one; nothing is queued without bound.

use std::io;
use std::time::SystemTime;

use msb_protocol::mux::{self, MuxError, Opener};
use msb_protocol::{
    BootConfig, ControlInput, ControlOutput, FrameError, HandshakeError, Request, host_handshake,
    read_frame, write_message,
};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::filling::Filling;
use super::run::Notice;
use super::state::Input;

/// The longest text of the guest's that is kept, in characters.
const MAX_TEXT: usize = 1 << 10;

/// How a conversation with the agent ended.
#[derive(Debug)]
pub(super) enum Fault {
    /// It stopped; the VM has probably ended.
    Closed(String),
    /// The agent said what it must not.
    Broken(String),
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(_) | FrameError::Truncated => Self::Closed(chain(&error)),
            FrameError::Kind(_)
            | FrameError::TooLong(_)
            | FrameError::Malformed
            | FrameError::Unexpected => Self::Broken(chain(&error)),
        }
    }
}

impl From<MuxError> for Fault {
    fn from(error: MuxError) -> Self {
        match &error {
            MuxError::Connection(yamux::ConnectionError::Io(_)) | MuxError::Closed => {
                Self::Closed(chain(&error))
            }
            MuxError::Connection(_)
            | MuxError::Violation
            | MuxError::PeerOpened
            | MuxError::TooManyStreams => Self::Broken(chain(&error)),
        }
    }
}

impl From<HandshakeError> for Fault {
    fn from(error: HandshakeError) -> Self {
        match &error {
            HandshakeError::Io(_) => Self::Closed(chain(&error)),
            HandshakeError::Preamble(_) => Self::Broken(chain(&error)),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Closed(chain(&error))
    }
}

/// Attends to the link until it ends; the last notice says why. The guest is told how to boot once
/// `boot` has come, and what came with that is kept until it has booted.
pub(super) async fn attend(
    stream: std::os::unix::net::UnixStream,
    boot: impl Future<Output = (BootConfig, Filling)>,
    commands: mpsc::Receiver<ControlInput>,
    notices: mpsc::Sender<Notice>,
) {
    let input = match converse(stream, boot, commands, &notices).await {
        Ok(()) => return,
        Err(Fault::Closed(why)) => Input::LinkLost(why),
        Err(Fault::Broken(why)) => Input::LinkBroken(why),
    };
    let _ = notices.send(Notice::Input(input)).await;
}

/// Ends in order after a `Bye`.
async fn converse(
    stream: std::os::unix::net::UnixStream,
    boot: impl Future<Output = (BootConfig, Filling)>,
    commands: mpsc::Receiver<ControlInput>,
    notices: &mpsc::Sender<Notice>,
) -> Result<(), Fault> {
    let mut stream = UnixStream::from_std(stream)?;
    host_handshake(&mut stream).await?;
    let (opener, driver) = mux::client(stream);
    let mut driver = Box::pin(driver);
    let mut talk = Box::pin(talk(opener, boot, commands, notices));
    tokio::select! {
        talked = &mut talk => {
            talked?;
            // Nothing that follows matters; the VM ends next.
            let _ = driver.await;
            Ok(())
        }
        ended = &mut driver => {
            drop(driver);
            // What arrived before the end is still to be heard.
            match (talk.await, ended) {
                (Ok(()), _) => Ok(()),
                (Err(Fault::Broken(why)), _) => Err(Fault::Broken(why)),
                (Err(Fault::Closed(_)), Err(error)) => Err(error.into()),
                (Err(Fault::Closed(_)), Ok(())) => Err(Fault::Closed("it was closed".into())),
            }
        }
    }
}

async fn talk(
    opener: Opener,
    boot: impl Future<Output = (BootConfig, Filling)>,
    mut commands: mpsc::Receiver<ControlInput>,
    notices: &mpsc::Sender<Notice>,
) -> Result<(), Fault> {
    let mut control = opener.open().await?;
    write_message(&mut control, &Request::Control).await?;
    let (mut boot, filling) = boot.await;
    boot.clock_ns = wall_clock_ns();
    write_message(&mut control, &ControlInput::Boot(Box::new(boot))).await?;
    control.flush().await?;
    let (reader, mut writer) = tokio::io::split(control);
    let speak = async {
        while let Some(command) = commands.recv().await {
            let spoken = async {
                write_message(&mut writer, &command).await?;
                writer.flush().await
            };
            if spoken.await.is_err() {
                // The other direction knows better why.
                break;
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        heard = hear(reader, &opener, notices, filling) => heard,
        never = speak => never,
    }
}

async fn hear(
    mut reader: impl AsyncRead + Unpin,
    opener: &Opener,
    notices: &mpsc::Sender<Notice>,
    filling: Filling,
) -> Result<(), Fault> {
    let mut buffer = Vec::new();
    let mut filling = Some(filling);
    let mut ready = false;
    while let Some(frame) = read_frame(&mut reader, &mut buffer).await? {
        // Whatever it is, the guest fills nothing any more.
        drop(filling.take());
        let notice = match frame.message()? {
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
                return Ok(());
            }
            ControlOutput::Ready { .. } | ControlOutput::BootFailed(_) | ControlOutput::Bye => {
                return Err(Fault::Broken("a message out of turn".into()));
            }
        };
        if notices.send(notice).await.is_err() {
            break;
        }
    }
    Err(Fault::Closed("the control stream was closed".into()))
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
