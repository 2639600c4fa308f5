//! The workload: an exec session whose output goes to the log.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use msb_protocol::mux::{MuxStream, Opener};
use msb_protocol::{
    ExecFailure, ExecInput, ExecOutput, ExecRequest, Frame, FrameError, Request, read_frame,
    write_message,
};
use tokio::io::{AsyncRead, AsyncWriteExt, WriteHalf};
use tokio::sync::mpsc;

use super::link::{Fault, short};
use super::logs::{LogStream, LogWriter};
use super::run::Notice;
use super::state::{Input, WorkloadEnd};

/// Runs the workload to its end. `signals` are sent to its process group.
pub(super) async fn run(
    opener: Opener,
    request: ExecRequest,
    log: Rc<RefCell<LogWriter>>,
    signals: mpsc::Receiver<i32>,
    notices: mpsc::Sender<Notice>,
) {
    let end = match converse(opener, request, &log, signals, &notices).await {
        Ok(end) => end,
        Err(Fault::Closed(why)) => WorkloadEnd::Lost(why),
        Err(Fault::Broken(why)) => WorkloadEnd::Broken(why),
    };
    log.borrow_mut().finish();
    let _ = notices.send(Notice::Input(Input::WorkloadEnded(end))).await;
}

async fn converse(
    opener: Opener,
    request: ExecRequest,
    log: &RefCell<LogWriter>,
    signals: mpsc::Receiver<i32>,
    notices: &mpsc::Sender<Notice>,
) -> Result<WorkloadEnd, Fault> {
    let mut stream = opener.open().await?;
    write_message(&mut stream, &Request::Exec(request)).await?;
    stream.flush().await?;
    let (reader, writer) = tokio::io::split(stream);
    tokio::select! {
        end = hear(reader, log, notices) => end,
        broken = send(writer, signals) => Err(broken.into()),
    }
}

async fn send(mut writer: WriteHalf<MuxStream>, mut signals: mpsc::Receiver<i32>) -> io::Error {
    while let Some(signal) = signals.recv().await {
        let sent = async {
            write_message(&mut writer, &ExecInput::Signal(signal)).await?;
            writer.flush().await
        };
        if let Err(error) = sent.await {
            return error;
        }
    }
    std::future::pending().await
}

async fn hear(
    mut reader: impl AsyncRead + Unpin,
    log: &RefCell<LogWriter>,
    notices: &mpsc::Sender<Notice>,
) -> Result<WorkloadEnd, Fault> {
    let mut buffer = Vec::new();
    let mut started = false;
    while let Some(frame) = read_frame(&mut reader, &mut buffer).await? {
        match &frame {
            Frame::Data { fd: 1, bytes } => log.borrow_mut().write(LogStream::Stdout, bytes),
            Frame::Data { fd: 2, bytes } => log.borrow_mut().write(LogStream::Stderr, bytes),
            Frame::Data { .. } => return Err(FrameError::Unexpected.into()),
            Frame::Message(_) => match frame.message()? {
                ExecOutput::Started { .. } if !started => {
                    started = true;
                    if notices.send(Notice::Input(Input::WorkloadStarted)).await.is_err() {
                        return Err(Fault::Closed("the supervisor ended".into()));
                    }
                }
                ExecOutput::Exited(status) if started => return Ok(WorkloadEnd::Exited(status)),
                ExecOutput::Failed(failure) if !started => {
                    return Ok(WorkloadEnd::Failed(shorten(failure)));
                }
                ExecOutput::Started { .. }
                | ExecOutput::InputTaken(_)
                | ExecOutput::Exited(_)
                | ExecOutput::Failed(_) => {
                    return Err(Fault::Broken("a message out of turn".into()));
                }
            },
        }
    }
    Err(Fault::Closed("it was closed".into()))
}

fn shorten(failure: ExecFailure) -> ExecFailure {
    match failure {
        ExecFailure::NotFound(text) => ExecFailure::NotFound(short(&text)),
        ExecFailure::NotExecutable(text) => ExecFailure::NotExecutable(short(&text)),
        ExecFailure::BadWorkdir(text) => ExecFailure::BadWorkdir(short(&text)),
        ExecFailure::UnknownUser(text) => ExecFailure::UnknownUser(short(&text)),
        ExecFailure::Invalid(text) => ExecFailure::Invalid(short(&text)),
        ExecFailure::System(text) => ExecFailure::System(short(&text)),
    }
}
