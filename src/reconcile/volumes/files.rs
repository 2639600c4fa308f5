//! The files of a volume.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::home::Home;
use crate::reconcile::journal::remove_dirs;
use crate::reconcile::record;
use crate::rootfs::{self, DiskError};
use crate::spec::{ByteSize, VolumeKind, VolumeSpec};
use crate::store::VolumeRow;

const RECORD: &str = "volume.json";
const DISK: &str = "data.ext4";
const DIR: &str = "data";
/// What a new directory volume may be used for by others; its directory is private.
const DIR_MODE: u32 = 0o755;

/// Why the files of a volume could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A file or a directory.
    #[error("{path}: cannot {what}")]
    File {
        /// Which.
        path: PathBuf,
        /// What could not be done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

fn fail(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError::File { path: path.to_owned(), what, source }
}

/// Where the volume keeps what it holds.
pub(super) fn data(home: &Home, id: &str, kind: VolumeKind) -> PathBuf {
    home.volume(id).join(match kind {
        VolumeKind::Disk => DISK,
        VolumeKind::Dir => DIR,
    })
}

/// Makes the directory of `row`, under its name once it is whole and on the disk. What a failure
/// leaves, [`remove`] removes.
pub(super) fn make(home: &Home, row: &VolumeRow) -> Result<(), FileError> {
    let made = home.tmp().join(&row.id);
    fill(&made, row)?;
    super::super::crash_point("volume-before-rename");
    let dir = home.volume(&row.id);
    fs::rename(&made, &dir).map_err(fail(&dir, "make the directory"))?;
    sync_dir(&home.volumes())?;
    super::super::crash_point("volume-before-row");
    Ok(())
}

fn fill(made: &Path, row: &VolumeRow) -> Result<(), FileError> {
    let mut private = DirBuilder::new();
    private.recursive(true).mode(0o700);
    private.create(made).map_err(fail(made, "make the directory"))?;
    match row.kind {
        VolumeKind::Disk => {
            let size = row.quota_bytes.map_or(VolumeSpec::DEFAULT_QUOTA, ByteSize::from_bytes);
            rootfs::create_disk(&made.join(DISK), size)?;
        }
        VolumeKind::Dir => {
            let dir = made.join(DIR);
            DirBuilder::new()
                .mode(DIR_MODE)
                .create(&dir)
                .map_err(fail(&dir, "make the directory"))?;
        }
    }
    write_record(made, row)?;
    sync_dir(made)
}

/// Writes the record of `row` into `dir`, over the one that is there.
pub(super) fn write_record(dir: &Path, row: &VolumeRow) -> Result<(), FileError> {
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        serde_json::to_writer(&mut file, row).map_err(io::Error::from)?;
        file.flush()?;
        file.as_file().sync_all()?;
        file.persist(dir.join(RECORD)).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(fail(dir, "write the record"))
}

/// The record of a directory; `None` where there is none that makes sense.
pub(in crate::reconcile) fn read_record(dir: &Path) -> io::Result<Option<VolumeRow>> {
    record::read(&dir.join(RECORD))
}

/// Removes the directory of volume `id`, and what was made for it.
pub(in crate::reconcile) fn remove(home: &Home, id: &str) -> Result<(), FileError> {
    let removed = remove_dirs(home, &home.volume(id), id);
    removed.map_err(|(path, source)| fail(&path, "remove the directory")(source))
}

/// Makes the disk of a volume `size` long; a longer one stays as it is. The file system in it grows
/// when it is mounted.
pub(super) fn grow(path: &Path, size: ByteSize) -> Result<(), FileError> {
    let grow = || {
        let file = OpenOptions::new().write(true).open(path)?;
        if file.metadata()?.len() < size.bytes() {
            file.set_len(size.bytes())?;
            file.sync_all()?;
        }
        Ok(())
    };
    grow().map_err(fail(path, "grow the disk"))
}

fn sync_dir(path: &Path) -> Result<(), FileError> {
    let sync = || File::open(path)?.sync_all();
    sync().map_err(fail(path, "write the directory to the disk"))
}
