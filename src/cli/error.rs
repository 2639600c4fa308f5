//! The one error type of the command line: every conversion, hint and exit code is here.

use std::error::Error;
use std::fmt;

use crate::spec::Status;
use crate::supervisor::StatusEvent;

/// How `msb` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok,
    /// An operation failed.
    Failed,
    /// `plan --detailed-exitcode`: there is something to do.
    Changes,
    /// The Sandboxfile is invalid, or none was found.
    InvalidFile,
    /// Waiting took too long.
    TimedOut,
    /// A dependency failed or is unhealthy.
    Dependency,
    /// Another command is changing the project.
    LeaseHeld,
    /// A question could not be asked.
    NeedsConfirmation,
    /// The command line makes no sense.
    Usage,
    /// A part that runs microVMs is missing.
    RuntimeMissing,
    /// The code of a command in the guest.
    Guest(u8),
    /// Ctrl-C.
    Interrupted,
    /// Whoever read the output has gone away.
    BrokenPipe,
}

impl Exit {
    /// That of a sandbox that has ended.
    pub(crate) fn of_run(event: &StatusEvent) -> Self {
        match (event.status, event.exit_code) {
            (Status::Created | Status::Crashed, _) => Self::Failed,
            (_, Some(0) | None) => Self::Ok,
            (_, Some(code)) => Self::Guest(u8::try_from(code).unwrap_or(1)),
        }
    }

    /// The process's exit code.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Changes => 2,
            Self::InvalidFile => 3,
            Self::TimedOut => 4,
            Self::Dependency => 5,
            Self::LeaseHeld => 6,
            Self::NeedsConfirmation => 7,
            Self::Usage => 64,
            Self::RuntimeMissing => 125,
            Self::Guest(code) => code,
            Self::Interrupted => 130,
            Self::BrokenPipe => 141,
        }
    }
}

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) struct CliError {
    /// How the process ends.
    pub(crate) exit: Exit,
    /// What is printed; none where everything has been said.
    pub(crate) error: Option<Box<dyn Error + Send + Sync>>,
    /// What the user can do.
    pub(crate) hints: Vec<String>,
}

/// A message without a source.
#[derive(Debug)]
struct Message(String);

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Message {}

impl CliError {
    /// An error with its chain of sources.
    pub(crate) fn new(exit: Exit, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { exit, error: Some(error.into()), hints: Vec::new() }
    }

    /// An error that is only a sentence.
    pub(crate) fn message(exit: Exit, text: impl Into<String>) -> Self {
        Self::new(exit, Message(text.into()))
    }

    /// An exit code; what there is to say has been said.
    pub(crate) const fn silent(exit: Exit) -> Self {
        Self { exit, error: None, hints: Vec::new() }
    }

    /// Adds what the user can do.
    pub(crate) fn hint(mut self, text: impl Into<String>) -> Self {
        self.hints.push(text.into());
        self
    }

