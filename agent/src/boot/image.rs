//! The disk image that a root is made of: its devices, and how it is mounted.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use msb_protocol::{FILE_SYSTEMS, RootDisk};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::devices;
use crate::log;

/// What a file system whose journal has not been replayed is mounted with where nothing can be
/// written.
const WITHOUT_JOURNAL: [(&str, &std::ffi::CStr); 3] =
    [("ext4", c"noload"), ("btrfs", c"rescue=nologreplay"), ("xfs", c"norecovery")];

/// Mounts the root file system of the disk; gives back the device that it is on.
pub(super) fn mount_disk(disk: &RootDisk, at: &Path) -> io::Result<PathBuf> {
    let device = devices::disk(&disk.serial)?;
    let parts = parts(Path::new("/sys/class/block"), &device)?;
    let (device, fstype) =
        disk.choose(&device, &parts, |device| probe(device)).map_err(io::Error::other)?;
    let flags = if disk.writable { MountFlags::empty() } else { MountFlags::RDONLY };
    let options = WITHOUT_JOURNAL.iter().find(|(name, _)| *name == fstype && !disk.writable);
    let mounted = mount(&device, at, fstype.as_str(), flags, None);
    let mounted = match (mounted, options) {
        (Err(error), Some((_, options))) => {
            log::line(&format!("{}: {error}; without its journal", device.display()));
            mount(&device, at, fstype.as_str(), flags, Some(*options))
        }
        (mounted, _) => mounted,
    };
    mounted.map_err(|error| match error {
        Errno::NODEV => io::Error::other(format!("the guest's kernel has no file system {fstype}")),
        error => error.into(),
    })?;
    Ok(device)
}

/// The partitions of a disk, by number.
fn parts(class: &Path, device: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let name = device.file_name().unwrap_or_default();
    let mut parts = Vec::new();
    for entry in fs::read_dir(class.join(name))?.flatten() {
        let number = fs::read_to_string(entry.path().join("partition"));
        let number = number.ok().and_then(|text| text.trim().parse().ok());
        let path = device.with_file_name(entry.file_name());
        parts.extend(number.map(|number| (number, path)));
    }
    parts.sort_unstable();
    Ok(parts)
}

/// The file system that a device holds.
fn probe(device: &Path) -> Option<&'static str> {
    let file = File::open(device).ok()?;
    let holds = |(at, magic, _): &&(u64, &[u8], &str)| {
        let mut found = vec![0; magic.len()];
        file.read_exact_at(&mut found, *at).is_ok() && found == *magic
    };
    FILE_SYSTEMS.iter().find(holds).map(|(_, _, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_are_told_by_their_magic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        for (at, magic, name) in FILE_SYSTEMS {
            let file = File::create(&path).unwrap();
            file.write_all_at(magic, at).unwrap();
            assert_eq!(probe(&path), Some(name));
        }
        fs::write(&path, [0; 4096]).unwrap();
        assert_eq!(probe(&path), None);
        assert_eq!(probe(&dir.path().join("none")), None);
    }

    #[test]
    fn partitions_are_read_from_sysfs() {
        let dir = tempfile::tempdir().unwrap();
        for (name, number) in [("vdb1", "1\n"), ("vdb10", "10\n"), ("vdb2", "2\n")] {
            fs::create_dir_all(dir.path().join("vdb").join(name)).unwrap();
            fs::write(dir.path().join("vdb").join(name).join("partition"), number).unwrap();
        }
        fs::create_dir(dir.path().join("vdb/queue")).unwrap();
        let parts = parts(dir.path(), Path::new("/dev/vdb")).unwrap();
        let found: Vec<_> =
            parts.iter().map(|(n, path)| format!("{n} {}", path.display())).collect();
        assert_eq!(found, ["1 /dev/vdb1", "2 /dev/vdb2", "10 /dev/vdb10"]);
    }
}
