//! The JSON form of a plan: the output contract `msb.plan/1`.
//!
//! Fields may be added to it within a version; none is removed or changes its meaning. Specs are
//! not shown, not even by hash: a hash over environment values lets short ones be guessed.

use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};

use super::{Action, Plan, Step};

/// The name of the contract.
const SCHEMA: &str = "msb.plan/1";

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_struct("Plan", 7)?;
        map.serialize_field("schema", SCHEMA)?;
        map.serialize_field("project", &self.project)?;
        map.serialize_field("serial", &self.serial)?;
        map.serialize_field("summary", &self.summary)?;
        map.serialize_field("steps", &self.steps)?;
        map.serialize_field("withheld", &self.withheld)?;
        map.serialize_field("orphans", &self.orphans)?;
        map.end()
    }
}

impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("action", self.action.kind())?;
        map.serialize_entry("resource", &self.resource)?;
        map.serialize_entry("cause", &self.cause)?;
        if let Some(origin) = &self.origin {
            map.serialize_entry("origin", origin)?;
        }
        map.serialize_entry("needs", &self.needs)?;
        map.serialize_entry("after", &self.after)?;
        map.serialize_entry("needs_confirmation", &self.needs_confirmation)?;
        map.serialize_entry("optional", &self.optional)?;
        match &self.action {
            Action::PullImage { digest, .. } => map.serialize_entry("image_digest", digest)?,
            Action::CreateSandbox { image_digest, .. } => {
                map.serialize_entry("image_digest", image_digest)?;
            }
            Action::UpdateSandbox { live, .. } => map.serialize_entry("live", live)?,
            Action::AwaitSandbox { condition } => map.serialize_entry("condition", condition)?,
            Action::GrowVolume { quota } => map.serialize_entry("quota", quota)?,
            Action::StartSandbox { .. }
            | Action::StopSandbox { .. }
            | Action::RemoveSandbox { .. }
            | Action::CreateVolume { .. }
            | Action::UpdateVolume { .. }
            | Action::RemoveVolume => {}
        }
        map.end()
    }
}

impl Action {
    /// The action's name in machine-readable output.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::PullImage { .. } => "pull_image",
            Self::CreateSandbox { .. } => "create_sandbox",
            Self::UpdateSandbox { .. } => "update_sandbox",
            Self::StartSandbox { .. } => "start_sandbox",
            Self::AwaitSandbox { .. } => "await_sandbox",
            Self::StopSandbox { .. } => "stop_sandbox",
            Self::RemoveSandbox { .. } => "remove_sandbox",
            Self::CreateVolume { .. } => "create_volume",
            Self::UpdateVolume { .. } => "update_volume",
            Self::GrowVolume { .. } => "grow_volume",
            Self::RemoveVolume => "remove_volume",
        }
    }
}
