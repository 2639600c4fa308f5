//! Images that are disks: raw, qcow2 and VMDK files with a file system in them.
//!
//! ```text
//! first bytes ─▶ format ─┬─ raw, qcow2 without parents, one flat extent ─▶ given to the VM as it is
//!                        └─ other VMDKs ─▶ copied once into a raw file of the cache
//! ```
//!
//! What a file says of itself decides, here and once: the VM process is told the format, and a file
//! that names another one (a backing file, a data file, an extent elsewhere) is refused. Of a disk that a
//! guest writes to, its name decides: the guest may have written a header of any format into it.
//! [`DiskBytes`] reads a disk without a guest, for patches, which look at what they change.

mod bytes;
mod parts;
mod qcow2;
mod vmdk;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;

pub use self::bytes::DiskBytes;
use self::vmdk::Extent;
use super::cache::{ImageCache, ImageRecord, platform_of};
use super::config::ImageConfig;
use super::digest::Digest;
use super::error::Reason;
use super::lock::FileLock;
use super::progress::{Progress, ProgressEvent};
use super::pull::{Output, image_lock};
use super::rows::SourceKey;
use crate::spec::{DiskFormat, Image, ImageSource};
use crate::store::ImageDocuments;

/// What the rows of copied disks begin with.
const PREFIX: &str = "disk:";
/// What stands where other images have a manifest: there is none, and no layers.
pub(super) const DOCUMENT: &[u8] = br#"{"mediaType":"application/vnd.msb.disk.v1+json"}"#;
/// And a configuration: it says nothing.
const CONFIG: &[u8] = br#"{"rootfs":{}}"#;
/// First in what is hashed: another way to hash makes other digests.
const VERSION: &str = "disk 1";
/// What is read of a file to tell what it is, and to see that it has changed, in bytes.
const HEAD_BYTES: usize = 64 << 10;
/// What a qcow2 file is called that a guest writes to.
const QCOW2: &str = "qcow2";
/// Of a format that is not taken: where in the file, what is there, and what it is.
const OTHERS: [(usize, &[u8], &str); 5] = [
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (0x40, &[0x7f, 0x10, 0xda, 0xbe], "VDI"),
    (0, b"COWD", "VMDK (ESX server)"),
    (0, b"QED\0", "QED"),
];

/// A disk image as its file says it is.
#[derive(Debug)]
pub(super) struct DiskImage {
    /// What a sandbox's disk belongs to; see [`look`].
    pub(super) digest: Digest,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// The file can be given to a VM.
    Here { file: PathBuf, format: DiskFormat, size_bytes: u64 },
    /// It is put together from these.
    Extents(Vec<Extent>),
}

/// A problem of a disk image.
fn wrong(path: &Path, problem: impl Into<String>) -> Reason {
    Reason::Disk { path: path.to_owned(), problem: problem.into() }
}

fn unreadable(path: &Path, source: io::Error) -> Reason {
    match source.kind() {
        io::ErrorKind::NotFound => Reason::NoSuchPath(path.to_owned()),
        _ => Reason::File { what: "cannot be read", path: path.to_owned(), source },
    }
}

/// A file that is part of a disk image, opened.
struct Opened {
    file: File,
    meta: fs::Metadata,
    head: Vec<u8>,
}

/// Opens a regular file and reads its start. Never waits.
fn open(path: &Path, flags: i32) -> Result<Opened, Reason> {
    let mut options = File::options();
    let options = options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | flags);
    let file = options.open(path).map_err(|error| unreadable(path, error))?;
    let meta = file.metadata().map_err(|error| unreadable(path, error))?;
    if !meta.is_file() {
        return Err(wrong(path, "it is not a regular file"));
    }
    let mut head = vec![0; HEAD_BYTES];
    let mut filled = 0;
    while filled < head.len() {
        match file.read_at(&mut head[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(path, error)),
        }
    }
    head.truncate(filled);
    Ok(Opened { file, meta, head })
}

/// Looks at the disk that the image is: the sizes, times and inodes of its files and their first
/// bytes are what it is known by. One that a guest writes to is known by its path: it is what it is.
pub(super) fn look(image: &Image) -> Result<Option<DiskImage>, Reason> {
    let ImageSource::Disk { path: text, fstype, partition, writable } = &image.source else {
        return Ok(None);
    };
    let path = Path::new(text);
    let opened = open(path, 0)?;
    let mut marks = format!("{VERSION}\n{fstype:?} {partition:?} {writable}\n");
    if *writable {
        marks.push_str(text);
    } else {
        mark(&mut marks, &opened);
    }
    let place = match if *writable { written(path, &opened) } else { place(path, &opened) }? {
        Place::Extents(extents) => {
            for file in extents.iter().filter_map(Extent::file).filter(|file| *file != path) {
                mark(&mut marks, &open(file, libc::O_NOFOLLOW)?);
            }
            Place::Extents(extents)
        }
        here => {
            if let Place::Here { file, .. } = &here
                && file != path
            {
                mark(&mut marks, &open(file, libc::O_NOFOLLOW)?);
            }
            here
        }
    };
    Ok(Some(DiskImage { digest: Digest::of(marks.as_bytes()), place }))
}

fn mark(marks: &mut String, opened: &Opened) {
    let meta = &opened.meta;
    let head = blake3::hash(&opened.head);
    let line = format!(
        "{} {}.{:09} {} {head}\n",
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ino()
    );
    marks.push_str(&line);
}

