//! Trees as tar archives.
#![allow(clippy::disallowed_methods, reason = "an effect module")]

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Component, Path, PathBuf};

use msb_protocol::{FsPath, FsPut, FsRequest, Node, TreeItem};
use msb_transfer::{Event, Incoming, Input, Output, TransferError, is_name};
use tar::{Archive, Builder, EntryType, Header};

use super::transfer::{answered, blocking, is_contents, name};
use super::{CopyEvent, CopyOptions, FsEntryKind, FsError, FsErrorKind, SandboxFs, wire};

/// The mode of a directory that an archive only implies.
const IMPLIED_DIR: u32 = 0o755;
/// What errors call the archive.
const ARCHIVE: &str = "archive";
/// What is read of an archive at a time, in bytes.
const CHUNK: usize = 128 << 10;

type Result<T> = std::result::Result<T, TransferError>;

impl SandboxFs {
    /// Writes a file or a tree of the sandbox to `archive` as tar (GNU). Names start with that of the
    /// source, or with `.` where it ends in `/.`. Holes are written as zeros.
    pub async fn copy_to_tar(
        &self,
        from: impl AsRef<Path>,
        archive: impl Write + Send + 'static,
        options: CopyOptions,
        mut watch: impl FnMut(CopyEvent) + Send + 'static,
    ) -> std::result::Result<(), FsError> {
        let from = from.as_ref().to_owned();
        let request = FsRequest::Get { path: wire(&from), follow: options.follow };
        let stream = self.client.fs(request).await?;
        blocking(stream, move |socket| {
            let root = if is_contents(&from) { "".into() } else { name(&from) };
            let root = if root.is_empty() { ".".into() } else { root };
            let mut watch = |event: Event<'_>| watch(event.into());
            let mut writer = Writer {
                builder: Builder::new(archive),
                input: Input::new(socket),
                path: Vec::new(),
                root: root.into(),
                watch: &mut watch,
            };
            writer.run()
        })
        .await
    }

    /// Makes what is in a tar archive in the directory `to` of the sandbox, which must exist.
    /// Devices and pipes are left out.
    pub async fn copy_from_tar(
        &self,
        archive: impl Read + Send + 'static,
        to: impl AsRef<Path>,
        options: CopyOptions,
        mut watch: impl FnMut(CopyEvent) + Send + 'static,
    ) -> std::result::Result<(), FsError> {
        let to = to.as_ref();
        if self.stat_followed(to).await?.kind != FsEntryKind::Directory {
            return Err(FsError::Guest {
                kind: FsErrorKind::NotADirectory,
                path: to.display().to_string(),
                message: "an archive needs a directory".to_owned(),
            });
        }
        let request = FsRequest::Put(FsPut {
            path: wire(to),
            name: FsPath::default(),
            contents: true,
            archive: options.archive,
        });
        let stream = self.client.fs(request).await?;
        blocking(stream, move |socket| {
            let mut watch = |event: Event<'_>| watch(event.into());
            let mut sender =
                Sender { output: Output::new(socket), path: Vec::new(), watch: &mut watch };
            answered(socket, sender.run(archive))
        })
        .await
    }
}

fn failed(error: io::Error) -> TransferError {
    TransferError::local(ARCHIVE, error)
}

/// Makes an archive of the items of a sandbox.
struct Writer<'a, 'w, W: Write> {
    builder: Builder<W>,
    input: Input<&'a StdUnixStream>,
    /// The paths of the directories that are open, the root's first.
    path: Vec<PathBuf>,
    root: PathBuf,
    watch: &'a mut msb_transfer::Watch<'w>,
}

impl<W: Write> Writer<'_, '_, W> {
    fn run(&mut self) -> Result<()> {
        let mut is_begun = false;
        loop {
            let Incoming::Item(item) = self.input.part()? else {
                return Err(TransferError::Protocol("contents of no file"));
            };
            let is_complete = is_begun && self.path.is_empty();
            match item {
                TreeItem::Finished if is_complete => break,
                TreeItem::Failed(failure) => return Err(TransferError::Peer(failure)),
                TreeItem::Skipped { path, why } => {
                    (self.watch)(Event::Skipped { path: &path.0, why: &why });
                }
                _ if is_complete => {
                    return Err(TransferError::Protocol("something behind the root"));
                }
                item => {
                    is_begun = true;
                    self.item(item)?;
                }
            }
        }
        self.builder.finish().map_err(failed)?;
        self.builder.get_mut().flush().map_err(failed)
    }

    /// The path of an item in the archive.
    fn place(&self, name: &FsPath) -> Result<PathBuf> {
        match self.path.last() {
            None => Ok(self.root.clone()),
            Some(dir) if is_name(&name.0) => Ok(dir.join(OsStr::from_bytes(&name.0))),
            Some(_) => Err(TransferError::Protocol("a name that is none")),
        }
    }

