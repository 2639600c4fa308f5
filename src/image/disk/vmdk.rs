//! VMDK: one sparse file, or a descriptor that names extents beside it, flat or sparse.
//!
//! ```text
//! descriptor   RW 4192256 SPARSE "disk-s001.vmdk"      extents one after the other
//! sparse file  header ─▶ grain directory ─▶ grain tables ─▶ grains, compressed or not
//! ```
//!
//! Snapshots, which have a parent, are refused, and so is every name that leads out of the directory. A
//! descriptor must be called `.vmdk`: guests can write one into a raw disk, to be shown the files beside
//! it.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::{Opened, is_called, open, unreadable, wrong};
use crate::image::error::{Reason, printable};
use crate::image::progress::{Progress, ProgressEvent};

const SPARSE_MAGIC: &[u8] = b"KDMV";
const DESCRIPTOR_MAGIC: &str = "# Disk DescriptorFile";
const SECTOR: u64 = 512;
/// The largest disk, in bytes.
const MAX_BYTES: u64 = 2 << 40;
/// The largest descriptor, in bytes, and the most extents that it names.
const MAX_DESCRIPTOR: usize = 20 << 10;
const MAX_EXTENTS: usize = 1024;
/// Sizes of grains, in sectors; powers of two.
const GRAIN_SECTORS: std::ops::RangeInclusive<u64> = 8..=2048;
/// The most entries of a grain table; 512 in every file that is known.
const MAX_TABLE: u32 = 4096;
/// Stands for a header at the end of the file.
const AT_END: u64 = u64::MAX;
/// Where that is: before the sector that marks the end.
const FOOTER_FROM_END: u64 = 2 * SECTOR;
const COMPRESSED: u32 = 1 << 16;
const DEFLATE: u16 = 1;
/// What precedes a compressed grain, in bytes: its sector, and the size of what follows.
const MARKER: usize = 12;
/// The entry of a grain of zeros.
const ZERO_GRAIN: u32 = 1;
/// How many bytes go by between two reports.
const PROGRESS_STEP_BYTES: u64 = 4 << 20;

/// A part of a disk.
#[derive(Clone, Debug)]
pub(super) enum Extent {
    /// `bytes` of a file from `offset` on.
    Flat { file: PathBuf, offset: u64, bytes: u64 },
    /// Those grains of a file that are there.
    Sparse { file: PathBuf, bytes: u64, header: Header },
    /// Nothing.
    Zero { bytes: u64 },
}

impl Extent {
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Self::Flat { file, .. } | Self::Sparse { file, .. } => Some(file),
            Self::Zero { .. } => None,
        }
    }

    const fn bytes(&self) -> u64 {
        match self {
            Self::Flat { bytes, .. } | Self::Sparse { bytes, .. } | Self::Zero { bytes } => *bytes,
        }
    }
}

/// What the header of a sparse file says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// In bytes.
    grain: u64,
    entries: u32,
    /// Of the grain directory, in bytes.
    directory: u64,
    compressed: bool,
    /// The disk's, in bytes.
    capacity: u64,
    /// Of the descriptor in the file, in bytes.
    descriptor: (u64, u64),
}

/// Whether a file that begins so is a VMDK, sparse or a descriptor.
pub(super) fn is_vmdk(head: &[u8]) -> bool {
    head.starts_with(SPARSE_MAGIC) || head.starts_with(DESCRIPTOR_MAGIC.as_bytes())
}

