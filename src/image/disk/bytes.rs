//! The bytes of a disk, whatever format its file has, for a look at its root without a guest.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use msb_protocol::{FILE_SYSTEMS, RootDisk};

use super::parts::{SECTOR, parts};
use super::{look, open, qcow2};
use crate::image::cache::ImageRecord;
use crate::spec::{DiskFormat, Image, ImageSource};

/// The most that is read or decompressed in one look, in bytes: what a damaged disk may cost.
const MAX_WORK: u64 = 16 << 30;

/// A disk, or a part of one, that is only read.
#[derive(Debug)]
pub struct DiskBytes {
    file: File,
    format: Format,
    /// What of the disk this is, in bytes.
    start: u64,
    len: u64,
    work: Cell<u64>,
}

#[derive(Debug)]
enum Format {
    Raw,
    Qcow2(qcow2::Clusters),
}

/// Errors are sentences, without the path of the disk.
type Result<T> = std::result::Result<T, String>;

impl DiskBytes {
    /// The part of the disk `record` that holds the root of `image`, and the name of its file system:
    /// the choice that the guest makes too.
    pub fn root(record: &ImageRecord, image: &Image) -> Result<(Self, String)> {
        let (ImageSource::Disk { fstype, partition, writable, .. }, Some(format)) =
            (&image.source, record.disk)
        else {
            return Err("it is no disk image".to_owned());
        };
        let wanted = RootDisk {
            serial: String::new(),
            fstype: fstype.clone(),
            partition: *partition,
            writable: *writable,
        };
        let opened = open(&record.file, 0).map_err(|error| error.to_string())?;
        let (format, len) = match format {
            DiskFormat::Raw => (Format::Raw, opened.meta.len() / SECTOR * SECTOR),
            DiskFormat::Qcow2 { .. } => {
                let (clusters, bytes) = qcow2::Clusters::open(&opened.head)?;
                (Format::Qcow2(clusters), bytes)
            }
        };
        let mut disk = Self { file: opened.file, format, start: 0, len, work: Cell::new(0) };
        let found = parts(&disk)?;
        let probe = |(start, len): &(u64, u64)| disk.probe(*start, *len);
        let ((start, len), fstype) = wanted.choose(&(0, disk.len), &found, probe)?;
        (disk.start, disk.len) = (start, len);
        Ok((disk, fstype))
    }

    /// Whether the disk is what it was when `record` was made, as far as that can be told.
    pub fn is_still(record: &ImageRecord, image: &Image) -> bool {
        let now = look(image);
        matches!(now, Ok(Some(disk)) if disk.digest.as_str() == record.digest)
    }

    /// Which file system it holds, of those that can be told.
    pub fn file_system(&self) -> Option<&'static str> {
        self.probe(0, self.len)
    }

    fn probe(&self, start: u64, len: u64) -> Option<&'static str> {
        let holds = |(at, magic, _): &&(u64, &[u8], &str)| {
            let mut found = vec![0; magic.len()];
            let end = at + magic.len() as u64;
            end <= len && self.read(start + at, &mut found).is_ok() && found == *magic
        };
        FILE_SYSTEMS.iter().find(holds).map(|(_, _, name)| *name)
    }

    /// Its size in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buffer` with the bytes from `at` on.
    pub fn read(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        let count = buffer.len() as u64;
        if at.checked_add(count).is_none_or(|end| end > self.len) {
            return Err(format!("{count} bytes at {at} are beyond the end of {} bytes", self.len));
        }
        let at = self.start + at;
        match &self.format {
            Format::Raw => {
                self.spend(count)?;
                self.file.read_exact_at(buffer, at).map_err(|error| error.to_string())
            }
            Format::Qcow2(clusters) => {
                clusters.read(&self.file, at, buffer, &|bytes| self.spend(bytes))
            }
        }
    }

    fn spend(&self, bytes: u64) -> Result<()> {
        self.work.set(self.work.get().saturating_add(bytes));
        if self.work.get() > MAX_WORK {
            return Err(format!("more than {MAX_WORK} bytes would have to be read"));
        }
        Ok(())
    }
}