/// Whether the file is called `NAME.extension`.
fn is_called(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// Where the bytes are of a disk that a guest writes to. What its name says and what its content says
/// must be the same.
fn written(path: &Path, opened: &Opened) -> Result<Place, Reason> {
    if vmdk::is_vmdk(&opened.head) {
        let problem =
            "a VMDK cannot be written to; `qemu-img convert -O qcow2` makes a file that can";
        return Err(wrong(path, problem));
    }
    let problem = match (is_called(path, QCOW2), opened.head.starts_with(&qcow2::MAGIC)) {
        (true, false) => "it is called `.qcow2` and is something else",
        (false, true) => {
            "its content is qcow2; to be written to, it must be called `.qcow2`, since a guest can \
             write what looks like that to any disk"
        }
        _ => return place(path, opened),
    };
    Err(wrong(path, problem))
}

/// Where the bytes of the disk are.
fn place(path: &Path, opened: &Opened) -> Result<Place, Reason> {
    let here =
        |file: &Path, format, size_bytes| Place::Here { file: file.to_owned(), format, size_bytes };
    let head = opened.head.as_slice();
    if head.starts_with(&qcow2::MAGIC) {
        let bytes = qcow2::check(head).map_err(|problem| wrong(path, problem))?;
        return Ok(here(path, DiskFormat::Qcow2 { bytes }, opened.meta.size()));
    }
    if let Some(extents) = vmdk::extents(path, opened)? {
        return Ok(match &extents[..] {
            [Extent::Flat { file, offset: 0, bytes }] => here(file, DiskFormat::Raw, *bytes),
            _ => Place::Extents(extents),
        });
    }
    let is = |(at, magic, _): &&(usize, &[u8], &str)| {
        head.get(*at..).is_some_and(|rest| rest.starts_with(magic))
    };
    if let Some((_, _, name)) = OTHERS.iter().find(is) {
        let problem = format!("{name} is not supported; `qemu-img convert -O qcow2` makes what is");
        return Err(wrong(path, problem));
    }
    if opened.meta.size() == 0 {
        return Err(wrong(path, "it is empty"));
    }
    Ok(here(path, DiskFormat::Raw, opened.meta.size()))
}

/// The path that a row's name states. `None` for rows of other images.
pub(super) fn parse(reference: &str) -> Option<&Path> {
    reference.strip_prefix(PREFIX).map(Path::new)
}

impl DiskImage {
    /// What can be given to a VM, if it is there.
    pub(super) fn record(&self, cache: &ImageCache) -> Result<Option<ImageRecord>, Reason> {
        let Place::Here { file, format, size_bytes } = &self.place else {
            let row = cache.row(&self.digest)?;
            return Ok(row.map(|row| ImageRecord { disk: Some(DiskFormat::Raw), ..row }));
        };
        Ok(Some(ImageRecord {
            digest: self.digest.to_string(),
            config: ImageConfig::default(),
            file: file.clone(),
            size_bytes: *size_bytes,
            disk: Some(*format),
        }))
    }

    /// Puts it together where that is needed.
    pub(super) async fn pull(
        self,
        cache: &ImageCache,
        image: &Image,
        progress: Arc<dyn Progress>,
    ) -> Result<ImageRecord, Reason> {
        let waiting = || progress.event(ProgressEvent::Waiting);
        let lock = image_lock(&cache.home.blobs(), self.digest.hex());
        let lock = FileLock::acquire(lock, waiting).await?;
        let Place::Extents(extents) = &self.place else {
            return self.record(cache)?.ok_or(Reason::Cancelled);
        };
        if let Some(record) = self.record(cache)? {
            progress.event(ProgressEvent::Done { size_bytes: record.size_bytes, cached: true });
            return Ok(record);
        }
        let tmp = cache.home.tmp().join(format!("image-{}.tmp", self.digest.hex()));
        let file = cache.file(&self.digest);
        let (extents, limit, told) =
            (extents.clone(), cache.limits.unpacked_bytes, progress.clone());
        let to = file.clone();
        // It holds the lock: a copy that goes on after its pull was dropped keeps others out.
        let copy = move || {
            let out = Output::at(tmp.clone());
            let fail = |source| Reason::File { what: "cannot be made", path: tmp.clone(), source };
            let mut options = File::options();
            let options = options.create(true).read(true).write(true).truncate(true).mode(0o600);
            let disk = options.open(&tmp).map_err(fail)?;
            vmdk::copy(&extents, &disk, &tmp, limit, &*told)?;
            Ok::<_, Reason>((out.publish_as(&disk, &to)?, lock))
        };
        let copied = spawn_blocking(copy).await.map_err(|_| Reason::Cancelled)?;
        let (size_bytes, _lock) = copied?;
        if look(image)?.is_none_or(|now| now.digest != self.digest) {
            let _ = fs::remove_file(&file);
            return Err(wrong(
                Path::new(&image.source.to_string()),
                "it changed while it was read",
            ));
        }
        let (digest, config) = (self.digest.to_string(), ImageConfig::default());
        let record = ImageRecord { digest, config, file, size_bytes, disk: Some(DiskFormat::Raw) };
        cache.hold(&record.file)?;
        let reference = format!("{PREFIX}{}", image.source);
        let key = SourceKey { reference, platform: platform_of(image)?.to_string() };
        let documents = ImageDocuments { manifest: DOCUMENT.to_vec(), config: CONFIG.to_vec() };
        cache.name(Some(&key), &record, Some(&documents))?;
        progress.event(ProgressEvent::Done { size_bytes, cached: false });
        Ok(record)
    }
}
