//! Why a step is in a plan.

use std::sync::Arc;

use serde::Serialize;

use crate::spec::{Name, Origin, Status};

use super::ChangeClass;

/// Why a step is in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Cause {
    /// It is declared and does not exist (an image: is not in the cache).
    Missing,
    /// Its declaration differs from what it was made with.
    SpecChanged {
        /// The differences, by path.
        changes: Arc<[FieldChange]>,
    },
    /// Its image reference resolves to other content than its disk was made on.
    ImageMoved {
        /// The digest of its disk's image.
        old: String,
        /// The digest now.
        new: String,
        /// The file or directory that has changed, where the image is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    /// It does not run.
    NotRunning {
        /// What it does.
        status: Status,
        /// How its last run ended.
        #[serde(skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
    },
    /// Its VM or supervisor ended out of order.
    Crashed,
    /// A sandbox it depends on with `restart = true` is started anew.
    DependencyReplaced {
        /// That sandbox.
        dependency: Name,
    },
    /// It exists and is not declared.
    NotDeclared,
    /// Its replacement was asked for by name.
    Forced,
    /// The command asks for exactly this.
    Requested,
    /// Others wait for it.
    Awaited {
        /// Who waits.
        by: Vec<Name>,
    },
}

/// One difference between two specs. Values are text for people: environment values, scripts and
/// file contents read `(hidden)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// The dotted path in the canonical form, such as `env.PORT`.
    pub path: String,
    /// The value before; none: it was not set.
    pub old: Option<String>,
    /// The value after; none: it is not set any more.
    pub new: Option<String>,
    /// What acting on it takes.
    pub class: ChangeClass,
    /// Where the new value (or what is nearest to it) is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}
