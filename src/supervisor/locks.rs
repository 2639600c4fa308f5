//! What a supervisor holds while its sandbox runs: the sandbox, its disk, the disks of volumes, and a
//! disk image that is its root.
//!
//! A disk has one writer at a time: whoever writes holds its lock alone, readers share it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{LaunchConfig, SandboxPaths};
use crate::home::Home;
use crate::spec::{ImageSource, MountSource, VolumeKind};
use crate::store::Store;

/// Locks that last as long as this.
#[derive(Debug)]
pub(super) struct Locks(#[allow(dead_code, reason = "held, not read")] Vec<File>);

/// Takes all locks of the sandbox, or says who has one.
pub(super) fn lock(home: &Home, config: &LaunchConfig) -> Result<Locks, String> {
    let paths = SandboxPaths::new(home, &config.id);
    let logs = paths.logs();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&logs)
        .map_err(|e| format!("{}: cannot be made: {e}", logs.display()))?;
    let own = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(paths.lock())
        .map_err(|e| format!("{}: cannot be made: {e}", paths.lock().display()))?;
    let mut held = vec![alone(own, &paths.lock())?];
    if let Some(upper) = &config.upper {
        held.push(alone(open(upper)?, upper)?);
    }
    held.extend(volumes(home, config)?);
    held.extend(image(home, config)?);
    Ok(Locks(held))
}

fn open(path: &Path) -> Result<File, String> {
    File::open(path).map_err(|e| format!("{}: cannot open: {e}", path.display()))
}

/// Two supervisors never share a sandbox or its disk.
fn alone(file: File, path: &Path) -> Result<File, String> {
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            Err(format!("{}: another supervisor runs this sandbox", path.display()))
        }
        Err(errno) => Err(format!("{}: cannot lock: {errno}", path.display())),
    }
}

fn volumes(home: &Home, config: &LaunchConfig) -> Result<Vec<File>, String> {
    let mut held = Vec::new();
    for (name, place) in &config.volumes {
        if place.kind != VolumeKind::Disk {
            continue;
        }
        let mounts = config.spec.volumes.values().filter(
            |mount| matches!(&mount.source, MountSource::Named { volume, .. } if volume == name),
        );
        let modes: Vec<bool> = mounts.map(|mount| mount.readonly).collect();
        if modes.len() > 1 {
            return Err(format!("the volume `{name}` is a disk, which is mounted once only"));
        }
        let file = open(&place.path)?;
        let writes = modes.contains(&false);
        held.push(one_writer(home, file, &place.path, writes, &format!("the volume `{name}`"))?);
    }
    Ok(held)
}

/// The disk image that is the sandbox's root.
fn image(home: &Home, config: &LaunchConfig) -> Result<Option<File>, String> {
    let (ImageSource::Disk { writable, .. }, Some(path)) =
        (&config.spec.image.source, &config.image_file)
    else {
        return Ok(None);
    };
    one_writer(home, open(path)?, path, *writable, &path.display().to_string()).map(Some)
}

/// Locks a disk that several may read, or one may write to.
fn one_writer(
    home: &Home,
    file: File,
    path: &Path,
    writes: bool,
    what: &str,
) -> Result<File, String> {
    let how = if writes {
        FlockOperation::NonBlockingLockExclusive
    } else {
        FlockOperation::NonBlockingLockShared
    };
    match flock(&file, how) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            let holder = holder(home, &file).unwrap_or_else(|| "another process".to_owned());
            Err(format!("{what} is a disk with one writer at a time, and {holder} has it"))
        }
        Err(errno) => Err(format!("{}: cannot lock: {errno}", path.display())),
    }
}

/// Who holds a lock on `file`: the kernel lists the process, the store knows its sandbox.
fn holder(home: &Home, file: &File) -> Option<String> {
    let meta = file.metadata().ok()?;
    let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let pid = locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            [_, "FLOCK", _, _, pid, at, ..] if at == place => pid.parse::<u32>().ok(),
            _ => None,
        }
    })?;
    let rows = Store::open_read_only(home).ok()??.all_sandboxes().ok()?;
    let row = rows.iter().find(|row| row.run.as_ref().is_some_and(|run| run.pid == pid));
    Some(match row {
        Some(row) => format!("the sandbox `{}/{}`", row.project, row.name),
        None => format!("process {pid}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_found_by_its_process() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let home = Home::at(dir.path().join("home"));
        drop(Store::open(&home)?);
        let path = dir.path().join("disk");
        let held = File::create(&path)?;
        assert_eq!(holder(&home, &held), None);
        flock(&held, FlockOperation::NonBlockingLockExclusive)?;
        let process = format!("process {}", std::process::id());
        assert_eq!(holder(&home, &File::open(&path)?), Some(process));
        Ok(())
    }
}
