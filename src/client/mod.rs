//! The handles that a program, and the command line, use.
//!
//! In this version: running a command in a sandbox, events and volumes.

mod events;
mod exec;
mod volume;

pub use events::{EventError, EventFollower};
pub use exec::{
    ExecConfig, ExecControl, ExecError, ExecEvent, ExecHandle, ExecOutput, ExecSink, Stdin, exec,
};
pub use msb_protocol::{ExecFailure, ExitStatus};
pub use volume::{Volume, VolumeConfig, VolumeHandle};