    fn item(&mut self, item: TreeItem) -> Result<()> {
        match item {
            TreeItem::Dir(node) => {
                let path = self.place(&node.name)?;
                if self.path.len() >= msb_protocol::MAX_TREE_DEPTH {
                    return Err(TransferError::Protocol("directories are nested too deeply"));
                }
                let mut header = header(&node, EntryType::Directory);
                self.builder.append_data(&mut header, &path, io::empty()).map_err(failed)?;
                self.path.push(path);
                return Ok(());
            }
            TreeItem::File { node, size } => self.file(&node, size)?,
            TreeItem::Symlink { node, target } => {
                let path = self.place(&node.name)?;
                let mut header = header(&node, EntryType::Symlink);
                // As it is, where there is room for it: a path would lose what looks superfluous.
                if header.set_link_name_literal(&target.0).is_ok() {
                    self.builder.append_data(&mut header, &path, io::empty()).map_err(failed)?;
                } else {
                    let target = Path::new(OsStr::from_bytes(&target.0));
                    self.builder.append_link(&mut header, &path, target).map_err(failed)?;
                }
            }
            TreeItem::HardLink { name, to } => {
                let path = self.place(&name)?;
                if self.path.is_empty() || !to.iter().all(|name| is_name(&name.0)) {
                    return Err(TransferError::Protocol("a name that is none"));
                }
                let mut target = self.root.clone();
                target.extend(to.iter().map(|name| OsStr::from_bytes(&name.0)));
                let mut header = header(&Node { name, ..Node::default() }, EntryType::Link);
                self.builder.append_link(&mut header, &path, &target).map_err(failed)?;
            }
            TreeItem::End => {
                if self.path.pop().is_none() {
                    return Err(TransferError::Protocol("an end of nothing"));
                }
            }
            _ => return Err(TransferError::Protocol("an item out of turn")),
        }
        (self.watch)(Event::Entry);
        Ok(())
    }

    fn file(&mut self, node: &Node, size: u64) -> Result<()> {
        let path = self.place(&node.name)?;
        let mut header = header(node, EntryType::Regular);
        header.set_size(size);
        let mut contents = Contents {
            input: &mut self.input,
            watch: self.watch,
            chunk: Vec::new(),
            at: 0,
            hole: 0,
            left: size,
            error: None,
        };
        let appended = self.builder.append_data(&mut header, &path, &mut contents);
        if let Some(error) = contents.error {
            return Err(error);
        }
        appended.map_err(failed)?;
        match self.input.part()? {
            Incoming::Item(TreeItem::End) => Ok(()),
            _ => Err(TransferError::Protocol("a file is longer than announced")),
        }
    }
}

fn header(node: &Node, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(node.mode & 0o7777);
    header.set_uid(node.uid.into());
    header.set_gid(node.gid.into());
    header.set_mtime(u64::try_from(node.mtime).unwrap_or(0));
    header.set_size(0);
    header
}

/// The contents of one file, holes as zeros.
struct Contents<'a, 's, 'w> {
    input: &'a mut Input<&'s StdUnixStream>,
    watch: &'a mut msb_transfer::Watch<'w>,
    chunk: Vec<u8>,
    /// How much of the chunk was read.
    at: usize,
    /// Zeros to be read.
    hole: u64,
    /// What is to come of the file, with what is to be read.
    left: u64,
    /// Why reading failed, where it was not the archive's fault.
    error: Option<TransferError>,
}

impl Contents<'_, '_, '_> {
    fn fill(&mut self) -> Result<()> {
        let length = match self.input.part()? {
            Incoming::Data(bytes) => {
                self.chunk.clear();
                self.chunk.extend_from_slice(bytes);
                self.at = 0;
                bytes.len() as u64
            }
            Incoming::Item(TreeItem::Hole(length)) => {
                self.hole = length;
                length
            }
            Incoming::Item(TreeItem::Failed(failure)) => return Err(TransferError::Peer(failure)),
            Incoming::Item(_) => {
                return Err(TransferError::Protocol("a file is shorter than announced"));
            }
        };
        if length > self.left {
            return Err(TransferError::Protocol("a file is longer than announced"));
        }
        (self.watch)(Event::Bytes(length));
        Ok(())
    }
}

impl Read for Contents<'_, '_, '_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        while self.left > 0 && self.hole == 0 && self.at == self.chunk.len() {
            if let Err(error) = self.fill() {
                self.error = Some(error);
                return Err(io::ErrorKind::Other.into());
            }
        }
        let count = if self.hole > 0 {
            let count = space.len().min(usize::try_from(self.hole).unwrap_or(usize::MAX));
            space[..count].fill(0);
            self.hole -= count as u64;
            count
        } else {
            let count = (&self.chunk[self.at..]).read(space)?;
            self.at += count;
            count
        };
        self.left -= count as u64;
        Ok(count)
    }
}

