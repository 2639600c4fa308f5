//! This program: its file, and its code in the memory of this process.
#![allow(clippy::disallowed_methods, reason = "this module reads what the kernel maps")]

use std::ffi::c_void;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use rustix::mm::{Advice, madvise};

/// What the kernel adds to the name of a file that has gone.
const DELETED: &str = " (deleted)";

/// The file of this program, to start another process of it. One that was replaced since this process
/// was started is the new one: the kernel calls the old one deleted.
///
/// # Errors
/// There is no `/proc`.
pub fn program() -> io::Result<PathBuf> {
    std::env::current_exe().map(in_its_place)
}

/// The path, or where nothing is there what was put in the place of a file that has gone.
fn in_its_place(path: PathBuf) -> PathBuf {
    if path.exists() {
        return path;
    }
    path.to_str().and_then(|path| path.strip_suffix(DELETED)).map(PathBuf::from).unwrap_or(path)
}

/// Takes the program's code out of this process; what is needed of it comes back from the page cache by
/// itself. Starting a sandbox maps most of it, waiting needs next to none, and there is a process that
/// waits for every sandbox.
///
/// # Errors
/// Nothing was taken out.
pub fn release_code() -> io::Result<()> {
    let (from, length) = own_code()?;
    // SAFETY: nobody writes to the mapping, which is of a file and of code only, so that each page comes
    // back as it was.
    unsafe { madvise(from, length, Advice::LinuxDontNeed)? };
    Ok(())
}

/// Where this program's code is mapped, and its length.
fn own_code() -> io::Result<(*mut c_void, usize)> {
    let here = own_code as *const () as usize;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let code = maps.lines().filter_map(code).find(|range| range.contains(&here));
    let range = code.ok_or(io::ErrorKind::NotFound)?;
    Ok((std::ptr::with_exposed_provenance_mut(range.start), range.len()))
}

/// What a line of `/proc/self/maps` says of a file's code that nobody writes to.
fn code(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (from, to) = words.next()?.split_once('-')?;
    let (permissions, inode) = (words.next()?, words.nth(2)?);
    if permissions != "r-xp" || inode == "0" {
        return None;
    }
    Some(usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_replaced_is_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let (new, old) = (dir.path().join("msb"), dir.path().join("msb (deleted)"));
        assert_eq!(in_its_place(old.clone()), new);
        assert_eq!(in_its_place(new.clone()), new);
        fs::write(&old, "").unwrap();
        assert_eq!(in_its_place(old.clone()), old, "what has that name is that");
    }

    #[test]
    fn code_that_was_taken_out_comes_back() {
        let resident_kib = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
            line.split_ascii_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
        };
        let (from, length) = own_code().unwrap();
        // SAFETY: it is only read.
        unsafe { madvise(from, length, Advice::LinuxPopulateRead).unwrap() };
        let before = resident_kib();
        release_code().unwrap();
        let released = before - resident_kib();
        assert!(released > length / 1024 / 2, "{released} KiB of {length} bytes");
    }
}
