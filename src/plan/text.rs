//! The stable text form of a plan, which `msb plan` prints and tests compare.

use std::fmt;

use super::{
    Action, Cause, FieldChange, Orphan, Plan, Step, StepId, Summary, Withheld, WithheldReason,
};

/// How many digits of a digest are shown.
const DIGEST_DIGITS: usize = 12;

/// How many of those who wait for a sandbox are named.
const MAX_NAMES: usize = 4;

/// How many field changes are shown of one sandbox.
const MAX_CHANGES: usize = 32;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.project, self.summary)?;
        let mut shown = std::collections::BTreeSet::new();
        for step in &self.steps {
            writeln!(f, "{step}")?;
            if let Cause::SpecChanged { changes } = &step.cause
                && shown.insert(&step.resource)
            {
                write_changes(f, changes)?;
            }
        }
        for withheld in &self.withheld {
            writeln!(f, "{withheld}")?;
            if let Cause::SpecChanged { changes } = &withheld.cause {
                write_changes(f, changes)?;
            }
        }
        self.orphans.iter().try_for_each(|orphan| writeln!(f, "{orphan}"))
    }
}

fn write_changes(f: &mut fmt::Formatter<'_>, changes: &[FieldChange]) -> fmt::Result {
    for change in changes.iter().take(MAX_CHANGES) {
        writeln!(f, "     {change}")?;
    }
    match changes.len().checked_sub(MAX_CHANGES) {
        None | Some(0) => Ok(()),
        Some(more) => writeln!(f, "     and {more} more"),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.id, self.title(), self.cause)?;
        // Changes have a place each.
        if let (Some(origin), false) =
            (&self.origin, matches!(self.cause, Cause::SpecChanged { .. }))
        {
            write!(f, " ({}:{})", origin.file, origin.line)?;
        }
        if !self.needs.is_empty() {
            write!(f, " [needs {}]", Ids(&self.needs))?;
        }
        if !self.after.is_empty() {
            write!(f, " [after {}]", Ids(&self.after))?;
        }
        if self.optional {
            f.write_str(" (optional)")?;
        }
        if self.needs_confirmation {
            f.write_str(" (destroys data: asks first)")?;
        }
        Ok(())
    }
}

impl Step {
    /// What the step does and to what, as in `start sandbox db`.
    pub fn title(&self) -> String {
        let resource = &self.resource;
        match &self.action {
            Action::AwaitSandbox { condition } => format!("await {resource} {condition}"),
            Action::UpdateSandbox { live: true, .. } => format!("update {resource} while it runs"),
            Action::GrowVolume { quota } => format!("grow {resource} to {quota}"),
            action => format!("{} {resource}", action.verb()),
        }
    }
}

impl Action {
    /// The first word of a step's title.
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::PullImage { .. } => "pull",
            Self::CreateSandbox { .. } | Self::CreateVolume { .. } => "create",
            Self::UpdateSandbox { .. } | Self::UpdateVolume { .. } => "update",
            Self::StartSandbox { .. } => "start",
            Self::AwaitSandbox { .. } => "await",
            Self::StopSandbox { .. } => "stop",
            Self::RemoveSandbox { .. } | Self::RemoveVolume => "remove",
            Self::GrowVolume { .. } => "grow",
        }
    }
}

struct Ids<'a>(&'a [StepId]);

impl fmt::Display for Ids<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, id) in self.0.iter().enumerate() {
            let space = if position > 0 { " " } else { "" };
            write!(f, "{space}{id}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::SpecChanged { .. } => f.write_str("spec changed"),
            Self::ImageMoved { old, new, path: None } => {
                write!(f, "image moved {} -> {}", short(old), short(new))
            }
            Self::ImageMoved { old, new, path: Some(path) } => {
                write!(f, "image {path} changed {} -> {}", short(old), short(new))
            }
            Self::NotRunning { status, exit_code: Some(code) } => {
                write!(f, "{status} with exit code {code}")
            }
            Self::NotRunning { status, exit_code: None } => write!(f, "{status}"),
            Self::Crashed => f.write_str("crashed"),
            Self::DependencyReplaced { dependency } => write!(f, "{dependency} starts anew"),
            Self::NotDeclared => f.write_str("not declared"),
            Self::Forced => f.write_str("forced"),
            Self::Requested => f.write_str("requested"),
            Self::Awaited { by } => {
                let names: Vec<_> = by.iter().take(MAX_NAMES).map(|name| name.as_str()).collect();
                write!(f, "awaited by {}", names.join(", "))?;
                match by.len().checked_sub(MAX_NAMES) {
                    None | Some(0) => Ok(()),
                    Some(more) => write!(f, " and {more} more"),
                }
            }
        }
    }
}

/// The first digits of a digest.
fn short(digest: &str) -> &str {
    let digits = digest.split_once(':').map_or(digest, |(_, digits)| digits);
    digits.get(..DIGEST_DIGITS).unwrap_or(digits)
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "(unset)".to_owned());
        let (old, new) = (text(&self.old), text(&self.new));
        write!(f, "{} {old} -> {new} ({})", self.path, self.class)?;
        match &self.origin {
            Some(origin) => write!(f, " {}:{}", origin.file, origin.line),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "! {}: {} ({})", self.resource, self.reason, self.cause)?;
        match &self.origin {
            Some(origin) => write!(f, " {}:{}", origin.file, origin.line),
            None => Ok(()),
        }
    }
}

impl fmt::Display for WithheldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ProtectedReplace => "protected, not replaced unless forced by name",
            Self::ProtectedRemove => "protected, not removed",
            Self::VolumeShrink => "a volume never shrinks",
            Self::VolumeInUse => "in use by a sandbox that stays, not removed",
        })
    }
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "? sandbox {} is not declared", self.name)?;
        if let Some(file) = &self.file {
            write!(f, " (created by {file})")?;
        }
        f.write_str(if self.removed { ": removed" } else { ": kept" })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.create, "to create"),
            (self.replace, "to replace"),
            (self.restart, "to restart"),
            (self.start, "to start"),
            (self.update, "to update"),
            (self.stop, "to stop"),
            (self.remove, "to remove"),
            (self.unchanged, "unchanged"),
        ];
        let parts: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        f.write_str(if parts.is_empty() { "nothing to do" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}
