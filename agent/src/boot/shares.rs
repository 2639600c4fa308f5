//! Mounts of what the host's file server shares.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use msb_protocol::{BootConfig, BootFailed, FilesPreamble, ShareMount};
use rustix::fs::{CWD, FileType, fstat};
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

/// Mounts nowhere yet: each share's own, in the order of `config.shares`.
pub(super) fn open(relay: Relay, config: &BootConfig) -> Result<Vec<OwnedFd>, BootFailed> {
    let spec = config.user.as_deref().unwrap_or_default();
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
    let mut trees = Vec::new();
    for share in &config.shares {
        let root = Path::new(WHOLE).join(share.share.to_string());
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        trees.push(stage(&format!("share {}", share.path), open_tree(CWD, root, flags))?);
    }
    stage("hide the shares", unmount(WHOLE, UnmountFlags::DETACH))?;
    Ok(trees)
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
