//! The disk image that a root is made of: which part of it, and with which file system.
//!
//! The disk's file system wins over its partitions, a partition that the host names over both; without,
//! the only partition that holds a file system of Linux is meant.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use msb_protocol::RootDisk;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::devices;
use crate::log;

/// Where file systems have their magic numbers, in bytes, these, and their names.
const KNOWN: [(u64, &[u8], &str); 4] = [
    (1080, &[0x53, 0xef], "ext4"),
    (1024, &[0xe2, 0xe1, 0xf5, 0xe0], "erofs"),
    (0x1_0040, b"_BHRfS_M", "btrfs"),
    (0, b"XFSB", "xfs"),
];
/// What a file system whose journal has not been replayed is mounted with where nothing can be
/// written.
const WITHOUT_JOURNAL: [(&str, &std::ffi::CStr); 3] =
    [("ext4", c"noload"), ("btrfs", c"rescue=nologreplay"), ("xfs", c"norecovery")];

/// Mounts the root file system of the disk; gives back the device that it is on.
pub(super) fn mount_disk(disk: &RootDisk, at: &Path) -> io::Result<PathBuf> {
    let device = devices::disk(&disk.serial)?;
    let parts = parts(Path::new("/sys/class/block"), &device)?;
    let (device, fstype) = choose(disk, &device, &parts, probe)?;
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
    KNOWN.iter().find(holds).map(|(_, _, name)| *name)
}

/// What is mounted, and as what.
fn choose(
    wanted: &RootDisk,
    disk: &Path,
    parts: &[(u32, PathBuf)],
    probe: impl Fn(&Path) -> Option<&'static str>,
) -> io::Result<(PathBuf, String)> {
    let named = |device: &Path, what: &str| {
        let fstype = wanted.fstype.clone().or_else(|| probe(device).map(str::to_owned));
        let fstype = fstype.ok_or_else(|| {
            io::Error::other(format!(
                "{what} holds no file system that is known; name its `fstype`"
            ))
        });
        Ok::<_, io::Error>((device.to_owned(), fstype?))
    };
    let numbers = |parts: &[&(u32, PathBuf)]| {
        let numbers: Vec<String> = parts.iter().map(|(number, _)| number.to_string()).collect();
        if numbers.is_empty() { "none".to_owned() } else { numbers.join(", ") }
    };
    let all: Vec<_> = parts.iter().collect();
    if let Some(number) = wanted.partition {
        let part = parts.iter().find(|(other, _)| *other == number);
        let missing = || format!("there is no partition {number}; there is {}", numbers(&all));
        let (_, device) = part.ok_or_else(|| io::Error::other(missing()))?;
        return named(device, &format!("partition {number}"));
    }
    if parts.is_empty() || probe(disk).is_some() {
        return named(disk, "the disk");
    }
    let suits = |part: &&(u32, PathBuf)| {
        let found = probe(&part.1);
        found.is_some() && wanted.fstype.as_deref().is_none_or(|wanted| Some(wanted) == found)
    };
    let suitable: Vec<_> = parts.iter().filter(suits).collect();
    match (&suitable[..], &all[..]) {
        ([(_, device)], _) | ([], [(_, device)]) => named(device, "its only partition"),
        ([], _) => Err(io::Error::other(format!(
            "none of the partitions {} holds a file system that is known; choose one with `partition` \
             and name its `fstype`",
            numbers(&all)
        ))),
        (several, _) => Err(io::Error::other(format!(
            "the partitions {} hold file systems; choose one with `partition`",
            numbers(several)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        parts: &[(u32, &'static str)],
        whole: &'static str,
        wanted: (Option<u32>, Option<&str>),
    ) -> String {
        let disk = RootDisk {
            serial: String::new(),
            fstype: wanted.1.map(str::to_owned),
            partition: wanted.0,
            writable: false,
        };
        let paths: Vec<_> = parts
            .iter()
            .map(|(number, _)| (*number, PathBuf::from(format!("vda{number}"))))
            .collect();
        let probe = |device: &Path| {
            let known = paths.iter().zip(parts).find(|((_, path), _)| path == device);
            Some(known.map_or(whole, |(_, (_, fstype))| fstype)).filter(|name| !name.is_empty())
        };
        match choose(&disk, Path::new("vda"), &paths, probe) {
            Ok((device, fstype)) => format!("{} {fstype}", device.display()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_root_of_a_disk() {
        let any = (None, None);
        assert_eq!(chosen(&[], "ext4", any), "vda ext4");
        assert_eq!(chosen(&[], "", (None, Some("f2fs"))), "vda f2fs");
        assert!(chosen(&[], "", any).starts_with("the disk holds no file system that is known"));
        let cloud = [(1, "ext4"), (14, ""), (15, "")];
        assert_eq!(chosen(&cloud, "", any), "vda1 ext4");
        assert_eq!(chosen(&cloud, "btrfs", any), "vda btrfs");
        assert_eq!(chosen(&[(2, "")], "", (None, Some("f2fs"))), "vda2 f2fs");
        let two = [(1, "ext4"), (2, "btrfs"), (3, "")];
        let several = "the partitions 1, 2 hold file systems; choose one with `partition`";
        assert_eq!(chosen(&two, "", any), several);
        assert_eq!(chosen(&two, "", (None, Some("btrfs"))), "vda2 btrfs");
        assert_eq!(chosen(&two, "", (Some(2), None)), "vda2 btrfs");
        assert_eq!(chosen(&two, "", (Some(3), Some("f2fs"))), "vda3 f2fs");
        assert!(chosen(&two, "", (Some(3), None)).starts_with("partition 3 holds no"));
        assert_eq!(chosen(&two, "", (Some(9), None)), "there is no partition 9; there is 1, 2, 3");
        assert_eq!(chosen(&[], "", (Some(1), None)), "there is no partition 1; there is none");
        let none = chosen(&[(1, ""), (2, "")], "", any);
        assert!(none.starts_with("none of the partitions 1, 2 holds"), "{none}");
    }

    #[test]
    fn file_systems_are_told_by_their_magic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        for (at, magic, name) in KNOWN {
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
