//! Reading what is still to come.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use super::super::readable::readable;
use super::file;
use super::reader::{LogRange, read_open};
use super::record::LogRecord;
use super::writer::LOG_FILES;

/// One read, in bytes.
const CHUNK: usize = 64 << 10;
/// What is read at a time at most, in chunks: who writes faster than this is read fills no memory.
const BATCH: usize = 8;

/// A log that is read on as it grows, across rotations. Woken by the kernel; polls nothing.
#[derive(Debug)]
pub struct LogFollower {
    dir: PathBuf,
    changes: AsyncFd<OwnedFd>,
    file: Option<File>,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
    /// The last call of `read` has left something.
    behind: bool,
}

impl LogFollower {
    /// The wanted records that are there, and a follower of those after them. `dir` must exist.
    /// Needs a tokio runtime.
    pub fn open(dir: &Path, range: &LogRange) -> io::Result<(Vec<LogRecord>, Self)> {
        // Before reading, so that no change is missed.
        let changes =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let events = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::DELETE_SELF;
        inotify::add_watch(&changes, dir, events)?;
        let changes = readable(changes)?;
        let (records, file) = read_open(dir, range)?;
        Ok((records, Self { dir: dir.to_owned(), changes, file, rest: Vec::new(), behind: false }))
    }

    /// The records that have been written since the last call, 512 KiB of the log at a time; none
    /// when there are none.
    pub fn read(&mut self) -> io::Result<Vec<LogRecord>> {
        let mut records = Vec::new();
        let mut left = BATCH;
        self.behind = false;
        loop {
            self.read_file(&mut records, &mut left)?;
            let Some(next) = (if self.behind { None } else { self.next_file()? }) else {
                return Ok(records);
            };
            // It was rotated: nobody writes to it any more, and what came in between is read here.
            self.read_file(&mut records, &mut left)?;
            if self.behind {
                return Ok(records);
            }
            self.rest.clear();
            self.file = Some(next);
        }
    }

    /// Whether there is more to read than the last call of [`Self::read`] has read.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// Waits until there may be more. Cancellation-safe.
    pub async fn changed(&mut self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        if self.behind {
            return Ok(());
        }
        loop {
            let mut guard = self.changes.readable().await?;
            let drained = guard.try_io(|changes| {
                Ok(rustix::io::read(changes.get_ref(), &mut buffer[..])
                    .map(|(read, _)| read.len())?)
            });
            match drained {
                Ok(result) => return result.map(drop),
                Err(_would_block) => {}
            }
        }
    }

    /// Reads on to the end of the file, but no more than the chunks that are `left`.
    fn read_file(&mut self, records: &mut Vec<LogRecord>, left: &mut usize) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        // A write that failed half-way is taken back.
        let length = file.metadata()?.len();
        if length < file.stream_position()? {
            file.seek(io::SeekFrom::Start(length))?;
            self.rest.clear();
        }
        let mut chunk = vec![0; CHUNK];
        while *left > 0 {
            let read = file.read(&mut chunk)?;
            if read == 0 {
                return Ok(());
            }
            *left -= 1;
            self.rest.extend_from_slice(chunk.get(..read).unwrap_or_default());
            let mut from = 0;
            while let Some(end) = self.rest[from..].iter().position(|byte| *byte == b'\n') {
                records.extend(LogRecord::parse(&self.rest[from..from + end]));
                from += end + 1;
            }
            self.rest.drain(..from);
        }
        self.behind = true;
        Ok(())
    }

    /// The file after the one being read, when that is no longer the newest.
    fn next_file(&self) -> io::Result<Option<File>> {
        let inode = match &self.file {
            Some(file) => Some(file.metadata()?.ino()),
            None => None,
        };
        let mut newer: Option<File> = None;
        for age in 0..LOG_FILES {
            let opened = match File::open(file(&self.dir, age)) {
                Ok(opened) => opened,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if Some(opened.metadata()?.ino()) == inode {
                return Ok(newer);
            }
            newer = Some(opened);
            if inode.is_none() {
                // Nothing was there: the newest is all there is to read.
                return Ok(newer);
            }
        }
        // Ours is gone: the oldest that is left comes next.
        Ok(newer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::logs::{LogStream, LogWriter};

    #[tokio::test]
    async fn follows_across_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::with_limit(dir.path(), 2_000);
        log.write(LogStream::Stdout, b"before\n");
        let (first, mut follower) = LogFollower::open(dir.path(), &LogRange::default()).unwrap();
        assert_eq!(first.len(), 1);
        assert!(follower.read().unwrap().is_empty());
        let mut next = 0;
        for _ in 0..10 {
            for n in 0..20 {
                let _ = n;
                log.write(LogStream::Stdout, format!("{next}\n").as_bytes());
                next += 1;
            }
            follower.changed().await.unwrap();
            let texts: Vec<String> =
                follower.read().unwrap().into_iter().map(|record| record.message).collect();
            let expected: Vec<String> = (next - 20..next).map(|n| n.to_string()).collect();
            assert_eq!(texts, expected);
        }
    }

    #[tokio::test]
    async fn reads_a_bounded_part_at_a_time_and_all_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::new(dir.path());
        let (_, mut follower) = LogFollower::open(dir.path(), &LogRange::default()).unwrap();
        let line = [b'x'; 1000];
        for _ in 0..3000 {
            log.write(LogStream::Stdout, &[&line[..], b"\n"].concat());
        }
        let mut counts = Vec::new();
        while counts.iter().sum::<usize>() < 3000 {
            follower.changed().await.unwrap();
            counts.push(follower.read().unwrap().len());
        }
        assert!(
            counts.len() > 3 && counts.iter().all(|&n| n <= BATCH * CHUNK / 1000),
            "{counts:?}"
        );
        // Whether there is more shows at the next look.
        while follower.is_behind() {
            assert!(follower.read().unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn waits_for_a_log_that_is_not_there_yet() {
        let dir = tempfile::tempdir().unwrap();
        let (first, mut follower) = LogFollower::open(dir.path(), &LogRange::default()).unwrap();
        assert!(first.is_empty());
        let path = dir.path().to_owned();
        let writer = std::thread::spawn(move || {
            LogWriter::new(&path).write(LogStream::Stderr, b"hello\n");
        });
        let mut records = Vec::new();
        while records.is_empty() {
            follower.changed().await.unwrap();
            records = follower.read().unwrap();
        }
        assert_eq!(records[0].message, "hello");
        writer.join().unwrap();
    }
}
