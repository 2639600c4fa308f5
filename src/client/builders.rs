//! Mounts, patches and network policies, as a program writes them.

use super::config::absolute;
use crate::spec::{self, ByteSize, GuestPath, MountSource, Name, NetworkPreset, NetworkSpec};

/// What is mounted into a sandbox.
#[derive(Clone, Debug)]
pub struct Mount {
    source: Source,
    readonly: bool,
}

#[derive(Clone, Debug)]
enum Source {
    Bind(String),
    Named(String),
    Tmpfs { size_mib: Option<u64>, mode: Option<u32> },
}

impl Mount {
    /// A file or directory of the host, which must exist.
    pub fn bind(path: impl Into<String>) -> Self {
        Self { source: Source::Bind(path.into()), readonly: false }
    }

    /// A volume that belongs to no project.
    pub fn named(name: impl Into<String>) -> Self {
        Self { source: Source::Named(name.into()), readonly: false }
    }

    /// Memory of the guest, half of it unless a size is said.
    pub const fn tmpfs() -> Self {
        Self { source: Source::Tmpfs { size_mib: None, mode: None }, readonly: false }
    }

    /// The guest cannot write to it.
    #[must_use]
    pub const fn readonly(mut self) -> Self {
        self.readonly = true;
        self
    }

    /// The most that a [`Mount::tmpfs`] holds, in MiB.
    #[must_use]
    pub const fn size_mib(mut self, mib: u64) -> Self {
        if let Source::Tmpfs { size_mib, .. } = &mut self.source {
            *size_mib = Some(mib);
        }
        self
    }

    /// Permission bits of the root of a [`Mount::tmpfs`]; default 0755.
    #[must_use]
    pub const fn mode(mut self, bits: u32) -> Self {
        if let Source::Tmpfs { mode, .. } = &mut self.source {
            *mode = Some(bits);
        }
        self
    }

    pub(super) fn into_spec(self) -> (bool, Result<MountSource, String>) {
        let source = match self.source {
            Source::Bind(path) => {
                absolute(&path).map(|path| MountSource::Bind { path, create: false })
            }
            Source::Named(name) => Name::new(name)
                .map(|volume| MountSource::Named { volume, external: true })
                .map_err(|error| error.to_string()),
            Source::Tmpfs { size_mib, mode } => {
                Ok(MountSource::Tmpfs { size: size_mib.map(ByteSize::from_mib), mode })
            }
        };
        (self.readonly, source)
    }
}

/// A change of a sandbox's file system before its first start.
#[derive(Clone, Debug)]
pub struct Patch(Result<spec::Patch, String>);

impl Patch {
    /// Writes a text file.
    pub fn text(path: &str, content: impl Into<String>) -> Self {
        let content = content.into();
        Self(at(path).map(|path| spec::Patch::Text { path, content, mode: None, replace: false }))
    }

    /// Makes a directory and its parents.
    pub fn mkdir(path: &str) -> Self {
        Self(at(path).map(|path| spec::Patch::Mkdir { path, mode: None }))
    }

    /// Appends to a file of the image.
    pub fn append(path: &str, content: impl Into<String>) -> Self {
        let content = content.into();
        Self(at(path).map(|path| spec::Patch::Append { path, content }))
    }

    /// Copies a file of the host.
    pub fn copy_file(source: &str, to: &str) -> Self {
        Self(from(source, to).map(|(source, to)| spec::Patch::CopyFile {
            source,
            to,
            mode: None,
            replace: false,
            digest: None,
        }))
    }

    /// Copies a tree of the host.
    pub fn copy_dir(source: &str, to: &str) -> Self {
        Self(from(source, to).map(|(source, to)| spec::Patch::CopyDir {
            source,
            to,
            replace: false,
            digest: None,
        }))
    }

    /// Makes a symbolic link.
    pub fn symlink(target: impl Into<String>, link: &str) -> Self {
        let target = target.into();
        Self(at(link).map(|at| spec::Patch::Symlink { target, at, replace: false }))
    }

    /// Removes a file or a tree; fine where there is none.
    pub fn remove(path: &str) -> Self {
        Self(at(path).map(|path| spec::Patch::Remove { path }))
    }

    /// Permission bits of what [`Patch::text`], [`Patch::mkdir`] or [`Patch::copy_file`] makes.
    #[must_use]
    pub fn mode(mut self, bits: u32) -> Self {
        if let Ok(
            spec::Patch::Text { mode, .. }
            | spec::Patch::Mkdir { mode, .. }
            | spec::Patch::CopyFile { mode, .. },
        ) = &mut self.0
        {
            *mode = Some(bits);
        }
        self
    }

    /// Lets something be where [`Patch::text`], a copy or [`Patch::symlink`] puts its own.
    #[must_use]
    pub fn replace(mut self) -> Self {
        if let Ok(
            spec::Patch::Text { replace, .. }
            | spec::Patch::CopyFile { replace, .. }
            | spec::Patch::CopyDir { replace, .. }
            | spec::Patch::Symlink { replace, .. },
        ) = &mut self.0
        {
            *replace = true;
        }
        self
    }

    pub(super) fn into_spec(self) -> Result<spec::Patch, String> {
        self.0
    }
}

fn at(path: &str) -> Result<GuestPath, String> {
    GuestPath::new(path).map_err(|error| error.to_string())
}

fn from(source: &str, to: &str) -> Result<(String, GuestPath), String> {
    Ok((absolute(source)?, at(to)?))
}

/// What a sandbox may reach.
#[derive(Clone, Debug)]
pub struct NetworkPolicy(pub(super) NetworkSpec);

impl NetworkPolicy {
    /// No network device at all.
    pub fn none() -> Self {
        Self::preset(NetworkPreset::None)
    }

    /// The public internet, and nothing private.
    pub fn public_only() -> Self {
        Self::preset(NetworkPreset::PublicOnly)
    }

    /// Everything.
    pub fn allow_all() -> Self {
        Self::preset(NetworkPreset::AllowAll)
    }

    fn preset(policy: NetworkPreset) -> Self {
        Self(NetworkSpec { policy: Some(policy), ..NetworkSpec::default() })
    }
}
