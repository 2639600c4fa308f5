//! The handles that a program, and the command line, use.
//!
//! In this version: running a command in a sandbox, and events.

mod events;
mod exec;

pub use events::{EventError, EventFollower};
pub use exec::{
    ExecConfig, ExecControl, ExecError, ExecEvent, ExecHandle, ExecOutput, ExecSink, Stdin, exec,
};
pub use msb_protocol::{ExecFailure, ExitStatus};
