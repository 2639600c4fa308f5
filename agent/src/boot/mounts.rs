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
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use msb_protocol::{BootConfig, BootFailed, DiskMount, RootConfig, ShareMount, TmpfsMount};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, OpenTreeFlags, UnmountFlags, mount, mount_remount, open_tree, unmount,
};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};

use super::populate::populate;
use super::shares::Shares;
use super::volumes::{Growth, Volume, Volumes};
use super::{devices, grow, image, loops, mapper, shares, stage};
use crate::log;

/// Where the root is put together; the boot disk has an empty directory there.
const WORK: &str = "/run";

/// What [`assemble`] did.
pub(crate) struct Booted {
    /// The first mount namespace.
    first: File,
    /// Disks that are written to.
    written: Vec<PathBuf>,
    /// Those that may grow.
    volumes: Volumes,
}

impl Booted {
    /// The growth of the volume whose disk is `share`.
    pub(crate) fn growth(&self, share: u32) -> Option<Growth<'_>> {
        self.volumes.growth(share, &self.first)
    }

    /// Unmounts everything, which no process may use any more.
    pub(crate) fn release(self) {
        drop(self.volumes);
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

/// Puts the root together and makes it `/`. Nothing happens without lowers and a disk.
pub(super) fn assemble(root: &RootConfig) -> Result<Option<Booted>, BootFailed> {
    if root.lowers.is_empty() && root.disk.is_none() {
        return match &root.upper {
            None => Ok(None),
            Some(_) => Err(BootFailed {
                stage: "mount root".to_owned(),
                message: "there is an upper disk and no lower one".to_owned(),
            }),
        };
    }
    let first = stage("open the mount namespace", File::open("/proc/self/ns/mnt"))?;
    // SAFETY: no descriptors are unshared.
    let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) };
    stage("unshare the mount namespace", unshared)?;
    stage(
        "mount work directory",
        mount("tmpfs", WORK, "tmpfs", MountFlags::empty(), Some(c"mode=0700")),
    )?;

    if let Some(disk) = root.disk.as_ref().filter(|disk| disk.writable) {
        let merged = work_dir("root")?;
        let written = vec![stage("mount the disk image", image::mount_disk(disk, &merged))?];
        stage("enter root", enter(&merged))?;
        return Ok(Some(Booted { first, written, volumes: Volumes::default() }));
    }
    let lowers = mount_lowers(root)?;
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
    Ok(Some(Booted { first, written, volumes: Volumes::default() }))
}