/// The extents of the VMDK at `path`; `None` where it is none.
pub(super) fn extents(path: &Path, opened: &Opened) -> Result<Option<Vec<Extent>>, Reason> {
    let fail = |problem: String| wrong(path, problem);
    if opened.head.starts_with(SPARSE_MAGIC) {
        let header = header(opened).map_err(fail)?;
        let (offset, size) = header.descriptor;
        if offset > 0 {
            let mut text = vec![0; usize::try_from(size).unwrap_or(0).min(MAX_DESCRIPTOR)];
            let read = opened.file.read_exact_at(&mut text, offset);
            read.map_err(|error| unreadable(path, error))?;
            check_parent(&lines(&text)).map_err(fail)?;
        }
        let (file, bytes) = (path.to_owned(), header.capacity);
        return Ok(Some(vec![Extent::Sparse { file, bytes, header }]));
    }
    let text = &opened.head[..opened.head.len().min(MAX_DESCRIPTOR)];
    if !text.starts_with(DESCRIPTOR_MAGIC.as_bytes()) {
        return Ok(None);
    }
    if !is_called(path, "vmdk") {
        return Err(fail("it describes a VMDK and is not called `.vmdk`".to_owned()));
    }
    let lines = lines(text);
    check_parent(&lines).map_err(fail)?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut extents = Vec::new();
    let mut bytes = 0_u64;
    for line in lines.iter().filter(|line| is_extent(line)) {
        if extents.len() >= MAX_EXTENTS {
            return Err(fail(format!("it has more than {MAX_EXTENTS} parts")));
        }
        let extent = extent(line, dir, path)?;
        bytes = bytes.saturating_add(extent.bytes());
        extents.push(extent);
    }
    if bytes == 0 || bytes > MAX_BYTES {
        return Err(fail("the size of the disk makes no sense".to_owned()));
    }
    Ok(Some(extents))
}

fn lines(text: &[u8]) -> Vec<String> {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    String::from_utf8_lossy(&text[..end]).lines().map(|line| line.trim().to_owned()).collect()
}

/// A disk that says only what differs from another is none.
fn check_parent(lines: &[String]) -> Result<(), String> {
    for line in lines {
        let Some((name, value)) = line.split_once('=') else { continue };
        let (name, value) = (name.trim(), value.trim().trim_matches('"'));
        let is_parent =
            name.eq_ignore_ascii_case("parentCID") && !value.eq_ignore_ascii_case("ffffffff");
        if is_parent || name.eq_ignore_ascii_case("parentFileNameHint") {
            let way = "`qemu-img convert -O qcow2` makes one file of both";
            return Err(format!("it is a snapshot of another file, which is not opened; {way}"));
        }
    }
    Ok(())
}

fn is_extent(line: &str) -> bool {
    ["RW ", "RDONLY ", "NOACCESS "].iter().any(|access| line.starts_with(access))
}

/// One line of a descriptor: `RW 4192256 SPARSE "disk-s001.vmdk"`.
fn extent(line: &str, dir: &Path, path: &Path) -> Result<Extent, Reason> {
    let fail = |problem: String| wrong(path, problem);
    let nonsense = || fail(format!("a part makes no sense: {}", printable(line)));
    let (fields, rest) = line.split_once('"').map_or((line, None), |(a, b)| (a, Some(b)));
    let mut fields = fields.split_ascii_whitespace().skip(1);
    let sectors: u64 = fields.next().and_then(|text| text.parse().ok()).ok_or_else(nonsense)?;
    let bytes = sectors.checked_mul(SECTOR).filter(|bytes| *bytes <= MAX_BYTES);
    let bytes = bytes.ok_or_else(nonsense)?;
    let kind = fields.next().unwrap_or("");
    if kind == "ZERO" {
        return Ok(Extent::Zero { bytes });
    }
    let (name, after) = rest.and_then(|rest| rest.split_once('"')).ok_or_else(nonsense)?;
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', '\0']) {
        let problem = format!("a part is not in its directory: {}", printable(name));
        return Err(fail(problem));
    }
    let file = dir.join(name);
    let opened = open(&file, libc::O_NOFOLLOW)?;
    match kind {
        "FLAT" => {
            let offset: u64 = match after.trim() {
                "" => 0,
                text => text.parse().map_err(|_| nonsense())?,
            };
            let offset = offset.checked_mul(SECTOR).ok_or_else(nonsense)?;
            if offset.checked_add(bytes).is_none_or(|end| end > opened.meta.len()) {
                return Err(wrong(&file, "it is shorter than its descriptor says"));
            }
            Ok(Extent::Flat { file, offset, bytes })
        }
        "SPARSE" if opened.head.starts_with(SPARSE_MAGIC) => {
            let header = header(&opened).map_err(|problem| wrong(&file, problem))?;
            if header.capacity < bytes {
                return Err(wrong(&file, "it is shorter than its descriptor says"));
            }
            Ok(Extent::Sparse { file, bytes, header })
        }
        _ => Err(fail(format!(
            "a part is neither flat nor sparse: {}; `qemu-img convert -O qcow2` makes what is taken",
            printable(line)
        ))),
    }
}

