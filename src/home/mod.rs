//! Where things live on disk.
//!
//! ```text
//! $MSB_HOME                 0700; default $XDG_DATA_HOME/msb, else ~/.local/share/msb
//! ├─ msb.db                 the store (0600), with its WAL beside it
//! ├─ events                 written to when the store has a new event (0600); it holds nothing
//! ├─ images/                what is pulled and built
//! │  ├─ blobs/              compressed layers, by digest
//! │  ├─ erofs/              one bootable file per image digest
//! │  └─ patches/            layers that patches make, by what they are made of
//! ├─ runtime/               kernel library and the kernel made from it
//! ├─ sandboxes/ID/          disks, logs, boot console of one sandbox
//! ├─ volumes/ID/            a volume: its disk or its directory, and its record
//! ├─ run/ID.sock            control socket of its supervisor (0600)
//! └─ tmp/                   what is being made; renamed into place when done
//! ```
#![allow(clippy::disallowed_methods, reason = "this module makes the state directories")]

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// None of `MSB_HOME`, `XDG_DATA_HOME` and `HOME` is set.
    #[error("no place for state: set MSB_HOME or HOME")]
    Unset,
    /// The path is relative.
    #[error("{0}: the state directory must be an absolute path")]
    Relative(PathBuf),
    /// A directory could not be made or its mode not be set.
    #[error("{path}: cannot make the state directory")]
    Create {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Home {
    /// The state directory that the environment, as told by `var`, names. Nothing is made.
    pub fn locate(var: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<Self, HomeError> {
        let set = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = set("MSB_HOME")
            .or_else(|| set("XDG_DATA_HOME").map(|base| base.join("msb")))
            .or_else(|| set("HOME").map(|home| home.join(".local/share/msb")))
            .ok_or(HomeError::Unset)?;
        if root.is_relative() {
            return Err(HomeError::Relative(root));
        }
        Ok(Self { root })
    }

    /// The state directory at `root`. Nothing is made.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Makes the directories that are missing, each with mode 0700.
    pub fn create(&self) -> Result<(), HomeError> {
        make_private(&self.root)?;
        for dir in [
            self.images(),
            self.blobs(),
            self.erofs(),
            self.patches(),
            self.runtime(),
            self.sandboxes(),
            self.volumes(),
            self.run(),
            self.tmp(),
        ] {
            make_private(&dir)?;
        }
        Ok(())
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The store's file.
    pub fn database(&self) -> PathBuf {
        self.root.join("msb.db")
    }

    /// The file whose changes say that the store has new events.
    pub fn events(&self) -> PathBuf {
        self.root.join("events")
    }

    /// What is pulled and built.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Compressed layers of images.
    pub fn blobs(&self) -> PathBuf {
        self.root.join("images/blobs")
    }

    /// Bootable image files.
    pub fn erofs(&self) -> PathBuf {
        self.root.join("images/erofs")
    }

    /// Layers that patches make over images.
    pub fn patches(&self) -> PathBuf {
        self.root.join("images/patches")
    }

    /// The kernel library and the kernel.
    pub fn runtime(&self) -> PathBuf {
        self.root.join("runtime")
    }

    /// All sandbox directories.
    pub fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    /// The directory of sandbox `id`.
    pub fn sandbox(&self, id: &str) -> PathBuf {
        self.root.join("sandboxes").join(id)
    }

    /// All volume directories.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// The directory of volume `id`.
    pub fn volume(&self, id: &str) -> PathBuf {
        self.root.join("volumes").join(id)
    }

    /// Control sockets.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// The control socket of the supervisor of sandbox `id`.
    pub fn socket(&self, id: &str) -> PathBuf {
        self.root.join("run").join(format!("{id}.sock"))
    }

    /// What is being made; on the same file system as everything it is renamed to.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }
}

fn make_private(path: &Path) -> Result<(), HomeError> {
    let fail = |source| HomeError::Create { path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => {
            if meta.permissions().mode() & 0o077 != 0 {
                fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(fail)?;
            }
            return Ok(());
        }
        Ok(_) => return Err(fail(io::Error::from(io::ErrorKind::NotADirectory))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail(error)),
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locate(vars: &[(&str, &str)]) -> Result<Home, HomeError> {
        Home::locate(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).into()))
    }

    #[test]
    fn the_first_variable_wins() {
        let all = [("MSB_HOME", "/m"), ("XDG_DATA_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(locate(&all).ok(), Some(Home::at("/m")));
        assert_eq!(locate(&all[1..]).ok(), Some(Home::at("/x/msb")));
        assert_eq!(locate(&all[2..]).ok(), Some(Home::at("/h/.local/share/msb")));
        assert!(matches!(locate(&[]), Err(HomeError::Unset)));
        assert!(matches!(locate(&[("MSB_HOME", "m")]), Err(HomeError::Relative(_))));
    }

    #[test]
    fn directories_are_private() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let home = Home::at(dir.path().join("home"));
        home.create()?;
        assert_eq!(fs::metadata(home.run())?.permissions().mode() & 0o777, 0o700);
        fs::set_permissions(home.run(), fs::Permissions::from_mode(0o755))?;
        home.create()?;
        assert_eq!(fs::metadata(home.run())?.permissions().mode() & 0o777, 0o700);
        Ok(())
    }
}