    /// The error and its sources as lines, outermost first.
    pub(crate) fn chain(&self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        let mut next = self.error.as_deref().map(|error| error as &(dyn Error + 'static));
        while let Some(error) = next {
            let line = error.to_string();
            // A wrapper that is transparent about its source says the same twice.
            if lines.last() != Some(&line) {
                lines.push(line);
            }
            next = error.source();
        }
        lines
    }
}

impl From<crate::home::HomeError> for CliError {
    fn from(error: crate::home::HomeError) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<crate::store::StoreError> for CliError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<crate::client::EventError> for CliError {
    fn from(error: crate::client::EventError) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<crate::reconcile::AdoptError> for CliError {
    fn from(error: crate::reconcile::AdoptError) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<crate::store::LeaseError> for CliError {
    fn from(error: crate::store::LeaseError) -> Self {
        let held = matches!(error, crate::store::LeaseError::Held { .. });
        let this = Self::new(if held { Exit::LeaseHeld } else { Exit::Failed }, error);
        if held { this.hint("`--lock-timeout` waits longer") } else { this }
    }
}

impl From<crate::reconcile::ObserveError> for CliError {
    fn from(error: crate::reconcile::ObserveError) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<crate::reconcile::HostError> for CliError {
    fn from(error: crate::reconcile::HostError) -> Self {
        use crate::image::ImageError;
        use crate::reconcile::HostError;

        let help = match &error {
            HostError::Failed(inner) => {
                inner.downcast_ref::<ImageError>().and_then(ImageError::help)
            }
            HostError::Unhealthy { sandbox, .. }
            | HostError::Exited { sandbox, .. }
            | HostError::Crashed { sandbox, .. } => Some(format!("`msb logs {sandbox}` shows all")),
            HostError::Patch { source, .. } => source.problem.help().map(str::to_owned),
            HostError::TimedOut { .. } => Some("`--wait-timeout` waits longer".to_owned()),
        };
        let this = Self::new(Exit::Failed, error);
        match help {
            Some(help) => this.hint(help),
            None => this,
        }
    }
}

impl From<crate::image::ImageError> for CliError {
    fn from(error: crate::image::ImageError) -> Self {
        let help = error.help();
        let this = Self::new(Exit::Failed, error);
        match help {
            Some(help) => this.hint(help),
            None => this,
        }
    }
}

impl From<crate::image::FindError> for CliError {
    fn from(error: crate::image::FindError) -> Self {
        use crate::image::FindError;

        let hint = match &error {
            FindError::Unknown(_) => "`msb images ls` lists what is there",
            FindError::Ambiguous { .. } => "give more digits of the digest, or `--platform`",
        };
        Self::new(Exit::Failed, error).hint(hint)
    }
}

impl From<crate::image::SaveError> for CliError {
    fn from(error: crate::image::SaveError) -> Self {
        use crate::image::SaveError;

        match error {
            SaveError::Write(source) if source.kind() == std::io::ErrorKind::BrokenPipe => {
                Self::silent(Exit::BrokenPipe)
            }
            SaveError::NoDocuments(_) | SaveError::NoLayer { .. } | SaveError::Damaged { .. } => {
                Self::new(Exit::Failed, error).hint(
                    "`msb images rm`, then `msb pull` or `msb images load`, brings its layers back",
                )
            }
            SaveError::NoLayers(_) | SaveError::Read { .. } | SaveError::Write(_) => {
                Self::new(Exit::Failed, error)
            }
        }
    }
}

impl From<crate::image::RemoveError> for CliError {
    fn from(error: crate::image::RemoveError) -> Self {
        use crate::image::RemoveError;

        let hint = match &error {
            RemoveError::InUse { .. } => Some("`msb down` or `msb rm` removes the sandboxes"),
            RemoveError::Busy { .. } => Some("try again when the other command has ended"),
            RemoveError::File { .. } | RemoveError::Lock(_) | RemoveError::Store(_) => None,
        };
        let this = Self::new(Exit::Failed, error);
        match hint {
            Some(hint) => this.hint(hint),
            None => this,
        }
    }
}

impl From<crate::reconcile::VolumeError> for CliError {
    fn from(error: crate::reconcile::VolumeError) -> Self {
        use crate::reconcile::VolumeError;

        let hint = match &error {
            VolumeError::Unknown(_) => Some("`msb volume ls` lists what is there"),
            VolumeError::InUse { .. } => Some("`msb down` or `msb rm` removes the sandboxes"),
            VolumeError::Protected(_) => {
                Some("take `protect` out of the Sandboxfile, then `msb up`")
            }
            VolumeError::NoSize => Some("leave the size out, or `--kind disk`"),
            _ => None,
        };
        let busy = matches!(&error, VolumeError::Lease(crate::store::LeaseError::Held { .. }));
        let this = Self::new(if busy { Exit::LeaseHeld } else { Exit::Failed }, error);
        match hint {
            Some(hint) => this.hint(hint),
            None => this,
        }
    }
}

impl From<crate::plan::PlanError> for CliError {
    fn from(error: crate::plan::PlanError) -> Self {
        use crate::plan::PlanError;

        let (exit, hint) = match &error {
            PlanError::Cycle { .. } | PlanError::Pattern { .. } | PlanError::Volume { .. } => {
                (Exit::InvalidFile, None)
            }
            PlanError::Unknown { .. } => (Exit::Usage, Some("`msb ps` lists what exists")),
            PlanError::WouldEmpty { .. } => (Exit::NeedsConfirmation, Some("`--allow-empty`")),
            PlanError::StillRuns { .. } => (Exit::Failed, Some("`msb rm --stop` stops it first")),
            PlanError::NotCreated { .. } | PlanError::StoredSpec { .. } => (Exit::Failed, None),
        };
        let this = Self::new(exit, error);
        match hint {
            Some(hint) => this.hint(hint),
            None => this,
        }
    }
}

impl From<crate::manifest::UnknownSandbox> for CliError {
    fn from(error: crate::manifest::UnknownSandbox) -> Self {
        let suggestion = error.suggestion.clone();
        let this = Self::new(Exit::Usage, error);
        match suggestion {
            Some(name) => this.hint(format!("did you mean `{name}`?")),
            None => this,
        }
    }
}

impl From<crate::runtime::Unavailable> for CliError {
    fn from(error: crate::runtime::Unavailable) -> Self {
        let help = error.help.clone();
        let this = Self::new(Exit::RuntimeMissing, error);
        if help.is_empty() { this } else { this.hint(help) }
    }
}

impl From<crate::runtime::setup::SetupError> for CliError {
    fn from(error: crate::runtime::setup::SetupError) -> Self {
        let hint = super::commands::setup_hint(&error);
        let this = Self::new(Exit::RuntimeMissing, error);
        match hint {
            Some(hint) => this.hint(hint),
            None => this,
        }
    }
}

impl From<crate::rootfs::DiskError> for CliError {
    fn from(error: crate::rootfs::DiskError) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<crate::supervisor::ControlError> for CliError {
    fn from(error: crate::supervisor::ControlError) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<crate::client::ExecError> for CliError {
    fn from(error: crate::client::ExecError) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<crate::client::FsError> for CliError {
    fn from(error: crate::client::FsError) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<std::io::Error> for CliError {
    /// For standard output; file errors come with their path as other types.
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::silent(Exit::BrokenPipe),
            _ => Self::new(Exit::Failed, error),
        }
    }
}

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: cannot {verb} the file")]
pub(crate) struct FileError {
    pub(crate) path: String,
    pub(crate) verb: &'static str,
    pub(crate) source: std::io::Error,
}

impl FileError {
    pub(crate) fn read(path: &std::path::Path, source: std::io::Error) -> Self {
        Self { path: path.display().to_string(), verb: "read", source }
    }

    pub(crate) fn write(path: &std::path::Path, source: std::io::Error) -> Self {
        Self { path: path.display().to_string(), verb: "write", source }
    }
}

impl From<FileError> for CliError {
    fn from(error: FileError) -> Self {
        Self::new(Exit::Failed, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_says_nothing_twice() {
        let source = std::io::Error::other("disk on fire");
        let error = CliError::from(FileError::read(std::path::Path::new("/x"), source));
        assert_eq!(error.chain(), ["/x: cannot read the file", "disk on fire"]);
        assert!(CliError::silent(Exit::Changes).chain().is_empty());
    }
}
