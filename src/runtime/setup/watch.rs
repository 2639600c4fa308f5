//! Waits for a process, and tells how much the files below a directory grow meanwhile.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Waits for `child`. `progress` gets the size of the largest file below `dir` whenever it grows,
/// in bytes.
pub(super) fn wait(
    child: &mut Child,
    dir: &Path,
    progress: &mut dyn FnMut(u64),
) -> io::Result<ExitStatus> {
    let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let mut watched = HashMap::new();
    watch(&events, dir, &mut watched);
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut told = 0;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let mut fds = [PollFd::new(&ended, PollFlags::IN), PollFd::new(&events, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for path in changed(&events, &mut watched) {
            let size = fs::metadata(&path).map_or(0, |meta| meta.len());
            if size > told {
                told = size;
                progress(told);
            }
        }
    }
}

/// The files that were written to since the last call; new directories are watched from here on.
fn changed(events: &impl std::os::fd::AsFd, watched: &mut HashMap<i32, PathBuf>) -> Vec<PathBuf> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(events, &mut buffer);
    let mut files = Vec::new();
    while let Ok(event) = reader.next() {
        let dir = watched.get(&event.wd());
        let name = event.file_name().and_then(|name| name.to_str().ok());
        let (Some(dir), Some(name)) = (dir, name) else { continue };
        let path = dir.join(name);
        if event.events().contains(ReadFlags::ISDIR) {
            watch(events, &path, watched);
        } else {
            files.push(path);
        }
    }
    files
}

/// Watches `dir` and what is below it. Progress is a courtesy: what cannot be watched is not.
fn watch(events: &impl std::os::fd::AsFd, dir: &Path, watched: &mut HashMap<i32, PathBuf>) {
    let flags = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::MOVED_TO;
    if let Ok(number) = inotify::add_watch(events, dir, flags) {
        watched.insert(number, dir.to_owned());
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            watch(events, &entry.path(), watched);
        }
    }
}