fn header(opened: &Opened) -> Result<Header, String> {
    let header = parse(&opened.head)?;
    if header.directory != AT_END {
        return Ok(header);
    }
    let mut footer = vec![0; usize::try_from(SECTOR).unwrap_or(0)];
    let at = opened.meta.len().checked_sub(FOOTER_FROM_END).ok_or("it ends too early")?;
    opened.file.read_exact_at(&mut footer, at).map_err(|error| error.to_string())?;
    let at_end = parse(&footer)?;
    if at_end.directory == AT_END {
        return Err("its header makes no sense".to_owned());
    }
    Ok(Header { directory: at_end.directory, ..header })
}

fn parse(head: &[u8]) -> Result<Header, String> {
    let header = head.get(..80).filter(|head| head.starts_with(SPARSE_MAGIC));
    let header = header.ok_or("it ends in its header")?;
    let number = |at: usize, bytes: usize| {
        header[at..at + bytes].iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let version = number(4, 4);
    if !(1..=3).contains(&version) {
        return Err(format!("version {version} of VMDK is not known"));
    }
    let flags = number(8, 4);
    let (capacity, grain) = (number(12, 8), number(20, 8));
    let (at, size) = (number(28, 8), number(36, 8));
    let (entries, directory, algorithm) = (number(44, 4), number(56, 8), number(77, 2));
    let compressed = flags & u64::from(COMPRESSED) != 0;
    let sensible = GRAIN_SECTORS.contains(&grain)
        && grain.is_power_of_two()
        && (1..=u64::from(MAX_TABLE)).contains(&entries)
        && (1..=MAX_BYTES / SECTOR).contains(&capacity)
        && (directory == AT_END || directory < MAX_BYTES / SECTOR)
        && (at < MAX_BYTES / SECTOR && size <= MAX_DESCRIPTOR as u64 / SECTOR || at == 0)
        && (!compressed || algorithm == u64::from(DEFLATE));
    if !sensible {
        return Err("its header makes no sense".to_owned());
    }
    Ok(Header {
        grain: grain * SECTOR,
        entries: u32::try_from(entries).unwrap_or(MAX_TABLE),
        directory: if directory == AT_END { AT_END } else { directory * SECTOR },
        compressed,
        capacity: capacity * SECTOR,
        descriptor: (at * SECTOR, if at == 0 { 0 } else { size * SECTOR }),
    })
}

/// Writes the disk that `extents` are together into `out`, which is known as `tmp`; holes stay holes.
/// At most `limit` bytes are read or written.
pub(super) fn copy(
    extents: &[Extent],
    out: &File,
    tmp: &Path,
    limit: u64,
    progress: &dyn Progress,
) -> Result<(), Reason> {
    let total = extents.iter().map(Extent::bytes).sum();
    let mut copy = Copy { out, tmp, at: 0, copied: 0, told: 0, limit, total, progress };
    out.set_len(total).map_err(|error| copy.failed(error))?;
    for extent in extents {
        let start = copy.at;
        match extent {
            Extent::Zero { .. } => {}
            Extent::Flat { file, offset, bytes } => {
                let opened = open(file, libc::O_NOFOLLOW)?;
                let mut buffer = vec![0; 1 << 20];
                let mut done = 0;
                while done < *bytes {
                    let count = usize::try_from(bytes - done).unwrap_or(usize::MAX);
                    let part = &mut buffer[..count.min(1 << 20)];
                    let read = opened.file.read_exact_at(part, offset + done);
                    read.map_err(|error| unreadable(file, error))?;
                    copy.put(start + done, part, file)?;
                    done += part.len() as u64;
                }
            }
            Extent::Sparse { file, bytes, header } => {
                // The disk itself may be called by a link.
                let opened = open(file, 0)?;
                copy.sparse(&opened, file, *bytes, header)?;
            }
        }
        copy.at = start + extent.bytes();
    }
    Ok(())
}

struct Copy<'a> {
    out: &'a File,
    tmp: &'a Path,
    /// Where the present extent starts in the disk.
    at: u64,
    copied: u64,
    told: u64,
    limit: u64,
    total: u64,
    progress: &'a dyn Progress,
}

