//! Reading what is there.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::SystemTime;

use super::file;
use super::record::{LogRecord, format_time, time_of};
use super::writer::LOG_FILES;

/// One read when reading backwards, in bytes.
const CHUNK: u64 = 64 << 10;
/// A line of a log is shorter: escapes make a byte at most six.
const MAX_RECORD: u64 = 256 << 10;

/// Which records are wanted.
#[derive(Clone, Debug, Default)]
pub struct LogRange {
    /// Those at this time or later.
    pub since: Option<SystemTime>,
    /// The last so many of them.
    pub tail: Option<usize>,
}

/// The wanted records of the log in `dir`, oldest first. Reads no more of the files than it needs
/// for `tail`. No log: no records.
pub fn read(dir: &Path, range: &LogRange) -> io::Result<Vec<LogRecord>> {
    Ok(read_open(dir, range)?.0)
}

/// As [`read`]; and the newest file, at the position up to which it was read.
pub(super) fn read_open(
    dir: &Path,
    range: &LogRange,
) -> io::Result<(Vec<LogRecord>, Option<File>)> {
    let files = open_all(dir)?;
    let since = range.since.map(format_time);
    let mut left = range.tail.unwrap_or(usize::MAX);
    let mut parts = Vec::new();
    let mut newest = None;
    for (age, mut opened) in files {
        let end = complete_length(&mut opened)?;
        let start = if left == usize::MAX { 0 } else { tail_start(&mut opened, end, left)? };
        opened.seek(SeekFrom::Start(start))?;
        let records = parse(&opened, end - start, since.as_deref())?;
        left = left.saturating_sub(records.len());
        parts.push(records);
        if age == 0 {
            opened.seek(SeekFrom::Start(end))?;
            newest = Some(opened);
        }
        if left == 0 {
            break;
        }
    }
    let mut records: Vec<_> = parts.into_iter().rev().flatten().collect();
    if let Some(tail) = range.tail {
        records.drain(..records.len().saturating_sub(tail));
    }
    Ok((records, newest))
}

/// The files, newest first. A rotation meanwhile may show one file under two names; it is taken
/// once.
fn open_all(dir: &Path) -> io::Result<Vec<(usize, File)>> {
    use std::os::unix::fs::MetadataExt;
    let mut files = Vec::new();
    let mut seen = Vec::new();
    for age in 0..LOG_FILES {
        let opened = match File::open(file(dir, age)) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let inode = opened.metadata()?.ino();
        if !seen.contains(&inode) {
            seen.push(inode);
            files.push((age, opened));
        }
    }
    Ok(files)
}

/// The length up to the last line break: a line may be being written.
fn complete_length(file: &mut File) -> io::Result<u64> {
    let end = file.metadata()?.len();
    tail_scan(file, end, 1).map(|found| found.map_or(0, |at| at + 1))
}

/// Where the last `lines` lines before `end`, which is after a line break, begin.
fn tail_start(file: &mut File, end: u64, lines: usize) -> io::Result<u64> {
    if lines == 0 {
        return Ok(end);
    }
    let before = end.saturating_sub(1);
    Ok(tail_scan(file, before, lines)?.map_or(0, |at| at + 1))
}

/// The position of the `count`th line break before `end`, counted from there.
fn tail_scan(file: &mut File, end: u64, count: usize) -> io::Result<Option<u64>> {
    let mut left = count;
    let mut to = end;
    let mut chunk = Vec::new();
    while to > 0 {
        let from = to.saturating_sub(CHUNK);
        file.seek(SeekFrom::Start(from))?;
        chunk.clear();
        (&mut *file).take(to - from).read_to_end(&mut chunk)?;
        for (offset, byte) in chunk.iter().enumerate().rev() {
            if *byte == b'\n' {
                left -= 1;
                if left == 0 {
                    return Ok(Some(from + offset as u64));
                }
            }
        }
        to = from;
    }
    Ok(None)
}

fn parse(file: &File, length: u64, since: Option<&str>) -> io::Result<Vec<LogRecord>> {
    let mut reader = BufReader::with_capacity(64 << 10, file.take(length));
    let mut records = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut reader).take(MAX_RECORD).read_until(b'\n', &mut line)? == 0 {
            return Ok(records);
        }
        let early = |since| time_of(&line).is_none_or(|time| time < since);
        if since.is_some_and(early) {
            continue;
        }
        records.extend(LogRecord::parse(line.trim_ascii_end()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::supervisor::logs::{LogStream, LogWriter};

    fn texts(dir: &Path, range: &LogRange) -> Vec<String> {
        read(dir, range).unwrap().into_iter().map(|record| record.message).collect()
    }

    #[test]
    fn the_tail_spans_rotated_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::with_limit(dir.path(), 1_000);
        for n in 0..30 {
            log.write(LogStream::Stdout, format!("{n}\n").as_bytes());
        }
        for tail in [0, 1, 5, 20] {
            let range = LogRange { tail: Some(tail), since: None };
            let expected: Vec<String> = (30 - tail..30).map(|n| n.to_string()).collect();
            assert_eq!(texts(dir.path(), &range), expected);
        }
        let all = texts(dir.path(), &LogRange { tail: Some(10_000), since: None });
        assert_eq!(all, texts(dir.path(), &LogRange::default()));
        assert!(all.len() > 20);
    }

    #[test]
    fn since_leaves_out_what_is_older() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::new(dir.path());
        log.write(LogStream::Stdout, b"old\n");
        let now = SystemTime::now();
        log.write(LogStream::Stdout, b"new\n");
        let since = |since| LogRange { since: Some(since), tail: None };
        assert_eq!(texts(dir.path(), &since(now)), ["new"]);
        assert_eq!(texts(dir.path(), &since(now - Duration::from_secs(60))), ["old", "new"]);
        assert!(texts(dir.path(), &since(now + Duration::from_secs(60))).is_empty());
    }

    #[test]
    fn what_is_no_record_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        assert!(texts(dir.path(), &LogRange::default()).is_empty());
        let good = r#"{"t":"2026-01-01T00:00:00.000000000Z","s":"stdout","m":"x"}"#;
        std::fs::write(file(dir.path(), 0), format!("junk\n{good}\n\n{good}")).unwrap();
        assert_eq!(texts(dir.path(), &LogRange::default()), ["x"]);
    }
}
