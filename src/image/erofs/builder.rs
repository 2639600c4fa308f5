//! Small trees by path, for boot disks and patch layers.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use super::attr::{Attr, MAX_NAME_BYTES};
use super::data::{FileData, Output, PumpError, Sink};
use super::error::ErofsError;
use super::format::BLOCK;
use super::tree::{Dir, Inode, InodeId, Kind, Node, Tree};
use super::write::{Finished, write_tree};

/// Longest path in bytes (`PATH_MAX` without its NUL).
const MAX_PATH_BYTES: usize = 4095;
/// Most names in a path.
const MAX_DEPTH: usize = 256;
/// Longest symlink target in bytes.
const MAX_TARGET_BYTES: usize = 4095;

/// A special file that a path can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Character device; major below 4096, minor below 2²⁰.
    Char(u32, u32),
    /// Block device; major below 4096, minor below 2²⁰.
    Block(u32, u32),
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

/// Makes an EROFS image from entries in any order.
///
/// Paths are relative to the root of the image, with or without a leading `/`. Parents that were not
/// given are made as directories with mode 0755. A second entry under a path replaces the first,
/// except that a directory keeps its entries.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use msb::image::erofs::{Attr, Builder};
/// let mut disk = Builder::new(std::fs::File::create_new("boot.erofs")?)?;
/// disk.bytes("init", Attr::mode(0o755), b"\x7fELF")?;
/// disk.dir("proc", Attr::mode(0o555))?;
/// let image = disk.finish()?;
/// assert_eq!(image.size_bytes % 4096, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Builder {
    out: Output,
    tree: Tree,
}

impl Builder {
    /// Starts an image in `out`, whose contents are dropped.
    pub fn new(out: File) -> Result<Self, ErofsError> {
        out.set_len(0).map_err(ErofsError::Write)?;
        let root = Dir { attr: Attr::mode(0o755), ..Dir::default() };
        let out = Output::new(Arc::new(out), BLOCK);
        Ok(Self { out, tree: Tree { root, inodes: Vec::new() } })
    }

    /// A directory; the path `/` sets the attributes of the root.
    pub fn dir(&mut self, path: impl AsRef<[u8]>, attr: Attr) -> Result<(), ErofsError> {
        let names = split(path.as_ref())?;
        descend(&mut self.tree.root, &names, path.as_ref())?.attr = attr;
        Ok(())
    }

    /// A directory that hides what lower overlay layers have in it (`trusted.overlay.opaque`).
    pub fn opaque_dir(&mut self, path: impl AsRef<[u8]>, attr: Attr) -> Result<(), ErofsError> {
        self.dir(path, attr.xattr(*b"trusted.overlay.opaque", *b"y"))
    }

    /// A regular file with `contents`.
    pub fn bytes(
        &mut self,
        path: impl AsRef<[u8]>,
        attr: Attr,
        contents: &[u8],
    ) -> Result<(), ErofsError> {
        let mut reader = contents;
        self.file(path, attr, contents.len() as u64, &mut reader)
    }

    /// A regular file with the next `size` bytes of `contents`, which stream into the output.
    pub fn file(
        &mut self,
        path: impl AsRef<[u8]>,
        attr: Attr,
        size: u64,
        contents: &mut dyn Read,
    ) -> Result<(), ErofsError> {
        let data = self.stream(size, contents).map_err(|error| match error {
            PumpError::Read(source) => ErofsError::Contents { path: show(path.as_ref()), source },
            PumpError::Write(source) => ErofsError::Write(source),
        })?;
        self.leaf(path.as_ref(), attr, Kind::File(data))
    }

    fn stream(&mut self, size: u64, contents: &mut dyn Read) -> Result<FileData, PumpError> {
        let mut sink = Sink::new(&mut self.out, size).map_err(PumpError::Write)?;
        sink.copy(contents, size)?;
        sink.finish().map_err(PumpError::Write)
    }

