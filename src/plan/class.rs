//! What a changed field costs.

use std::fmt;

use serde::Serialize;

/// What acting on a changed field takes, in order of cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeClass {
    /// The row, and the supervisor where one lives.
    Live,
    /// A new run on the same disk.
    Restart,
    /// A new disk.
    Replace,
}

impl fmt::Display for ChangeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::Restart => "restart",
            Self::Replace => "replace",
        })
    }
}
