//! A guest's kernel, as far as its file server knows it: requests and replies in bytes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use msb::files::{FileServer, Share, ShareKind, spawn_program};
use msb_protocol::FilesPreamble;

pub(super) const ROOT: u64 = 1;

pub(super) const LOOKUP: u32 = 1;
pub(super) const FORGET: u32 = 2;
pub(super) const GETATTR: u32 = 3;
pub(super) const SETATTR: u32 = 4;
pub(super) const READLINK: u32 = 5;
pub(super) const SYMLINK: u32 = 6;
pub(super) const MKNOD: u32 = 8;
pub(super) const MKDIR: u32 = 9;
pub(super) const UNLINK: u32 = 10;
pub(super) const RMDIR: u32 = 11;
pub(super) const LINK: u32 = 13;
pub(super) const OPEN: u32 = 14;
pub(super) const READ: u32 = 15;
pub(super) const WRITE: u32 = 16;
pub(super) const STATFS: u32 = 17;
pub(super) const RELEASE: u32 = 18;
pub(super) const FSYNC: u32 = 20;
pub(super) const SETXATTR: u32 = 21;
pub(super) const GETXATTR: u32 = 22;
pub(super) const LISTXATTR: u32 = 23;
pub(super) const REMOVEXATTR: u32 = 24;
pub(super) const INIT: u32 = 26;
pub(super) const OPENDIR: u32 = 27;
pub(super) const READDIR: u32 = 28;
pub(super) const RELEASEDIR: u32 = 29;
pub(super) const CREATE: u32 = 35;
pub(super) const BATCH_FORGET: u32 = 42;
pub(super) const FALLOCATE: u32 = 43;
pub(super) const READDIRPLUS: u32 = 44;
pub(super) const RENAME2: u32 = 45;

/// Longer than any answer takes, even on a machine that does something else.
const PATIENCE: Duration = Duration::from_secs(60);
/// `unique` of requests that are not answered.
const UNANSWERED: u64 = 1 << 40;

/// An answer, or the number of an error.
pub(super) type Answer = Result<Vec<u8>, i32>;

