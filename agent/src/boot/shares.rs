//! Mounts of what the host's file server shares.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use msb_protocol::{BootConfig, BootFailed, FilesPreamble, ShareMount};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat};
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_remount, move_mount,
    open_tree, unmount,
};

use super::mounts::{Point, mount_point};
use super::populate::populate;
use super::relay::{MAX_PAYLOAD, Relay};
use super::stage;
use crate::users;

/// The whole file system is mounted here until every share of it is held: over a directory that
/// is there, before anything else runs.
const WHOLE: &str = "/dev/shm";

/// What is shared, and mounted nowhere yet.
#[derive(Default)]
pub(super) struct Shares {
    /// A mount of each share, in the order of `config.shares`.
    pub(super) trees: Vec<OwnedFd>,
    /// The directory of all shares, those that are not mounted at boot too.
    pub(super) whole: Option<OwnedFd>,
}

/// Mounts the directory of the shares and takes hold of it. Asks the file server for nothing when
/// there is nothing to mount: it may not be there yet.
pub(super) fn open(relay: Relay, config: &BootConfig) -> Result<Shares, BootFailed> {
    let spec = config.user.as_deref().filter(|_| !config.shares.is_empty()).unwrap_or_default();
    let owner = users::lookup(spec)
        .ok_or_else(|| io::Error::other(format!("there is no user or group {spec}")));
    let owner = stage("look up the user", owner)?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,\
         max_read={MAX_PAYLOAD}",
        relay.fuse()
    );
    let options = stage("mount the shares", std::ffi::CString::new(options))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    stage("mount the shares", mount("msb", WHOLE, "fuse", flags, Some(options.as_c_str())))?;
    let preamble = FilesPreamble { uid: owner.uid, gid: owner.gid };
    stage("begin to share", relay.begin(preamble))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let whole = stage("open the shares", rustix::fs::open(WHOLE, flags, Mode::empty()))?;
    let mut trees = Vec::new();
    for share in &config.shares {
        let root = Path::new(WHOLE).join(share.share.to_string());
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        trees.push(stage(&format!("share {}", share.path), open_tree(CWD, root, flags))?);
    }
    stage("hide the shares", unmount(WHOLE, UnmountFlags::DETACH))?;
    Ok(Shares { trees, whole: Some(whole) })
}

/// Puts the mount `tree` in its place.
pub(super) fn attach(tree: &OwnedFd, share: &ShareMount) -> io::Result<()> {
    let is_dir = FileType::from_raw_mode(fstat(tree)?.st_mode).is_dir();
    let point = mount_point(&share.path, if is_dir { Point::Directory } else { Point::File })?;
    if share.populate {
        populate(point.as_fd(), tree.as_fd())?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", &point, c"", flags)?;
    if share.readonly {
        let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount_remount(format!("/proc/self/fd/{}", tree.as_raw_fd()), flags, c"")?;
    }
    Ok(())
}
