//! Sources of binds: what may be shared, and making what is missing.
#![allow(clippy::disallowed_methods, reason = "this module looks at what the host shares")]

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::spec::{MountSource, SandboxSpec};

/// Permission bits of a directory that is made for a bind, whatever the umask.
const DIR_MODE: u32 = 0o755;

/// Why a bind cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// There is nothing.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// It is a socket, a device or the like.
    #[error("{} is neither a directory nor a regular file", .0.display())]
    Kind(PathBuf),
    /// It cannot be looked at.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The source.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory cannot be made.
    #[error("{} cannot be made", path.display())]
    Make {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl BindError {
    /// What to do about it.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Missing(_) => Some("make it, or let `create = true` make it a directory"),
            Self::Kind(_) => Some("share the directory that it is in"),
            Self::Unreadable { .. } | Self::Make { .. } => None,
        }
    }
}

/// Whether the source of a bind can be shared: a directory or a regular file, or something to
/// `create`. Changes nothing.
pub fn check_bind(path: &Path, create: bool) -> Result<(), BindError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() || found.is_file() => Ok(()),
        Ok(_) => Err(BindError::Kind(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound && create => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(BindError::Missing(path.to_owned()))
        }
        Err(source) => Err(BindError::Unreadable { path: path.to_owned(), source }),
    }
}

/// Makes the missing sources that are to be made, and checks all.
pub(super) fn provide(spec: &SandboxSpec) -> Result<(), BindError> {
    for mount in spec.volumes.values() {
        if let MountSource::Bind { path, create } = &mount.source {
            let path = Path::new(path);
            if *create {
                make(path).map_err(|source| BindError::Make { path: path.to_owned(), source })?;
            }
            check_bind(path, false)?;
        }
    }
    Ok(())
}

/// Makes a directory with its parents, unless it is there.
fn make(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), make)?;
    match fs::create_dir(path) {
        // By somebody else, meanwhile.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.and_then(|()| fs::set_permissions(path, Permissions::from_mode(DIR_MODE))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_directories_and_regular_files_are_shared() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        fs::write(path("file"), "").unwrap();
        symlink("file", path("link")).unwrap();
        symlink("gone", path("dangling")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        for fine in ["", "file", "link"] {
            check_bind(&path(fine), false).unwrap();
        }
        check_bind(&path("new"), true).unwrap();
        assert!(!path("new").exists());
        let wrong = |name, create| check_bind(&path(name), create).unwrap_err();
        for missing in ["new", "dangling"] {
            assert!(matches!(wrong(missing, false), BindError::Missing(_)), "{missing}");
        }
        for create in [false, true] {
            assert!(matches!(wrong("socket", create), BindError::Kind(_)));
            assert!(matches!(wrong("file/x", create), BindError::Unreadable { .. }));
        }
    }

    #[test]
    fn a_directory_is_made_with_its_parents() {
        let dir = tempfile::tempdir().unwrap();
        make(&dir.path().join("a/b")).unwrap();
        make(&dir.path().join("a/b")).unwrap();
        for made in ["a", "a/b"] {
            let mode = fs::metadata(dir.path().join(made)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, DIR_MODE, "{made}");
        }
        symlink("gone", dir.path().join("dangling")).unwrap();
        assert!(make(&dir.path().join("dangling")).is_err());
    }
}
