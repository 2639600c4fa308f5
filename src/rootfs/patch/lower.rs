//! What patches are applied to: an image, or the file system of a disk image.

use std::fs::File;

use super::error::Problem;
use super::layer::Base;
use super::tree::Name;
use crate::image::DiskBytes;
use crate::image::erofs::Attr;
use crate::image::erofs::reader::Image;
use crate::rootfs::ext4::view::View;
use crate::spec::ImageSource;

/// What overlayfs says about a directory of a layer to itself.
const OVERLAY_XATTRS: &[u8] = b"trusted.overlay.";
/// File systems of disks that can be looked into.
const DISK_FILE_SYSTEMS: [&str; 3] = ["ext2", "ext3", "ext4"];

/// What is below the layer; it is only looked at.
#[derive(Debug)]
pub(super) enum Lower {
    Image(Image),
    Disk(View),
}

/// Something in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    number: u64,
    /// Type and permissions.
    pub(super) mode: u16,
    /// In bytes.
    pub(super) size: u64,
}

type Result<T> = std::result::Result<T, Problem>;

/// The number of an inode of a disk.
fn small(number: u64) -> Result<u32> {
    u32::try_from(number).map_err(|error| Problem::Disk(error.to_string()))
}

impl Lower {
    /// Opens what the image has as its root.
    pub(super) fn open(base: Base<'_>) -> Result<Self> {
        match base.image.source {
            ImageSource::Disk { writable: true, .. } => Err(Problem::WrittenDisk),
            ImageSource::Disk { .. } => Self::open_disk(base),
            ImageSource::Oci(_) | ImageSource::Dir(_) | ImageSource::Archive(_) => {
                let file = File::open(&base.record.file).map_err(|error| error.to_string());
                file.and_then(Image::open).map(Self::Image).map_err(Problem::Image)
            }
        }
    }

    fn open_disk(base: Base<'_>) -> Result<Self> {
        let (bytes, wanted) = DiskBytes::root(base.record, base.image).map_err(Problem::Disk)?;
        // What a spec says it is may be wrong.
        let found = bytes.file_system().unwrap_or(&wanted);
        match [&wanted, found].into_iter().find(|name| !DISK_FILE_SYSTEMS.contains(name)) {
            Some(name) => Err(Problem::FileSystem(name.to_owned())),
            None => View::open(bytes).map(Self::Disk).map_err(Problem::Disk),
        }
    }

    /// Says when the image is not what it was: others may write to a disk image.
    pub(super) fn check_unchanged(&self, base: Base<'_>) -> Result<()> {
        match self {
            Self::Disk(_) if !DiskBytes::is_still(base.record, base.image) => {
                Err(Problem::Disk("it changed while it was read".to_owned()))
            }
            Self::Image(_) | Self::Disk(_) => Ok(()),
        }
    }

    pub(super) fn root(&self) -> Result<Stat> {
        match self {
            Self::Image(image) => {
                let root = image.root().map_err(Problem::Image)?;
                Ok(Stat { number: root.nid, mode: root.mode, size: root.size })
            }
            Self::Disk(view) => {
                let root = view.root().map_err(Problem::Disk)?;
                Ok(Stat { number: root.number.into(), mode: root.mode, size: root.size })
            }
        }
    }

    pub(super) fn stat(&self, number: u64) -> Result<Stat> {
        let (mode, size) = match self {
            Self::Image(image) => {
                let stat = image.stat(number).map_err(Problem::Image)?;
                (stat.mode, stat.size)
            }
            Self::Disk(view) => {
                let inode = view.inode(small(number)?).map_err(Problem::Disk)?;
                (inode.mode, inode.size)
            }
        };
        Ok(Stat { number, mode, size })
    }

    /// The entries of a directory, sorted, with the numbers of what they name.
    pub(super) fn names(&self, dir: Stat) -> Result<Vec<(Name, u64)>> {
        match self {
            Self::Image(image) => {
                let names = image.stat(dir.number).and_then(|stat| image.names(&stat));
                let names = names.map_err(Problem::Image)?.into_iter();
                let names = names.filter(|(name, _)| !matches!(name.as_slice(), b"." | b".."));
                Ok(names.map(|(name, number)| (name.into(), number)).collect())
            }
            Self::Disk(view) => {
                let inode = view.inode(small(dir.number)?);
                let names = inode.and_then(|inode| view.names(&inode)).map_err(Problem::Disk)?;
                Ok(names.into_iter().map(|(name, at)| (name.into(), at.into())).collect())
            }
        }
    }

    /// The target of a symbolic link.
    pub(super) fn target(&self, link: Stat) -> Result<Vec<u8>> {
        match self {
            Self::Image(image) => {
                let target = image.stat(link.number).and_then(|stat| image.contents(&stat));
                target.map_err(Problem::Image)
            }
            Self::Disk(view) => {
                let inode = view.inode(small(link.number)?);
                inode.and_then(|inode| view.target(&inode)).map_err(Problem::Disk)
            }
        }
    }

    /// Reads contents of a file from `at` on; how many bytes, of those that `buffer` has room for.
    pub(super) fn read(&self, file: Stat, at: u64, buffer: &mut [u8]) -> Result<usize> {
        match self {
            Self::Image(image) => {
                let stat = image.stat(file.number);
                let bytes = stat.and_then(|stat| image.read(&stat, at, buffer.len() as u64));
                let bytes = bytes.map_err(Problem::Image)?;
                buffer[..bytes.len()].copy_from_slice(&bytes);
                Ok(bytes.len())
            }
            Self::Disk(view) => {
                let inode = view.inode(small(file.number)?);
                let read = inode.and_then(|inode| view.read(&inode, at, buffer));
                read.map_err(Problem::Disk)?;
                Ok(buffer.len())
            }
        }
    }

    /// What a copy of it carries.
    pub(super) fn attr(&self, of: Stat) -> Result<Attr> {
        let mut attr = match self {
            Self::Image(image) => {
                let stat = image.stat(of.number).map_err(Problem::Image)?;
                Attr {
                    mode: stat.mode & 0o7777,
                    uid: stat.uid,
                    gid: stat.gid,
                    mtime: stat.mtime,
                    mtime_nsec: stat.mtime_nsec,
                    xattrs: stat.xattrs,
                }
            }
            Self::Disk(view) => {
                let inode = view.inode(small(of.number)?);
                inode.and_then(|inode| view.attr(&inode)).map_err(Problem::Disk)?
            }
        };
        attr.xattrs.retain(|name, _| !name.starts_with(OVERLAY_XATTRS));
        Ok(attr)
    }
}
