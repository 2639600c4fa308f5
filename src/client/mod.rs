//! The handles that a program, and the command line, use.
//!
//! In this version: running a command in a sandbox.

mod exec;

pub use exec::{ExecError, ExecEvent, ExecInputHandle, ExecStream, exec};