/// What a server says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attr {
    pub(super) node: u64,
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) mtime_nanos: u32,
    pub(super) mode: u32,
    pub(super) nlink: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Attr {
    /// From `fuse_attr`.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        Self {
            node: u64_at(bytes, 0),
            size: u64_at(bytes, 8),
            mtime: i64::from_le_bytes(bytes[32..40].try_into().unwrap()),
            mtime_nanos: u32_at(bytes, 52),
            mode: u32_at(bytes, 60),
            nlink: u32_at(bytes, 64),
            uid: u32_at(bytes, 68),
            gid: u32_at(bytes, 72),
        }
    }

    /// From `fuse_entry_out`.
    pub(super) fn of_entry(bytes: &[u8]) -> Self {
        let attr = Self::parse(&bytes[40..]);
        assert_eq!(attr.node, u64_at(bytes, 0));
        attr
    }
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The whole of a request.
pub(super) fn message(op: u32, unique: u64, node: u64, caller: (u32, u32), body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(40 + body.len()).unwrap();
    let mut message = Vec::with_capacity(40 + body.len());
    message.extend(length.to_le_bytes());
    message.extend(op.to_le_bytes());
    message.extend(unique.to_le_bytes());
    message.extend(node.to_le_bytes());
    message.extend(caller.0.to_le_bytes());
    message.extend(caller.1.to_le_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// Numbers and strings one behind the other.
#[derive(Clone, Default)]
pub(super) struct Body(pub(super) Vec<u8>);

impl Body {
    pub(super) fn n32(mut self, number: u32) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    pub(super) fn n64(mut self, number: u64) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    pub(super) fn name(mut self, name: impl AsRef<[u8]>) -> Self {
        self.0.extend(name.as_ref());
        self.0.push(0);
        self
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

/// A server and its guest.
pub(super) struct Client {
    pub(super) stream: UnixStream,
    pub(super) server: FileServer,
    pub(super) caller: (u32, u32),
    unique: u64,
}

pub(super) fn files(path: &Path) -> Share {
    Share { path: path.to_owned(), readonly: false, kind: ShareKind::Files }
}

pub(super) fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_msb"))
}

impl Client {
    /// A guest whose usual user is 1000:1000, and whose requests are that user's.
    pub(super) fn start(shares: Vec<Share>) -> Self {
        let mut client = Self::before_init(shares);
        client.init();
        client
    }

    pub(super) fn before_init(shares: Vec<Share>) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let server = spawn_program(&program(), shares, theirs.into(), "tests", false).unwrap();
        let mut client = Self { stream: ours, server, caller: (1000, 1000), unique: 0 };
        client.stream.write_all(&FilesPreamble { uid: 1000, gid: 1000 }.encode()).unwrap();
        client
    }

    /// What Linux 6 sends, with all flags.
    pub(super) fn init(&mut self) {
        let body = Body::default().n32(7).n32(41).n32(128 << 10).n32(0xffff_fffb);
        let body = body.n32(u32::MAX).bytes(&[0; 44]);
        let answer = self.call(INIT, 0, &body.0).unwrap();
        assert_eq!(u32_at(&answer, 0), 7);
        assert_eq!(u32_at(&answer, 20), 128 << 10, "max_write");
    }

    pub(super) fn send(&mut self, message: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(message)
    }

    /// Sends what is not answered.
    pub(super) fn tell(&mut self, op: u32, node: u64, body: &[u8]) {
        let message = message(op, UNANSWERED, node, self.caller, body);
        self.send(&message).unwrap();
    }

    pub(super) fn call(&mut self, op: u32, node: u64, body: &[u8]) -> Answer {
        let unique = self.ask(op, node, body);
        let (answered, answer) = self.receive().unwrap();
        assert_eq!(answered, unique);
        answer
    }

    /// Sends a request; what its answer will name.
    pub(super) fn ask(&mut self, op: u32, node: u64, body: &[u8]) -> u64 {
        self.unique += 1;
        let message = message(op, self.unique, node, self.caller, body);
        self.send(&message).unwrap();
        self.unique
    }

    /// The next reply: what it answers, and the answer. An error when the server has ended.
    pub(super) fn receive(&mut self) -> std::io::Result<(u64, Answer)> {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header)?;
        let length = usize::try_from(u32_at(&header, 0)).unwrap();
        assert!((16..=msb::files::MAX_MESSAGE).contains(&length), "{length}");
        let mut body = vec![0; length - 16];
        self.stream.read_exact(&mut body)?;
        let error = -u32_at(&header, 4).cast_signed();
        assert!((0..1000).contains(&error), "{error}");
        let answer = if error == 0 { Ok(body) } else { Err(error) };
        Ok((u64_at(&header, 8), answer))
    }

    /// How the server ends, now that it must.
    pub(super) fn end(self) -> msb::runtime::VmExit {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let Self { stream, server, .. } = self;
        let exit = runtime.block_on(async {
            tokio::time::timeout(PATIENCE, server.wait()).await.expect("the server hangs").unwrap()
        });
        drop(stream);
        exit
    }

    pub(super) fn entry(&mut self, op: u32, node: u64, body: &[u8]) -> Result<Attr, i32> {
        self.call(op, node, body).map(|answer| Attr::of_entry(&answer))
    }

    pub(super) fn lookup(&mut self, dir: u64, name: impl AsRef<[u8]>) -> Result<Attr, i32> {
        let answer = self.call(LOOKUP, dir, &Body::default().name(name).0)?;
        // That it is not there is told like something that is, for a kernel to remember it.
        let absent = u64_at(&answer, 0) == 0;
        if absent { Err(libc::ENOENT) } else { Ok(Attr::of_entry(&answer)) }
    }

    pub(super) fn share(&mut self, number: usize) -> u64 {
        self.lookup(ROOT, number.to_string()).unwrap().node
    }

    /// The node of a path from the first share.
    pub(super) fn walk(&mut self, path: &str) -> Result<Attr, i32> {
        let mut attr = self.lookup(ROOT, "0")?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            attr = self.lookup(attr.node, name)?;
        }
        Ok(attr)
    }

    pub(super) fn getattr(&mut self, node: u64) -> Result<Attr, i32> {
        let answer = self.call(GETATTR, node, &[0; 16])?;
        Ok(Attr::parse(&answer[16..]))
    }

    pub(super) fn mkdir(
        &mut self,
        dir: u64,
        name: impl AsRef<[u8]>,
        mode: u32,
    ) -> Result<Attr, i32> {
        self.entry(MKDIR, dir, &Body::default().n32(mode).n32(0).name(name).0)
    }

    pub(super) fn mknod(
        &mut self,
        dir: u64,
        name: impl AsRef<[u8]>,
        mode: u32,
    ) -> Result<Attr, i32> {
        self.entry(MKNOD, dir, &Body::default().n32(mode).n32(0).n32(0).n32(0).name(name).0)
    }

    pub(super) fn symlink(
        &mut self,
        dir: u64,
        name: impl AsRef<[u8]>,
        target: impl AsRef<[u8]>,
    ) -> Result<Attr, i32> {
        self.entry(SYMLINK, dir, &Body::default().name(name).name(target).0)
    }

    pub(super) fn link(
        &mut self,
        node: u64,
        dir: u64,
        name: impl AsRef<[u8]>,
    ) -> Result<Attr, i32> {
        self.entry(LINK, dir, &Body::default().n64(node).name(name).0)
    }

    pub(super) fn remove(&mut self, op: u32, dir: u64, name: impl AsRef<[u8]>) -> Result<(), i32> {
        self.call(op, dir, &Body::default().name(name).0).map(drop)
    }

    pub(super) fn rename(
        &mut self,
        (dir, name): (u64, &[u8]),
        (newdir, newname): (u64, &[u8]),
        flags: u32,
    ) -> Result<(), i32> {
        let body = Body::default().n64(newdir).n32(flags).n32(0).name(name).name(newname);
        self.call(RENAME2, dir, &body.0).map(drop)
    }

    /// The handle of an opened file.
    pub(super) fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        let body = Body::default().n32(flags.cast_unsigned()).n32(0);
        self.call(OPEN, node, &body.0).map(|answer| u64_at(&answer, 0))
    }

    pub(super) fn opendir(&mut self, node: u64) -> Result<u64, i32> {
        self.call(OPENDIR, node, &[0; 8]).map(|answer| u64_at(&answer, 0))
    }

    /// A new file, and its handle.
    pub(super) fn create(
        &mut self,
        dir: u64,
        name: impl AsRef<[u8]>,
        flags: i32,
        mode: u32,
    ) -> Result<(Attr, u64), i32> {
        let body = Body::default().n32(flags.cast_unsigned()).n32(mode).n32(0).n32(0).name(name);
        let answer = self.call(CREATE, dir, &body.0)?;
        Ok((Attr::of_entry(&answer), u64_at(&answer, 128)))
    }

    pub(super) fn read(&mut self, node: u64, handle: u64, offset: u64, size: u32) -> Answer {
        self.call(READ, node, &read_body(handle, offset, size))
    }

    pub(super) fn write(
        &mut self,
        node: u64,
        handle: u64,
        offset: u64,
        data: &[u8],
    ) -> Result<u32, i32> {
        let size = u32::try_from(data.len()).unwrap();
        let body = Body::default().n64(handle).n64(offset).n32(size).n32(0).n64(0).n64(0);
        self.call(WRITE, node, &body.bytes(data).0).map(|answer| u32_at(&answer, 0))
    }

    pub(super) fn release(&mut self, op: u32, node: u64, handle: u64) -> Result<(), i32> {
        self.call(op, node, &Body::default().n64(handle).n64(0).n64(0).0).map(drop)
    }

    pub(super) fn setattr(&mut self, node: u64, set: &Set) -> Result<Attr, i32> {
        let answer = self.call(SETATTR, node, &set.body())?;
        Ok(Attr::parse(&answer[16..]))
    }

    pub(super) fn setxattr(&mut self, node: u64, name: &str, value: &[u8]) -> Result<(), i32> {
        let size = u32::try_from(value.len()).unwrap();
        let body = Body::default().n32(size).n32(0).name(name).bytes(value);
        self.call(SETXATTR, node, &body.0).map(drop)
    }

    pub(super) fn getxattr(&mut self, node: u64, name: &str) -> Answer {
        self.call(GETXATTR, node, &Body::default().n32(64 << 10).n32(0).name(name).0)
    }

    /// All names of a directory, with the numbers and types that are told with them.
    pub(super) fn list(&mut self, op: u32, node: u64) -> Result<Vec<(Vec<u8>, u64, u32)>, i32> {
        let handle = self.opendir(node)?;
        let mut all = Vec::new();
        let mut offset = 0;
        loop {
            let bytes = self.call(op, node, &read_body(handle, offset, 4096))?;
            if bytes.is_empty() {
                break;
            }
            let mut at = 0;
            while at < bytes.len() {
                if op == READDIRPLUS {
                    at += 128;
                }
                let length = usize::try_from(u32_at(&bytes, at + 16)).unwrap();
                offset = u64_at(&bytes, at + 8);
                let name = bytes[at + 24..at + 24 + length].to_vec();
                if name != b"." && name != b".." {
                    all.push((name, u64_at(&bytes, at), u32_at(&bytes, at + 20)));
                }
                at += (24 + length).next_multiple_of(8);
            }
        }
        self.release(RELEASEDIR, node, handle)?;
        all.sort();
        Ok(all)
    }
}

pub(super) fn read_body(handle: u64, offset: u64, size: u32) -> Vec<u8> {
    Body::default().n64(handle).n64(offset).n32(size).n32(0).n64(0).n64(0).0
}

/// Changes of attributes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Set {
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) size: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
}

impl Set {
    fn body(&self) -> Vec<u8> {
        let bits = [
            (self.mode.is_some(), 1),
            (self.uid.is_some(), 2),
            (self.gid.is_some(), 4),
            (self.size.is_some(), 8),
            (self.mtime.is_some(), 32),
        ];
        let valid = bits.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum();
        let (mtime, nanos) = self.mtime.unwrap_or_default();
        Body::default()
            .n32(valid)
            .n32(0)
            .n64(0)
            .n64(self.size.unwrap_or(0))
            .n64(0)
            .n64(0)
            .n64(mtime.cast_unsigned())
            .n64(0)
            .n32(0)
            .n32(nanos)
            .n32(0)
            .n32(self.mode.unwrap_or(0))
            .n32(0)
            .n32(self.uid.unwrap_or(0))
            .n32(self.gid.unwrap_or(0))
            .n32(0)
            .0
    }
}
