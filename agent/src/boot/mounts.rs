//! The root file system and what is mounted into it.
//!
//! ```text
//! namespace of the kernel    boot disk, /dev /sys /proc
//!   └─ own namespace         lowers + upper ─▶ overlay = /, then /proc /sys /dev … and mounts
//! ```
//!
//! Everything that the workload sees is mounted in a namespace of its own, and the first one is
//! kept open. When every process is gone, the agent goes back to the first one: that drops the own
//! namespace with all its mounts, whatever the workload mounted or covered, and the upper disk is
//! unmounted cleanly.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use msb_protocol::{BootFailed, DiskMount, RootConfig, TmpfsMount};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};

use super::{devices, stage};
use crate::log;

/// Where the root is put together; the boot disk has an empty directory there.
const WORK: &str = "/run";

/// What [`assemble`] did.
pub(crate) struct Booted {
    /// The first mount namespace.
    first: File,
    /// Disks that are written to.
    written: Vec<PathBuf>,
}

impl Booted {
    /// Unmounts everything, which no process may use any more.
    pub(crate) fn release(self) {
        let released = move_into_thread_name_spaces(
            std::os::fd::AsFd::as_fd(&self.first),
            ThreadNameSpaceType::MOUNT,
        );
        if let Err(error) = released {
            log::line(&format!("leaving the mount namespace: {error}"));
        }
        for disk in self.written {
            // An exclusive open fails while the disk is mounted anywhere.
            let exclusive = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&disk);
            if let Err(error) = exclusive {
                log::line(&format!("{} is still in use: {error}", disk.display()));
            }
        }
        rustix::fs::sync();
    }
}

/// Puts the root together and makes it `/`. Nothing happens without lowers.
pub(super) fn assemble(root: &RootConfig) -> Result<Option<Booted>, BootFailed> {
    if root.lowers.is_empty() {
        return match &root.upper {
            None => Ok(None),
            Some(_) => Err(BootFailed {
                stage: "mount root".to_owned(),
                message: "there is an upper disk and no lower one".to_owned(),
            }),
        };
    }
    let first = stage("open the mount namespace", File::open("/proc/self/ns/mnt"))?;
    // SAFETY: the agent has one thread, so no other one shares what is unshared.
    let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) };
    stage("unshare the mount namespace", unshared)?;
    stage(
        "mount work directory",
        mount("tmpfs", WORK, "tmpfs", MountFlags::empty(), Some(c"mode=0700")),
    )?;

    let mut lowers = Vec::new();
    for (index, serial) in root.lowers.iter().enumerate() {
        let name = format!("mount lower {serial}");
        let at = work_dir(&format!("lower{index}"))?;
        let disk = stage(&name, devices::disk(serial))?;
        stage(&name, mount(&disk, &at, "erofs", MountFlags::RDONLY, None))?;
        lowers.push(at);
    }
    let upper = work_dir("upper")?;
    let mut written = Vec::new();
    match &root.upper {
        Some(serial) => {
            let disk = stage("mount upper", devices::disk(serial))?;
            stage("mount upper", mount(&disk, &upper, "ext4", MountFlags::empty(), None))?;
            written.push(disk);
        }
        None => stage("mount upper", mount("tmpfs", &upper, "tmpfs", MountFlags::empty(), None))?,
    }
    let merged = work_dir("root")?;
    stage("mount root", mount_overlay(&lowers, &upper, &merged))?;
    stage("enter root", enter(&merged))?;
    Ok(Some(Booted { first, written }))
}

fn work_dir(name: &str) -> Result<PathBuf, BootFailed> {
    let path = Path::new(WORK).join(name);
    stage("make work directory", fs::create_dir(&path))?;
    Ok(path)
}

fn mount_overlay(lowers: &[PathBuf], upper: &Path, merged: &Path) -> io::Result<()> {
    let (files, work) = (upper.join("upper"), upper.join("work"));
    if !files.exists() {
        // `/` looks as in the image. Under another name until it does, for a power cut.
        let temporary = upper.join("new");
        fs::create_dir_all(&temporary)?;
        let image = fs::metadata(&lowers[0])?;
        chown(&temporary, Some(image.uid()), Some(image.gid()))?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(image.mode() & 0o7777))?;
        fs::rename(&temporary, &files)?;
    }
    fs::create_dir_all(&work)?;
    let lowers: Vec<String> = lowers.iter().map(|path| path.display().to_string()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lowers.join(":"),
        files.display(),
        work.display()
    );
    let options = std::ffi::CString::new(options)?;
    Ok(mount("overlay", merged, "overlay", MountFlags::empty(), Some(options.as_c_str()))?)
}

