//! New directory volumes: one guest at a time fills them with what its image has; others wait.
//!
//! Each agent copies into a volume that it finds empty. Two that did so at once would remove each
//! other's copies. So a guest is not told how to boot before its supervisor holds the lock of each
//! directory that is still to be filled, and holds it until it has booted.
#![allow(clippy::disallowed_methods, reason = "this module looks into directories of volumes")]

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use msb_protocol::BootConfig;
use rustix::fs::{FlockOperation, flock};

use crate::files::{Share, ShareKind};

/// How often a directory is looked at that another guest fills.
const PAUSE: Duration = Duration::from_millis(20);
/// What the agent makes in a volume while it fills it.
const UNFINISHED: [&str; 2] = [".msb-new", ".msb-ready"];
/// What an empty file system may have.
const LOST_FOUND: &str = "lost+found";

/// The locks of directories that a guest fills while it boots.
#[derive(Debug)]
pub(super) struct Filling(#[allow(dead_code, reason = "held, not read")] Vec<(PathBuf, File)>);

/// Waits until no other guest fills what `boot`, which mounts `shares`, would fill, and has it fill
/// only what is still new then.
pub(super) async fn settle(mut boot: BootConfig, shares: Vec<Share>) -> (BootConfig, Filling) {
    let share = |number: u32| shares.get(usize::try_from(number).unwrap_or(usize::MAX));
    let mut volumes = Vec::new();
    for mount in boot.shares.iter_mut().filter(|mount| mount.populate) {
        if let Some(share) = share(mount.share).filter(|share| share.kind == ShareKind::Files) {
            volumes.push((&share.path, &mut mount.populate));
        }
    }
    // In one order for all, so that none waits for who waits for it.
    volumes.sort_by_key(|(path, _)| *path);
    let mut held: Vec<(PathBuf, File)> = Vec::new();
    for (path, populate) in volumes {
        if held.iter().any(|(other, _)| other == path) {
            continue;
        }
        match to_fill(path).await {
            Ok(Some(lock)) => held.push((path.clone(), lock)),
            Ok(None) => *populate = false,
            // The guest finds out better what is wrong with it.
            Err(error) => tracing::warn!(%error, path = %path.display(), "not locked"),
        }
    }
    (boot, Filling(held))
}

/// The lock of a directory that is still to be filled.
async fn to_fill(path: &Path) -> io::Result<Option<File>> {
    let dir = File::open(path)?;
    while is_new(path)? {
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            // Whoever had it before may have filled it.
            Ok(()) => return Ok(is_new(path)?.then_some(dir)),
            Err(rustix::io::Errno::WOULDBLOCK) => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

fn is_new(path: &Path) -> io::Result<bool> {
    if UNFINISHED.iter().any(|name| path.join(name).symlink_metadata().is_ok()) {
        return Ok(true);
    }
    for entry in fs::read_dir(path)? {
        if entry?.file_name() != LOST_FOUND {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use msb_protocol::ShareMount;

    use super::*;

    /// A guest that mounts each of `volumes` to write to it.
    async fn guest(volumes: &[&Path]) -> (Vec<bool>, Filling) {
        let share = |path: &&Path| Share {
            path: path.to_path_buf(),
            readonly: false,
            kind: ShareKind::Files,
        };
        let mount = |number: usize| ShareMount {
            share: u32::try_from(number).unwrap(),
            path: format!("/{number}"),
            readonly: false,
            populate: true,
            fstype: None,
        };
        let mounts = (0..volumes.len()).map(mount).collect();
        let boot = BootConfig { shares: mounts, ..BootConfig::default() };
        let (boot, filling) = settle(boot, volumes.iter().map(share).collect()).await;
        (boot.shares.iter().map(|mount| mount.populate).collect(), filling)
    }

    #[tokio::test]
    async fn one_guest_fills_a_volume_and_others_wait() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir(&a).unwrap();
        fs::create_dir_all(b.join(LOST_FOUND)).unwrap();
        let (populate, first) = guest(&[&a, &b, &a]).await;
        assert_eq!(populate, [true, true, true]);
        let volumes = [b.as_path(), &a];
        let mut second = Box::pin(guest(&volumes));
        let soon = || tokio::time::timeout(3 * PAUSE, std::future::pending::<()>());
        tokio::select! {
            _ = &mut second => panic!("it did not wait"),
            _ = soon() => {}
        }
        // Cut off: whoever comes next begins anew.
        fs::create_dir(a.join(UNFINISHED[0])).unwrap();
        drop(first);
        let (populate, second) = second.await;
        assert_eq!(populate, [true, true]);
        let mut third = Box::pin(guest(&volumes));
        tokio::select! {
            _ = &mut third => panic!("it did not wait"),
            _ = soon() => {}
        }
        fs::rename(a.join(UNFINISHED[0]), a.join("file")).unwrap();
        drop(second);
        let (populate, third) = third.await;
        assert_eq!(populate, [true, false]);
        drop(third);
        fs::write(b.join("file"), "").unwrap();
        assert_eq!(guest(&volumes).await.0, [false, false]);
    }
}