/// Mounts what is not written to, topmost first.
fn mount_lowers(root: &RootConfig) -> Result<Vec<PathBuf>, BootFailed> {
    let mut lowers = Vec::new();
    for (index, serial) in root.lowers.iter().enumerate() {
        let name = format!("mount lower {serial}");
        let at = work_dir(&format!("lower{index}"))?;
        let disk = stage(&name, devices::disk(serial))?;
        stage(&name, mount(&disk, &at, "erofs", MountFlags::RDONLY, None))?;
        lowers.push(at);
    }
    if let Some(disk) = &root.disk {
        let at = work_dir("image")?;
        stage("mount the disk image", image::mount_disk(disk, &at))?;
        lowers.push(at);
    }
    Ok(lowers)
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
enum Mount<'a> {
    Disk(&'a DiskMount),
    Tmpfs(&'a TmpfsMount),
    Share(&'a ShareMount, &'a OwnedFd),
}

impl Mount<'_> {
    fn path(&self) -> &str {
        match self {
            Mount::Disk(disk) => &disk.path,
            Mount::Tmpfs(tmpfs) => &tmpfs.path,
            Mount::Share(share, _) => &share.path,
        }
    }
}

/// Mounts disks, memory file systems and shares, parents before what is inside them.
pub(super) fn mount_all(
    config: &BootConfig,
    shares: Option<Shares>,
    booted: &mut Option<Booted>,
) -> Result<(), BootFailed> {
    let Shares { trees, whole } = shares.unwrap_or_default();
    let mut volumes = Volumes { all: Vec::new(), shares: whole };
    for mount in in_order(config, &trees) {
        let name = format!("mount {}", mount.path());
        match mount {
            Mount::Disk(disk) => {
                let device = stage(&name, devices::disk(&disk.serial))?;
                let volume = volume(disk, device);
                stage(&name, mount_disk(disk, &volume.device))?;
                if !disk.readonly {
                    volumes.all.push(volume);
                }
            }
            Mount::Share(share, tree) if share.fstype.is_some() => {
                let device = stage(&name, mount_loop(share, tree))?;
                if !share.readonly {
                    let (share, path) = (share.share, share.path.clone());
                    volumes.all.push(Volume { share: Some(share), path, device, mapped: None });
                }
            }
            Mount::Tmpfs(tmpfs) => stage(&name, mount_tmpfs(tmpfs))?,
            Mount::Share(share, tree) => stage(&name, shares::attach(tree, share))?,
        }
    }
    if let Some(booted) = booted {
        booted.written.extend(volumes.all.iter().map(|volume| volume.device.clone()));
        booted.volumes = volumes;
    }
    Ok(())
}

/// The volume on `device`, by the device mapper where it may grow. Without one it does not.
fn volume(disk: &DiskMount, device: PathBuf) -> Volume {
    let (share, path) = (disk.share, disk.path.clone());
    let map = || mapper::create(&disk.serial, &[&File::open(&device)?]);
    match share.map(|_| map()) {
        Some(Ok(made)) => {
            let mapped = Some((disk.serial.clone(), device));
            Volume { share, path, device: made, mapped }
        }
        Some(Err(error)) => {
            log::line(&format!("{path}: its disk grows at the next boot only: {error}"));
            Volume { share: None, path, device, mapped: None }
        }
        None => Volume { share, path, device, mapped: None },
    }
}

/// Mounts a disk that is a file of the host's file server; its device.
fn mount_loop(share: &ShareMount, tree: &OwnedFd) -> io::Result<PathBuf> {
    let found = loops::attach(tree, share.readonly, 0)?;
    let disk = DiskMount {
        serial: String::new(),
        path: share.path.clone(),
        fstype: share.fstype.clone().unwrap_or_default(),
        readonly: share.readonly,
        populate: share.populate,
        share: None,
    };
    let mounted = mount_disk(&disk, &found.path);
    drop(found.device);
    mounted.map(|()| found.path)
}

fn mount_disk(disk: &DiskMount, device: &Path) -> io::Result<()> {
    let point = mount_point(&disk.path, Point::Directory)?;
    let readonly = if disk.readonly { MountFlags::RDONLY } else { MountFlags::empty() };
    let flags = MountFlags::NOSUID | MountFlags::NODEV | readonly;
    mount(device, by_number(&point), disk.fstype.as_str(), flags, None)?;
    if disk.readonly {
        return Ok(());
    }
    // Of the mount, which covers what `point` is.
    let root = mount_point(&disk.path, Point::Directory)?;
    if let Err(error) = grow::grow(device, root.as_fd()) {
        log::line(&format!("{}: its disk does not grow: {error}", disk.path));
    }
    if disk.populate {
        populate(point.as_fd(), root.as_fd())?;
    }
    Ok(())
}

fn mount_tmpfs(tmpfs: &TmpfsMount) -> io::Result<()> {
    let point = mount_point(&tmpfs.path, Point::Directory)?;
    let mut options = format!("mode={:o}", tmpfs.mode & 0o7777);
    if let Some(size) = tmpfs.size_bytes {
        options.push_str(&format!(",size={size}"));
    }
    let readonly = if tmpfs.readonly { MountFlags::RDONLY } else { MountFlags::empty() };
    let flags = MountFlags::NOSUID | MountFlags::NODEV | readonly;
    let options = std::ffi::CString::new(options)?;
    Ok(mount("tmpfs", by_number(&point), "tmpfs", flags, Some(options.as_c_str()))?)
}

/// Mounts a memory file system that the workload sees read-only at `path`; a mount of it that can
/// be written to, and has no place.
pub(crate) fn mount_own(path: &str, size_bytes: u64) -> io::Result<OwnedFd> {
    let size_bytes = Some(size_bytes);
    mount_tmpfs(&TmpfsMount { path: path.to_owned(), size_bytes, mode: 0o755, readonly: false })?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let writable = open_tree(CWD, path, flags)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount(path, flags, c"")?;
    Ok(writable)
}

/// All mounts, parents before what is inside them.
fn in_order<'a>(config: &'a BootConfig, trees: &'a [OwnedFd]) -> Vec<Mount<'a>> {
    let disks = config.disks.iter().map(Mount::Disk);
    let tmpfs = config.tmpfs.iter().map(Mount::Tmpfs);
    let shares = config.shares.iter().zip(trees).map(|(share, tree)| Mount::Share(share, tree));
    let mut mounts: Vec<Mount<'a>> = disks.chain(tmpfs).chain(shares).collect();
    mounts.sort_by(|a, b| Path::new(a.path()).components().cmp(Path::new(b.path()).components()));
    mounts
}

/// What something is mounted on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    Directory,
    File,
}

