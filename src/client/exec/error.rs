//! Why there is no exit status.

use std::time::Duration;

use msb_protocol::{ExecFailure, FrameError};

use super::ExecOutput;
use crate::supervisor::ControlError;

/// Why an exec session has no exit status.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The supervisor did not open it.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The command could not be started; [`ExecFailure::code`] is 127 where it does not exist, else
    /// 126.
    #[error("{0}")]
    Failed(ExecFailure),
    /// It took longer than [`super::ExecConfig::timeout`] and was killed with its process group.
    #[error("the command was killed after {after:?}: it took too long")]
    TimedOut {
        /// The time that it had.
        after: Duration,
        /// What it wrote, where that was collected.
        output: Box<ExecOutput>,
    },
    /// It wrote more than [`super::ExecConfig::max_output`] and was killed with its process group.
    #[error("the command was killed: it wrote more than {limit} bytes")]
    TooMuchOutput {
        /// The limit, in bytes.
        limit: usize,
        /// What it wrote until then.
        output: Box<ExecOutput>,
    },
    /// The stream made no sense.
    #[error("the exec session broke")]
    Frame(#[from] FrameError),
    /// The sandbox ended first.
    #[error("the sandbox ended before the command did")]
    Gone,
}
