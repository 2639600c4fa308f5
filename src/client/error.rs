//! Why a sandbox is not as the program wants it.

use std::io;

use super::{ExecError, FsError, MachineError};
use crate::home::HomeError;
use crate::image::ImageError;
use crate::plan::PlanError;
use crate::reconcile::{HostError, ObserveError};
use crate::rootfs::patch::PatchError;
use crate::spec::{Name, Status};
use crate::store::{LeaseError, StoreError};
use crate::supervisor::ControlError;

/// Why a sandbox is not as the program wants it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the configuration makes no sense.
    #[error("sandbox `{sandbox}`: {field}: {reason}")]
    Invalid {
        /// The sandbox, as it was written.
        sandbox: String,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration uses what this version does not carry out.
    #[error("{0}")]
    Unsupported(String),
    /// The name is taken.
    #[error("sandbox `{0}` exists: start it, remove it, or create it with `replace`")]
    AlreadyExists(Name),
    /// There is no such sandbox.
    #[error("sandbox `{0}` does not exist: create it first")]
    NotFound(String),
    /// It runs, and must not.
    #[error("sandbox `{name}` is {status}: stop it first")]
    StillRunning {
        /// The sandbox.
        name: Name,
        /// What it is doing.
        status: Status,
    },
    /// It does not run, and must.
    #[error("sandbox `{0}` does not run: start it first")]
    NotRunning(Name),
    /// It has no script of that name.
    #[error("sandbox `{sandbox}` has no script `{script}`: {}", listed(known))]
    NoScript {
        /// The sandbox.
        sandbox: Name,
        /// The script.
        script: String,
        /// Those that it has, in the order of names.
        known: Vec<String>,
    },
    /// What was stored of it cannot be read.
    #[error("the stored spec of sandbox `{name}` cannot be read")]
    StoredSpec {
        /// The sandbox.
        name: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A file that a patch copies cannot be used.
    #[error("a patch cannot be applied")]
    Patch(#[from] PatchError),
    /// Sandboxes cannot be run here.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The state directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// What is wanted makes no sense with what exists.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] HostError),
    /// Another program changes the project.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What exists cannot be told.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// The supervisor.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A command.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// A file of it could not be read, written or copied.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The machine.
    #[error("the system refused")]
    System(#[from] io::Error),
}

fn listed(known: &[String]) -> String {
    if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) }
}