/// Makes `root` the root of this namespace and drops the old one from it.
fn enter(root: &Path) -> io::Result<()> {
    rustix::process::chdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// Mounts what every Linux program expects.
pub(super) fn mount_system() -> Result<(), BootFailed> {
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    let dev = MountFlags::NOSUID | MountFlags::NOEXEC;
    let pts = c"newinstance,gid=5,mode=620,ptmxmode=666";
    let required = [
        ("proc", "/proc", quiet, None),
        ("sysfs", "/sys", quiet, None),
        ("devtmpfs", "/dev", dev, None),
        ("devpts", "/dev/pts", dev, Some(pts)),
        ("tmpfs", "/dev/shm", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=1777")),
    ];
    for (fstype, path, flags, options) in required {
        let name = format!("mount {path}");
        stage(&name, fs::create_dir_all(path))?;
        stage(&name, mount(fstype, path, fstype, flags, options))?;
    }
    // Not every kernel has these.
    let _ = fs::create_dir("/dev/mqueue");
    let _ = mount("mqueue", "/dev/mqueue", "mqueue", quiet, None);
    let _ = mount("cgroup2", "/sys/fs/cgroup", "cgroup2", quiet, None);
    let links = [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ];
    for (target, link) in links {
        match symlink(target, link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return stage(&format!("link {link}"), Err(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A mount into the root.
pub(super) enum Mount<'a> {
    Disk(&'a DiskMount),
    Tmpfs(&'a TmpfsMount),
}

impl Mount<'_> {
    fn path(&self) -> &str {
        match self {
            Mount::Disk(disk) => &disk.path,
            Mount::Tmpfs(tmpfs) => &tmpfs.path,
        }
    }
}

/// Mounts disks and memory file systems, parents before what is inside them.
pub(super) fn mount_all(
    disks: &[DiskMount],
    tmpfs: &[TmpfsMount],
    booted: &mut Option<Booted>,
) -> Result<(), BootFailed> {
    for mount in in_order(disks, tmpfs) {
        let path = mount.path();
        let name = format!("mount {path}");
        stage(&name, check_path(path))?;
        stage(&name, fs::create_dir_all(path))?;
        match mount {
            Mount::Disk(disk) => {
                let device = stage(&name, devices::disk(&disk.serial))?;
                stage(&name, mount_disk(disk, &device))?;
                if let Some(booted) = booted.as_mut().filter(|_| !disk.readonly) {
                    booted.written.push(device);
                }
            }
            Mount::Tmpfs(tmpfs) => stage(&name, mount_tmpfs(tmpfs))?,
        }
    }
    Ok(())
}

fn mount_disk(disk: &DiskMount, device: &Path) -> io::Result<()> {
    let flags = if disk.readonly { MountFlags::RDONLY } else { MountFlags::empty() };
    Ok(mount(device, &disk.path, disk.fstype.as_str(), flags, None)?)
}

fn mount_tmpfs(tmpfs: &TmpfsMount) -> io::Result<()> {
    let mut options = format!("mode={:o}", tmpfs.mode & 0o7777);
    if let Some(size) = tmpfs.size_bytes {
        options.push_str(&format!(",size={size}"));
    }
    let readonly = if tmpfs.readonly { MountFlags::RDONLY } else { MountFlags::empty() };
    let flags = MountFlags::NOSUID | MountFlags::NODEV | readonly;
    let options = std::ffi::CString::new(options)?;
    Ok(mount("tmpfs", &tmpfs.path, "tmpfs", flags, Some(options.as_c_str()))?)
}

/// All mounts, parents before what is inside them.
fn in_order<'a>(disks: &'a [DiskMount], tmpfs: &'a [TmpfsMount]) -> Vec<Mount<'a>> {
    let disks = disks.iter().map(Mount::Disk);
    let mut mounts: Vec<Mount<'a>> = disks.chain(tmpfs.iter().map(Mount::Tmpfs)).collect();
    mounts.sort_by(|a, b| Path::new(a.path()).components().cmp(Path::new(b.path()).components()));
    mounts
}

fn check_path(path: &str) -> io::Result<()> {
    let path = Path::new(path);
    let is_plain = path.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    if path.is_absolute() && is_plain && path.components().count() > 1 {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not an absolute path below /"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_parents_first() {
        let disk = |path: &str| DiskMount {
            serial: String::new(),
            path: path.to_owned(),
            fstype: String::new(),
            readonly: false,
            populate: false,
        };
        let memory = |path: &str| TmpfsMount {
            path: path.to_owned(),
            size_bytes: None,
            mode: 0o755,
            readonly: false,
        };
        let disks = [disk("/data/a/deep"), disk("/data-more"), disk("/")];
        let tmpfs = [memory("/data/a"), memory("/data"), memory("/data/b")];
        let order: Vec<String> =
            in_order(&disks, &tmpfs).iter().map(|mount| mount.path().to_owned()).collect();
        assert_eq!(order, ["/", "/data", "/data/a", "/data/a/deep", "/data/b", "/data-more"]);
    }

    #[test]
    fn refuses_paths_that_lead_elsewhere() {
        for path in ["", "a", "/", "/a/../b", "..", "/.."] {
            assert!(check_path(path).is_err(), "{path}");
        }
        assert!(check_path("/a/b").is_ok());
    }
}
