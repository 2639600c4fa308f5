//! Owns one microVM: boots it, serves it, watches it, stops it, and reports.
//!
//! One process for each running sandbox, started by [`launch`] in a session of its own, so that it
//! survives the command that started it.
#![allow(clippy::disallowed_methods, reason = "this module runs processes and keeps logs")]

mod activity;
mod binds;
mod capture;
mod config;
mod control;
mod filling;
mod growth;
mod health;
mod hooks;
mod identity;
mod launch;
mod link;
mod locks;
pub mod logs;
mod metrics;
mod mounts;
mod process;
mod readable;
mod record;
mod requests;
mod restart;
mod run;
mod runs;
mod scripts;
mod serving;
mod session;
mod settle;
mod state;
mod workload;

pub use binds::{BindError, check_bind};
pub use config::{DEFAULT_BOOT_TIMEOUT_MS, ImageDefaults, LaunchConfig, SandboxPaths, VolumePlace};
pub use control::{
    ControlClient, ControlError, ControlReply, ControlRequest, DeniedReason, ExecSession,
    JailLayer, MetricsSample, StatusEvent, Watch, wait_until,
};
pub use growth::GROWTH_PATIENCE;
pub use identity::{boot_id, is_alive, kill, new_id, open as open_process, own, start_time};
pub use launch::{LaunchError, Launched, Owner, launch, launch_attached};
pub use process::supervise;
pub(crate) use readable::readable;
pub use settle::{as_event, catch_up, interpret, is_live, settle};
pub use state::{EXPIRED, IDLED};
pub use workload::workload_argv;
