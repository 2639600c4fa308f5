//! Commands of the supervisor's own in the guest: probes and hooks.

use msb_protocol::mux::Opener;
use msb_protocol::{
    ExecOutput, ExecRequest, ExitStatus, Frame, Request, read_frame, write_message,
};

/// What is kept of the output, in bytes.
const MAX_OUTPUT: usize = 1 << 10;

/// Runs a command to its end; `None` when the agent does not say how it ended. The beginning of what
/// it wrote, or why it could not be started, goes to `output`. Dropping the future kills it.
pub(super) async fn exec(
    opener: &Opener,
    request: &ExecRequest,
    output: &mut Vec<u8>,
) -> Option<ExitStatus> {
    let mut stream = opener.open().await.ok()?;
    write_message(&mut stream, &Request::Exec(request.clone())).await.ok()?;
    let mut buffer = Vec::new();
    while let Some(frame) = read_frame(&mut stream, &mut buffer).await.ok()? {
        match &frame {
            Frame::Data { bytes, .. } => keep(output, bytes),
            Frame::Message(_) => match frame.message().ok()? {
                ExecOutput::Started { .. } | ExecOutput::InputTaken(_) => {}
                ExecOutput::Exited(status) => return Some(status),
                ExecOutput::Failed(failure) => {
                    output.clear();
                    keep(output, failure.to_string().as_bytes());
                    return Some(ExitStatus::Code(failure.code()));
                }
            },
        }
    }
    None
}

/// Appends to an output as far as there is room.
pub(super) fn keep(output: &mut Vec<u8>, bytes: &[u8]) {
    let room = MAX_OUTPUT - output.len().min(MAX_OUTPUT);
    output.extend_from_slice(&bytes[..bytes.len().min(room)]);
}
