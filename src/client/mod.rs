//! The handles that a program, and the command line, use.
//!
//! A program makes a sandbox by [`Sandbox::create`] and runs commands in it; see `docs/library.md`.
#![allow(
    clippy::disallowed_methods,
    reason = "a program's files, environment and clock are looked at on its behalf"
)]

mod builders;
mod change;
mod config;
mod error;
mod events;
mod exec;
mod fs;
mod handle;
mod machine;
mod metrics;
mod place;
mod sandbox;
mod secret;
mod volume;

pub use builders::{Mount, NetworkPolicy, Patch};
pub use config::SandboxConfig;
pub use error::Error;
pub use events::{EventError, EventFollower};
pub use exec::{
    ExecConfig, ExecControl, ExecError, ExecEvent, ExecHandle, ExecOutput, ExecSink, Stdin, exec,
};
pub use fs::{
    CopyEvent, CopyOptions, FsEntry, FsEntryKind, FsError, FsErrorKind, FsMetadata, FsReader,
    FsWriter, MAX_LIST_ENTRIES, MAX_READ_BYTES, ReadOptions, SandboxFs, WriteOptions,
};
pub use handle::SandboxHandle;
pub use machine::MachineError;
pub(crate) use machine::boot_parts;
pub use metrics::{
    Metrics, MetricsError, MetricsSampler, SandboxMetrics, all_sandbox_metrics, metrics,
};
pub use msb_protocol::{ExecFailure, ExitStatus};
pub use place::{Client, install, is_installed};
pub use sandbox::{Ended, Sandbox};
pub use secret::Secret;
pub use volume::{Volume, VolumeConfig, VolumeHandle};

/// Has the examples of the guide compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/library.md")]
struct Guide;