/// Sends the entries of an archive as a tree.
struct Sender<'a, 'w> {
    output: Output<&'a StdUnixStream>,
    /// The names of the directories that are open, below the root.
    path: Vec<FsPath>,
    watch: &'a mut msb_transfer::Watch<'w>,
}

impl Sender<'_, '_> {
    fn run(&mut self, archive: impl Read) -> Result<()> {
        self.output.message(&TreeItem::Dir(implied(&FsPath::default())))?;
        let sent = self.entries(archive);
        if let Err(error @ TransferError::Local { .. }) = &sent {
            self.output.message(&TreeItem::Failed(error.failure()))?;
            self.output.flush()?;
        }
        sent?;
        self.within(&[])?;
        self.output.message(&TreeItem::End)?;
        self.output.message(&TreeItem::Finished)?;
        self.output.flush()
    }

    fn entries(&mut self, archive: impl Read) -> Result<()> {
        let mut archive = Archive::new(archive);
        for entry in archive.entries().map_err(failed)? {
            self.entry(entry.map_err(failed)?)?;
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, mut entry: tar::Entry<'_, R>) -> Result<()> {
        let path = names(&entry.path_bytes())?;
        let Some((name, dirs)) = path.split_last() else {
            // The root itself, which exists.
            return Ok(());
        };
        let node = node(name, entry.header())?;
        match entry.header().entry_type() {
            EntryType::Directory => {
                if self.path != path {
                    self.within(dirs)?;
                    self.output.message(&TreeItem::Dir(node))?;
                    self.path.push(name.clone());
                }
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.within(dirs)?;
                self.output.message(&TreeItem::File { node, size: entry.size() })?;
                self.contents(&mut entry)?;
                self.output.message(&TreeItem::End)?;
            }
            kind @ (EntryType::Symlink | EntryType::Link) => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.within(dirs)?;
                self.output.message(&if kind == EntryType::Link {
                    TreeItem::HardLink { name: name.clone(), to: names(&target)? }
                } else {
                    TreeItem::Symlink { node, target: FsPath(target) }
                })?;
            }
            EntryType::XGlobalHeader => return Ok(()),
            _ => {
                let why = "an entry of this type is not copied";
                (self.watch)(Event::Skipped { path: &entry.path_bytes(), why });
                return Ok(());
            }
        }
        (self.watch)(Event::Entry);
        Ok(())
    }

    fn contents(&mut self, contents: &mut impl Read) -> Result<()> {
        loop {
            let fill = |space: &mut [u8]| contents.read(space).map_err(failed);
            match self.output.data(0, CHUNK, fill)? {
                0 => return Ok(()),
                count => (self.watch)(Event::Bytes(count as u64)),
            }
        }
    }

    /// Leaves and enters directories until `dirs` is the one that is open.
    fn within(&mut self, dirs: &[FsPath]) -> Result<()> {
        let common = self.path.iter().zip(dirs).take_while(|(open, dir)| open == dir).count();
        while self.path.len() > common {
            self.output.message(&TreeItem::End)?;
            self.path.pop();
        }
        for dir in &dirs[common..] {
            self.output.message(&TreeItem::Dir(implied(dir)))?;
            self.path.push(dir.clone());
        }
        Ok(())
    }
}

fn implied(name: &FsPath) -> Node {
    Node { name: name.clone(), mode: IMPLIED_DIR, ..Node::default() }
}

fn node(name: &FsPath, header: &Header) -> Result<Node> {
    Ok(Node {
        name: name.clone(),
        mode: header.mode().map_err(failed)? & 0o7777,
        uid: u32::try_from(header.uid().map_err(failed)?).unwrap_or(0),
        gid: u32::try_from(header.gid().map_err(failed)?).unwrap_or(0),
        mtime: i64::try_from(header.mtime().map_err(failed)?).unwrap_or(0),
        mtime_ns: 0,
    })
}

/// The components of a path in an archive: below the root, whatever it starts with.
fn names(path: &[u8]) -> Result<Vec<FsPath>> {
    let mut names = Vec::new();
    for component in Path::new(OsStr::from_bytes(path)).components() {
        match component {
            Component::Normal(name) => names.push(name.as_bytes().into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => {
                let why = format!("{}: it leads upwards", String::from_utf8_lossy(path));
                return Err(failed(io::Error::new(io::ErrorKind::InvalidData, why)));
            }
        }
    }
    Ok(names)
}