impl Copy<'_> {
    fn failed(&self, source: io::Error) -> Reason {
        Reason::File { what: "cannot be written", path: self.tmp.to_owned(), source }
    }

    fn put(&mut self, at: u64, bytes: &[u8], file: &Path) -> Result<(), Reason> {
        self.copied += bytes.len() as u64;
        if self.copied > self.limit {
            return Err(wrong(file, format!("it holds more than {} bytes", self.limit)));
        }
        if bytes.iter().any(|byte| *byte != 0) {
            self.out.write_all_at(bytes, at).map_err(|error| self.failed(error))?;
        }
        if self.copied >= self.told + PROGRESS_STEP_BYTES {
            self.told = self.copied;
            let (bytes, total) = (self.copied, self.total);
            self.progress.event(ProgressEvent::Reading { bytes, total });
        }
        Ok(())
    }

    fn sparse(
        &mut self,
        opened: &Opened,
        file: &Path,
        bytes: u64,
        header: &Header,
    ) -> Result<(), Reason> {
        let read = |buffer: &mut [u8], at: u64| {
            opened.file.read_exact_at(buffer, at).map_err(|error| unreadable(file, error))
        };
        let covered = header.grain * u64::from(header.entries);
        let tables = bytes.div_ceil(covered);
        let mut table = vec![0; header.entries as usize * 4];
        let mut grain = vec![0; usize::try_from(header.grain).unwrap_or(0)];
        for number in 0..tables {
            let mut entry = [0; 4];
            read(&mut entry, header.directory + number * 4)?;
            let at = u64::from(u32::from_le_bytes(entry)) * SECTOR;
            if at == 0 {
                continue;
            }
            read(&mut table, at)?;
            for (index, entry) in (0_u64..).zip(table.as_chunks::<4>().0) {
                let (entry, from) =
                    (u32::from_le_bytes(*entry), number * covered + index * header.grain);
                if entry <= ZERO_GRAIN || from >= bytes {
                    continue;
                }
                let at = u64::from(entry) * SECTOR;
                let length = usize::try_from((bytes - from).min(header.grain)).unwrap_or(0);
                if header.compressed {
                    inflate(&read, at, &mut grain).map_err(|reason| {
                        reason.unwrap_or_else(|| wrong(file, "a part of it cannot be decompressed"))
                    })?;
                } else {
                    read(&mut grain[..length], at)?;
                }
                self.put(self.at + from, &grain[..length], file)?;
            }
        }
        Ok(())
    }
}

/// Reads so many bytes from a place in a file.
type ReadAt<'a> = dyn Fn(&mut [u8], u64) -> Result<(), Reason> + 'a;

/// Reads a compressed grain. The error without a reason is one of the compression.
fn inflate(read: &ReadAt<'_>, at: u64, grain: &mut [u8]) -> Result<(), Option<Reason>> {
    let mut marker = [0; MARKER];
    read(&mut marker, at).map_err(Some)?;
    let [.., a, b, c, d] = marker;
    let size = usize::try_from(u32::from_le_bytes([a, b, c, d])).map_err(|_| None)?;
    // What cannot be made smaller grows by a little.
    if size > grain.len() * 2 {
        return Err(None);
    }
    let mut compressed = vec![0; size];
    read(&mut compressed, at + MARKER as u64).map_err(Some)?;
    grain.fill(0);
    let mut decoder = flate2::read::ZlibDecoder::new(&compressed[..]).take(grain.len() as u64);
    let mut filled = 0;
    loop {
        match decoder.read(&mut grain[filled..]) {
            Ok(0) => return Ok(()),
            Ok(count) => filled += count,
            Err(_) => return Err(None),
        }
    }
}