    /// A symbolic link; its mode is 0777. The target is 1 to 4095 bytes without NUL.
    pub fn symlink(
        &mut self,
        path: impl AsRef<[u8]>,
        attr: Attr,
        target: impl AsRef<[u8]>,
    ) -> Result<(), ErofsError> {
        let target = target.as_ref();
        if target.is_empty() || target.len() > MAX_TARGET_BYTES || target.contains(&0) {
            return Err(bad(path.as_ref(), "bad symlink target"));
        }
        let attr = Attr { mode: 0o777, ..attr };
        self.leaf(path.as_ref(), attr, Kind::Symlink(target.into()))
    }

    /// A special file.
    pub fn device(
        &mut self,
        path: impl AsRef<[u8]>,
        attr: Attr,
        device: Device,
    ) -> Result<(), ErofsError> {
        let kind = match device {
            Device::Char(major, minor) => Kind::Char { major, minor },
            Device::Block(major, minor) => Kind::Block { major, minor },
            Device::Fifo => Kind::Fifo,
            Device::Socket => Kind::Socket,
        };
        self.leaf(path.as_ref(), attr, kind)
    }

    /// An overlay whiteout (character device 0:0): hides what lower overlay layers have under `path`.
    pub fn whiteout(&mut self, path: impl AsRef<[u8]>) -> Result<(), ErofsError> {
        self.device(path, Attr::mode(0), Device::Char(0, 0))
    }

    /// Another name for the file that is at `existing`.
    pub fn hard_link(
        &mut self,
        path: impl AsRef<[u8]>,
        existing: impl AsRef<[u8]>,
    ) -> Result<(), ErofsError> {
        let names = split(existing.as_ref())?;
        let Some((last, parents)) = names.split_last() else {
            return Err(bad(existing.as_ref(), "a directory cannot be linked"));
        };
        let dir = descend(&mut self.tree.root, parents, existing.as_ref())?;
        match dir.entries.get(*last) {
            Some(Node::Leaf(id)) => {
                let id = *id;
                self.put(path.as_ref(), id)
            }
            Some(Node::Dir(_)) => Err(bad(existing.as_ref(), "a directory cannot be linked")),
            None => Err(bad(existing.as_ref(), "no such file to link")),
        }
    }

    fn leaf(&mut self, path: &[u8], attr: Attr, kind: Kind) -> Result<(), ErofsError> {
        let id = InodeId(self.tree.inodes.len());
        self.tree.inodes.push(Inode { attr, kind });
        self.put(path, id)
    }

    fn put(&mut self, path: &[u8], id: InodeId) -> Result<(), ErofsError> {
        let names = split(path)?;
        let Some((last, parents)) = names.split_last() else {
            return Err(bad(path, "the root is a directory"));
        };
        let dir = descend(&mut self.tree.root, parents, path)?;
        dir.entries.insert((*last).into(), Node::Leaf(id));
        Ok(())
    }

    /// Writes the metadata and ends the image. Nothing is synced to disk.
    pub fn finish(mut self) -> Result<Finished, ErofsError> {
        write_tree(&self.tree, &mut self.out)
    }
}

/// The names of a path.
fn split(path: &[u8]) -> Result<Vec<&[u8]>, ErofsError> {
    if path.len() > MAX_PATH_BYTES {
        return Err(bad(path, "path too long"));
    }
    let names: Vec<_> =
        path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
    for name in &names {
        if *name == b".." {
            return Err(bad(path, "`..` in a path"));
        }
        if name.contains(&0) {
            return Err(bad(path, "NUL in a path"));
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(bad(path, "name too long"));
        }
    }
    if names.len() > MAX_DEPTH {
        return Err(bad(path, "too many directories"));
    }
    Ok(names)
}

/// The directory at `names`, made with its parents where missing.
fn descend<'d>(root: &'d mut Dir, names: &[&[u8]], path: &[u8]) -> Result<&'d mut Dir, ErofsError> {
    let mut dir = root;
    for name in names {
        let new = || Node::Dir(Dir { attr: Attr::mode(0o755), ..Dir::default() });
        match dir.entries.entry((*name).into()).or_insert_with(new) {
            Node::Dir(child) => dir = child,
            Node::Leaf(_) => return Err(bad(path, "a parent is not a directory")),
        }
    }
    Ok(dir)
}

fn bad(path: &[u8], why: &'static str) -> ErofsError {
    ErofsError::Path { path: show(path), why }
}

fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// So that callers can say `?` on an `io::Result` of theirs.
impl From<ErofsError> for io::Error {
    fn from(error: ErofsError) -> Self {
        match error {
            ErofsError::Write(source) => source,
            ErofsError::Contents { .. } | ErofsError::Path { .. } | ErofsError::TooLarge { .. } => {
                io::Error::other(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::image::erofs::reader::Image;

    fn build(make: impl FnOnce(&mut Builder)) -> (tempfile::NamedTempFile, Finished) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut builder = Builder::new(file.reopen().unwrap()).unwrap();
        make(&mut builder);
        let finished = builder.finish().unwrap();
        fsck(file.path());
        (file, finished)
    }

    #[allow(clippy::disallowed_methods, reason = "the reference checker is a program")]
    fn fsck(image: &Path) {
        let output = Command::new("fsck.erofs")
            .arg("--extract")
            .arg(image)
            .output()
            .expect("fsck.erofs is missing: apt-get install erofs-utils");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn boot_disk(builder: &mut Builder) {
        builder.bytes("/init.krun", Attr::mode(0o755), &[7; 100_000]).unwrap();
        for dir in ["proc", "sys", "dev", "run", "mnt/image"] {
            builder.dir(dir, Attr::mode(0o755)).unwrap();
        }
        builder.bytes("etc/tiny", Attr::mode(0o644), b"tiny").unwrap();
        builder.bytes("etc/empty", Attr::mode(0o600), b"").unwrap();
        builder.hard_link("etc/again", "etc/tiny").unwrap();
        builder.symlink("bin", Attr::default(), "usr/bin").unwrap();
        builder.device("dev/null", Attr::mode(0o666), Device::Char(1, 3)).unwrap();
        builder.device("dev/sda", Attr::mode(0o660), Device::Block(259, 70_000)).unwrap();
        builder.device("run/pipe", Attr::mode(0o600), Device::Fifo).unwrap();
        builder.device("run/sock", Attr::mode(0o600), Device::Socket).unwrap();
        builder.whiteout("patch/gone").unwrap();
        builder.opaque_dir("patch/fresh", Attr::mode(0o700)).unwrap();
    }

    #[test]
    fn a_small_tree_comes_back() {
        let (file, finished) = build(boot_disk);
        let image = Image::open(file.reopen().unwrap()).unwrap();
        let found = image.walk().unwrap();
        assert_eq!(finished.inodes, image.inodes);
        let at = |path: &str| &found[path.as_bytes()];
        assert_eq!(image.contents(at("init.krun")).unwrap(), [7; 100_000]);
        assert_eq!(at("init.krun").mode, 0o100_755);
        assert_eq!(at("etc/again").nid, at("etc/tiny").nid);
        assert_eq!(image.contents(at("etc/tiny")).unwrap(), b"tiny");
        assert_eq!(image.contents(at("bin")).unwrap(), b"usr/bin");
        assert_eq!(at("dev/null").rdev, 0x103);
        assert_eq!((at("patch/gone").mode, at("patch/gone").rdev), (0o020_000, 0));
        assert_eq!(at("patch/fresh").xattrs[b"trusted.overlay.opaque".as_slice()], b"y");
        assert_eq!(at("mnt").mode, 0o040_755);
    }

    #[test]
    fn the_same_entries_make_the_same_bytes() {
        let [one, two] = [build(boot_disk), build(boot_disk)].map(|(file, _)| {
            let mut bytes = Vec::new();
            file.reopen().unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        });
        assert!(one == two);
    }

    #[test]
    fn bad_paths_are_refused() {
        let file = tempfile::tempfile().unwrap();
        let mut builder = Builder::new(file).unwrap();
        builder.bytes("file", Attr::default(), b"").unwrap();
        for path in ["a/../b", "..", "a\0b", "", "/", "file/below", &"n".repeat(256)] {
            assert!(builder.bytes(path, Attr::default(), b"").is_err(), "{path:?}");
        }
        let mut short: &[u8] = b"short";
        let error = builder.file("f", Attr::default(), 1000, &mut short).unwrap_err();
        assert!(matches!(error, ErofsError::Contents { .. }));
    }

    #[test]
    fn attributes_of_every_size() {
        let (file, _) = build(|builder| {
            for size in [0, 1, 255, 4000, 4090, 5000, 40_000] {
                let attr = Attr { uid: 70_000, mtime: -5, mtime_nsec: 9, ..Attr::mode(0o7777) }
                    .xattr(*b"user.big", vec![b'x'; size])
                    .xattr(*b"security.capability", *b"cap")
                    .xattr(*b"system.posix_acl_access", *b"acl");
                builder.bytes(format!("f{size}"), attr.clone(), &[1; 500]).unwrap();
                builder.symlink(format!("s{size}"), attr.clone(), "t".repeat(4000)).unwrap();
                builder.dir(format!("d{size}"), attr).unwrap();
            }
        });
        let image = Image::open(file.reopen().unwrap()).unwrap();
        let found = image.walk().unwrap();
        for size in [0, 1, 255, 4000, 4090, 5000, 40_000] {
            let stat = &found[format!("f{size}").as_bytes()];
            assert_eq!(stat.xattrs[b"user.big".as_slice()], vec![b'x'; size]);
            assert_eq!(stat.xattrs[b"security.capability".as_slice()], b"cap");
            assert_eq!((stat.uid, stat.mtime, stat.mtime_nsec), (70_000, -5, 9));
            assert_eq!(image.contents(stat).unwrap(), [1; 500]);
            let stat = &found[format!("s{size}").as_bytes()];
            assert_eq!(image.contents(stat).unwrap(), "t".repeat(4000).as_bytes());
        }
    }

    #[test]
    fn a_directory_of_100_000_entries() {
        let (file, finished) = build(|builder| {
            for n in 0..100_000 {
                builder.bytes(format!("dir/{n:x}"), Attr::mode(0o644), b"x").unwrap();
            }
        });
        let image = Image::open(file.reopen().unwrap()).unwrap();
        assert_eq!(finished.inodes, 100_002);
        assert_eq!(image.walk().unwrap().len(), 100_002);
    }

    #[test]
    fn zeros_of_a_huge_file_become_holes() {
        use std::os::unix::fs::MetadataExt;
        let size = (5_u64 << 30) + 3;
        let marks = [0_u64, 1 << 20, (4 << 30) + 4096 * 300 + 17, size - 1];
        let mut at = 0;
        let mut source = Box::new(std::iter::from_fn(move || {
            let next = marks.iter().find(|mark| **mark >= at)?;
            let mut piece = vec![0; usize::try_from((*next - at).min(1 << 20)).unwrap()];
            if at == *next {
                piece = vec![9];
            }
            at += piece.len() as u64;
            Some(piece)
        }));
        let mut rest: Vec<u8> = Vec::new();
        let mut reader = reader_of(move |space: &mut [u8]| {
            if rest.is_empty() {
                rest = source.next().unwrap_or_default();
            }
            let take = rest.len().min(space.len());
            space[..take].copy_from_slice(&rest[..take]);
            rest.drain(..take);
            take
        });
        let (file, finished) = build(|builder| {
            builder.file("huge", Attr::mode(0o600), size, &mut reader).unwrap();
        });
        assert!(finished.size_bytes < 8 << 20, "{}", finished.size_bytes);
        assert!(file.as_file().metadata().unwrap().blocks() * 512 < 8 << 20);
        let image = Image::open(file.reopen().unwrap()).unwrap();
        let stat = &image.walk().unwrap()[b"huge".as_slice()];
        assert_eq!(stat.size, size);
        for mark in marks {
            let around = image.read(stat, mark.saturating_sub(3), 7).unwrap();
            let expected: Vec<u8> = (mark.saturating_sub(3)..size.min(mark.saturating_sub(3) + 7))
                .map(|at| if at == mark { 9 } else { 0 })
                .collect();
            assert_eq!(around, expected);
        }
    }

    fn reader_of(fill: impl FnMut(&mut [u8]) -> usize) -> impl Read {
        struct Reader<F>(F);
        impl<F: FnMut(&mut [u8]) -> usize> Read for Reader<F> {
            fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
                Ok(self.0(space))
            }
        }
        Reader(fill)
    }
}
