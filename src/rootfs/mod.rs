//! Makes the disks that a guest boots from: the boot disk with the agent, and the writable disk.
#![allow(clippy::disallowed_methods, reason = "this module writes disks")]

pub mod ext4;
pub mod patch;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::home::Home;
use crate::image::erofs::{Attr, Builder, ErofsError};
use crate::runtime::AGENT;
use crate::spec::ByteSize;

/// What the kernel starts, as its command line says.
const INIT: &str = "init.krun";
/// Empty directories that the agent mounts on.
const MOUNT_POINTS: [&str; 6] = ["dev", "mnt", "proc", "run", "sys", "tmp"];
/// Changes with the contents of the boot disk beside the agent.
const LAYOUT: &[u8] = b"boot disk 1";

/// Why a disk could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file could not be made or renamed.
    #[error("{path}: cannot make the disk")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The writable disk could not be formatted.
    #[error("{path}: cannot format the disk")]
    Format {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ext4::FormatError,
    },
    /// The boot disk could not be written.
    #[error("{path}: cannot write the boot disk")]
    Boot {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ErofsError,
    },
}

/// The boot disk of this build: an EROFS file that holds the agent and empty mount points. Made
/// once and named by its content, so that builds side by side do not disturb each other.
pub fn boot_disk(home: &Home) -> Result<PathBuf, DiskError> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(LAYOUT).update(AGENT);
    let path = home.runtime().join(format!("boot-{}.erofs", &hasher.finalize().to_hex()[..16]));
    if path.exists() {
        return Ok(path);
    }
    let file = |source| DiskError::File { path: path.clone(), source };
    let boot = |source| DiskError::Boot { path: path.clone(), source };
    let temporary = temporary(&home.runtime()).map_err(file)?;
    let mut disk = Builder::new(temporary.as_file().try_clone().map_err(file)?).map_err(boot)?;
    disk.bytes(INIT, Attr::mode(0o755), AGENT).map_err(boot)?;
    for name in MOUNT_POINTS {
        disk.dir(name, Attr::mode(0o755)).map_err(boot)?;
    }
    disk.finish().map_err(boot)?;
    settle(temporary, &path).map_err(file)?;
    Ok(path)
}

/// Makes `path` an empty ext4 disk of `size`, unless it exists. It takes no room until it is
/// written to.
pub fn create_disk(path: &Path, size: ByteSize) -> Result<(), DiskError> {
    let file = |source| DiskError::File { path: path.to_owned(), source };
    if path.try_exists().map_err(file)? {
        return Ok(());
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    let temporary = temporary(dir).map_err(file)?;
    let mut uuid = [0; 16];
    getrandom::fill(&mut uuid).map_err(|error| file(io::Error::other(error.to_string())))?;
    ext4::format(temporary.as_file(), size.bytes(), uuid)
        .map_err(|source| DiskError::Format { path: path.to_owned(), source })?;
    settle(temporary, path).map_err(file)
}

/// A file that is gone when the process ends before [`settle`], unless by a kill.
fn temporary(dir: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(".making-").tempfile_in(dir)
}

/// Gives a finished file its name, so that after a power cut it is there whole or not at all.
fn settle(temporary: NamedTempFile, path: &Path) -> io::Result<()> {
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_boot_disk_is_made_once() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let home = Home::at(dir.path());
        home.create()?;
        let first = boot_disk(&home)?;
        let inode = fs::metadata(&first)?.ino();
        assert_eq!(fs::metadata(boot_disk(&home)?)?.ino(), inode);
        assert_eq!(fs::read_dir(home.runtime())?.count(), 1, "something is left over");
        Ok(())
    }

    #[test]
    fn an_upper_is_sparse_private_and_kept() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("upper.ext4");
        create_disk(&path, ByteSize::from_mib(4096))?;
        let meta = fs::metadata(&path)?;
        assert_eq!(meta.len(), 4 << 30);
        assert!(meta.blocks() * 512 < 1 << 20, "{} bytes", meta.blocks() * 512);
        assert_eq!(meta.mode() & 0o777, 0o600);
        create_disk(&path, ByteSize::from_mib(16))?;
        assert_eq!(fs::metadata(&path)?.len(), 4 << 30);
        assert!(create_disk(&dir.path().join("tiny"), ByteSize::from_mib(1)).is_err());
        assert_eq!(fs::read_dir(dir.path())?.count(), 1, "something is left over");
        Ok(())
    }
}