/// Opens what `path` names, and makes it when it is missing. The image's symbolic links are followed
/// inside the root.
pub(super) fn mount_point(path: &str, kind: Point) -> io::Result<OwnedFd> {
    check_path(path)?;
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    mount_point_in(&root, path, kind)
}

fn mount_point_in(root: &OwnedFd, path: &str, kind: Point) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let open = |path: &Path| openat2(root, path, flags, Mode::empty(), resolve);
    let mut point = open(Path::new("/"))?;
    let mut walked = PathBuf::from("/");
    let mut names = Path::new(path).components().skip(1).peekable();
    while let Some(name) = names.next() {
        walked.push(name);
        point = match open(&walked) {
            Err(Errno::NOENT) => {
                if kind == Point::File && names.peek().is_none() {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    openat(&point, name.as_os_str(), flags, Mode::from_raw_mode(0o644))?;
                } else {
                    mkdirat(&point, name.as_os_str(), Mode::from_raw_mode(0o755))?;
                }
                open(&walked)?
            }
            opened => opened?,
        };
    }
    Ok(point)
}

/// A path to an open file.
fn by_number(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
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
            share: None,
        };
        let memory = |path: &str| TmpfsMount {
            path: path.to_owned(),
            size_bytes: None,
            mode: 0o755,
            readonly: false,
        };
        let share = |path: &str| ShareMount {
            share: 0,
            path: path.to_owned(),
            readonly: false,
            populate: false,
            fstype: None,
        };
        let config = BootConfig {
            disks: vec![disk("/data/a/deep"), disk("/data-more"), disk("/")],
            tmpfs: vec![memory("/data/a"), memory("/data/b")],
            shares: vec![share("/data/a/deep/share"), share("/data")],
            ..BootConfig::default()
        };
        let trees = [(); 2].map(|()| File::open("/").unwrap().into());
        let order: Vec<String> =
            in_order(&config, &trees).iter().map(|mount| mount.path().to_owned()).collect();
        let expected = [
            "/",
            "/data",
            "/data/a",
            "/data/a/deep",
            "/data/a/deep/share",
            "/data/b",
            "/data-more",
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn a_mount_point_is_in_the_root() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root: OwnedFd = File::open(dir.path()).unwrap().into();
        fs::create_dir(dir.path().join("real")).unwrap();
        symlink("/real", dir.path().join("absolute")).unwrap();
        symlink("../../../../..", dir.path().join("up")).unwrap();
        symlink(outside.path(), dir.path().join("out")).unwrap();
        symlink("/proc/self/cwd", dir.path().join("magic")).unwrap();
        let place = |path, kind| {
            let point = mount_point_in(&root, path, kind)?;
            fs::canonicalize(by_number(&point))
        };
        let inside = |path| dir.path().canonicalize().unwrap().join(path);
        assert_eq!(place("/real", Point::Directory).unwrap(), inside("real"));
        assert_eq!(place("/absolute/a/b", Point::Directory).unwrap(), inside("real/a/b"));
        assert!(place("/up/c/file", Point::File).unwrap().is_file());
        assert!(inside("c/file").is_file());
        assert_eq!(place("/up/c/file", Point::File).unwrap(), inside("c/file"));
        for path in ["/out", "/out/x", "/magic/x", "/c/file/x"] {
            assert!(place(path, Point::Directory).is_err(), "{path}");
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn refuses_paths_that_lead_elsewhere() {
        for path in ["", "a", "/", "/a/../b", "..", "/.."] {
            assert!(check_path(path).is_err(), "{path}");
        }
        assert!(check_path("/a/b").is_ok());
    }
}
