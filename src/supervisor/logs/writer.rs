//! Writing.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::file;
use super::record::{LogRecord, LogStream, format_time};

/// A file that would become larger is rotated, in bytes.
pub const LOG_MAX_BYTES: u64 = 10 << 20;
/// Files that are kept, the one that is written included.
pub const LOG_FILES: usize = 3;
/// A line is split into records of at most so many bytes.
pub const MAX_LINE: usize = 16 << 10;

/// Writes the log of one workload. No failure stops the workload: what cannot be written is
/// counted, and the count is written when there is room.
#[derive(Debug)]
pub struct LogWriter {
    dir: PathBuf,
    max_bytes: u64,
    file: Option<File>,
    length: u64,
    /// The last write was cut off: the next one begins a new line.
    torn: bool,
    lost: u64,
    partial: [Vec<u8>; 2],
}

impl LogWriter {
    /// Writes into `dir`, after what is there.
    pub fn new(dir: &Path) -> Self {
        Self::with_limit(dir, LOG_MAX_BYTES)
    }

    /// Rotates at `max_bytes`.
    pub fn with_limit(dir: &Path, max_bytes: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            max_bytes,
            file: None,
            length: 0,
            torn: false,
            lost: 0,
            partial: [Vec::new(), Vec::new()],
        }
    }

    /// Takes output of the workload: complete lines are written, the rest is kept for later.
    pub fn write(&mut self, stream: LogStream, bytes: &[u8]) {
        let slot = usize::from(stream == LogStream::Stderr);
        let mut pending = std::mem::take(&mut self.partial[slot]);
        let time = format_time(SystemTime::now());
        let mut batch = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = MAX_LINE - pending.len();
            let window = &rest[..rest.len().min(room)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    pending.extend_from_slice(&window[..end]);
                    rest = &rest[end + 1..];
                    self.emit(&mut batch, &time, stream, &pending, false);
                    pending.clear();
                }
                None => {
                    pending.extend_from_slice(window);
                    rest = &rest[window.len()..];
                    if pending.len() == MAX_LINE {
                        let whole = whole_characters(&pending);
                        self.emit(&mut batch, &time, stream, &pending[..whole], true);
                        pending.drain(..whole);
                    }
                }
            }
        }
        self.flush(&mut batch);
        if pending.capacity() > MAX_LINE / 4 && pending.len() < MAX_LINE / 8 {
            pending.shrink_to_fit();
        }
        self.partial[slot] = pending;
    }

    /// Writes what is left of both streams: the workload has ended.
    pub fn finish(&mut self) {
        let time = format_time(SystemTime::now());
        let mut batch = Vec::new();
        for (slot, stream) in [(0, LogStream::Stdout), (1, LogStream::Stderr)] {
            let pending = std::mem::take(&mut self.partial[slot]);
            if !pending.is_empty() {
                self.emit(&mut batch, &time, stream, &pending, false);
            }
        }
        self.flush(&mut batch);
    }

    /// Adds a record to `batch`, which is written when it is large.
    fn emit(
        &mut self,
        batch: &mut Vec<u8>,
        time: &str,
        stream: LogStream,
        text: &[u8],
        partial: bool,
    ) {
        let text = if partial { text } else { text.strip_suffix(b"\r").unwrap_or(text) };
        let message = String::from_utf8_lossy(text).into_owned();
        let record = LogRecord { time: time.to_owned(), stream, message, partial };
        let before = batch.len();
        if serde_json::to_writer(&mut *batch, &record).is_ok() {
            batch.push(b'\n');
        } else {
            batch.truncate(before);
        }
        if batch.len() >= MAX_LINE * 4 {
            self.flush(batch);
        }
    }

    fn flush(&mut self, batch: &mut Vec<u8>) {
        if batch.is_empty() {
            return;
        }
        let records = batch.iter().filter(|byte| **byte == b'\n').count() as u64;
        if let Err(error) = self.append(batch) {
            if self.lost == 0 {
                tracing::warn!(%error, "the workload's log cannot be written");
            }
            self.lost += records;
            // Opened anew at the next write: the file may have been taken away.
            self.file = None;
        }
        batch.clear();
    }

    fn append(&mut self, batch: &[u8]) -> io::Result<()> {
        self.ready(batch.len() as u64)?;
        let mut bytes = Vec::new();
        if self.torn {
            bytes.push(b'\n');
        }
        if self.lost > 0 {
            let record = LogRecord {
                time: format_time(SystemTime::now()),
                stream: LogStream::Msb,
                message: format!("{} records were lost: the log could not be written", self.lost),
                partial: false,
            };
            serde_json::to_writer(&mut bytes, &record)?;
            bytes.push(b'\n');
        }
        let whole = if bytes.is_empty() {
            batch
        } else {
            bytes.extend_from_slice(batch);
            &bytes
        };
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let before = file.stream_position()?;
        if let Err(error) = file.write_all(whole) {
            // What was written of it is taken back; where that fails, a later line break ends it.
            self.torn = file.set_len(before).is_err();
            return Err(error);
        }
        self.torn = false;
        self.lost = 0;
        self.length += whole.len() as u64;
        Ok(())
    }

    /// Opens the file, or rotates when `more` bytes do not fit.
    fn ready(&mut self, more: u64) -> io::Result<()> {
        if self.file.is_some() && self.length > 0 && self.length + more > self.max_bytes {
            self.file = None;
            for age in (1..LOG_FILES).rev() {
                match std::fs::rename(file(&self.dir, age - 1), file(&self.dir, age)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
        }
        if self.file.is_some() {
            return Ok(());
        }
        let path = file(&self.dir, 0);
        let mut opened =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        self.length = opened.seek(SeekFrom::End(0))?;
        if self.length > 0 {
            // A supervisor that was killed may have left half a line.
            let mut last = [0];
            opened.seek(SeekFrom::End(-1))?;
            opened.read_exact(&mut last)?;
            self.torn = last != *b"\n";
        }
        self.file = Some(opened);
        Ok(())
    }
}

/// The length of `bytes` without a character that is cut off at its end.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(&bytes[bytes.len().saturating_sub(4)..]) {
        Ok(_) => bytes.len(),
        Err(_) => {
            // A lead byte among the last three whose character is not complete.
            for back in 1..=bytes.len().min(3) {
                let byte = bytes[bytes.len() - back];
                let needs = match byte {
                    0xc0..=0xdf => 2,
                    0xe0..=0xef => 3,
                    0xf0..=0xf7 => 4,
                    _ => continue,
                };
                return if needs > back { bytes.len() - back } else { bytes.len() };
            }
            bytes.len()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::logs::{LogRange, read};
    use proptest::prelude::*;

    fn messages(dir: &Path) -> Vec<(LogStream, String, bool)> {
        let records = read(dir, &LogRange::default()).unwrap();
        records.into_iter().map(|r| (r.stream, r.message, r.partial)).collect()
    }

    fn out(text: &str) -> (LogStream, String, bool) {
        (LogStream::Stdout, text.into(), false)
    }

    #[test]
    fn lines_are_put_together_by_stream() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::new(dir.path());
        log.write(LogStream::Stdout, b"one\r\ntw");
        log.write(LogStream::Stderr, b"bad\xff\n");
        log.write(LogStream::Stdout, b"o\n\nend");
        log.finish();
        let bad = (LogStream::Stderr, "bad\u{fffd}".into(), false);
        assert_eq!(messages(dir.path()), [out("one"), bad, out("two"), out(""), out("end")]);
    }

    #[test]
    fn endless_lines_are_split_between_characters() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::new(dir.path());
        let text = "ä€😀".repeat(10_000);
        for chunk in text.as_bytes().chunks(1009) {
            log.write(LogStream::Stdout, chunk);
            assert!(log.partial[0].len() < MAX_LINE);
        }
        log.finish();
        let parts = messages(dir.path());
        assert_eq!(parts.iter().map(|(_, text, _)| text.as_str()).collect::<String>(), text);
        assert!(parts.iter().rev().skip(1).all(|(_, _, partial)| *partial));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::with_limit(dir.path(), 10_000);
        for n in 0..2_000 {
            log.write(LogStream::Stdout, format!("line {n}\n").as_bytes());
        }
        let sizes: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), LOG_FILES);
        assert!(sizes.iter().all(|size| *size <= 10_000), "{sizes:?}");
        assert_eq!(messages(dir.path()).last(), Some(&out("line 1999")));
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), 0);
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut log = LogWriter::new(dir.path());
        log.write(LogStream::Stdout, b"a\nb\n");
        log.write(LogStream::Stdout, b"c\n");
        std::fs::remove_file(&path).unwrap();
        log.write(LogStream::Stdout, b"d\n");
        let messages = messages(dir.path());
        assert!(messages[0].1.starts_with("3 records were lost"), "{messages:?}");
        assert_eq!(messages[1..], [out("d")]);
    }

    #[test]
    fn half_a_line_of_an_earlier_run_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(file(dir.path(), 0), b"{\"t\":\"2026-").unwrap();
        LogWriter::new(dir.path()).write(LogStream::Stdout, b"next\n");
        assert_eq!(messages(dir.path()), [out("next")]);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_come_back(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20)) {
            let dir = tempfile::tempdir().unwrap();
            let mut log = LogWriter::new(dir.path());
            let mut all = Vec::new();
            for piece in &pieces {
                log.write(LogStream::Stdout, piece);
                all.extend_from_slice(piece);
            }
            log.finish();
            let text: Vec<String> = messages(dir.path()).into_iter().map(|(_, text, _)| text).collect();
            let mut lines: Vec<&[u8]> = all.split(|byte| *byte == b'\n').collect();
            if lines.last() == Some(&&b""[..]) {
                lines.pop();
            }
            let expected: Vec<String> = lines
                .into_iter()
                .map(|line| String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned())
                .collect();
            prop_assert_eq!(text, expected);
        }
    }
}
