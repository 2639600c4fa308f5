//! What dead processes left behind.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::download::remove;
use super::hold::{Free, lock_free};
use super::lock::FileLock;
use super::pull::image_lock;
use super::removal::crash_point;
use super::rows::ImageRows;
use super::wire;
use crate::home::Home;
use crate::store::StoreError;

/// How long blobs of an interrupted pull are kept to be continued.
const KEEP_BLOBS: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes images half made, blobs that nobody came back for, and locks that nobody holds. What
/// another process works on is locked and stays. Best effort: what cannot be removed now can be
/// removed later.
pub(super) fn clean(home: &Home, rows: &dyn ImageRows) {
    let blobs = home.blobs();
    for_each_name(&home.tmp(), |name, path| {
        if is_gone_blob(name) {
            remove(path);
        } else if let Some(hex) = half_made(name)
            && let Ok(Some(_lock)) = FileLock::try_acquire(&image_lock(&blobs, hex))
        {
            remove(path);
        } else if is_half_made_layer(name) {
            let _ = remove_half_made_layer(path);
        }
    });
    for_each_name(&home.patches(), |_, path| {
        if is_unused_layer(path) && is_old(path) {
            remove(path);
        }
    });
    clean_locks(home);
    let mut old = BTreeSet::new();
    for_each_name(&blobs, |name, path| {
        if !name.ends_with(".lock") && is_old(path) {
            old.insert(name.to_owned());
        }
    });
    if !old.is_empty() {
        let _ = sweep(home, rows, &old, false);
    }
}

fn is_old(path: &Path) -> bool {
    let modified = fs::metadata(path).and_then(|meta| meta.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > KEEP_BLOBS))
}

/// Whether no sandbox holds a layer of patches by another name. Who takes it into use meanwhile makes
/// it again, or has its own name for it already.
pub(super) fn is_unused_layer(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.nlink() == 1)
}

/// Whether a file of that name in `tmp/` is a layer of patches that is being made, or was.
pub(super) fn is_half_made_layer(name: &str) -> bool {
    name.starts_with("patches-") && name.ends_with(".tmp")
}

/// Removes a layer half made, unless somebody makes it; says whether it is gone.
pub(super) fn remove_half_made_layer(path: &Path) -> std::io::Result<bool> {
    match lock_free(path)? {
        Free::Locked(_file) => fs::remove_file(path).map(|()| true),
        Free::Missing => Ok(true),
        Free::Held => Ok(false),
    }
}

/// Removes the locks of processes that were killed.
pub(super) fn clean_locks(home: &Home) {
    for_each_name(&home.blobs(), |name, path| {
        if name.ends_with(".lock") {
            // Dropped, it removes the file.
            let _ = FileLock::try_acquire(path);
        }
    });
}

/// The digest of an image whose half-made file has that name in `tmp/`.
pub(super) fn half_made(name: &str) -> Option<&str> {
    name.strip_prefix("image-")?.strip_suffix(".tmp")
}

/// Whether a file of that name in `tmp/` is a blob on its way out.
pub(super) fn is_gone_blob(name: &str) -> bool {
    name.starts_with("blob-") && name.ends_with(".gone")
}

/// Removes the files `names` of the blobs, but for those that a pull uses and, unless `kept_too`,
/// those that an image has; what that freed, in bytes on the disk.
///
/// They leave their names while nobody can store an image, so that no image gets a row whose layers
/// are gone; the files themselves take longer and go afterwards.
pub(super) fn sweep(
    home: &Home,
    rows: &dyn ImageRows,
    names: &BTreeSet<String>,
    kept_too: bool,
) -> Result<u64, StoreError> {
    let mut gone: Vec<(PathBuf, u64)> = Vec::new();
    rows.alone_with_manifests(&mut |manifests| {
        let kept = if kept_too { BTreeSet::new() } else { layers_of(manifests) };
        for name in names.iter().filter(|name| !kept.contains(*name)) {
            gone.extend(take_away(home, name));
        }
    })?;
    if !gone.is_empty() {
        crash_point("layers-renamed");
    }
    Ok(gone
        .into_iter()
        .filter(|(path, _)| fs::remove_file(path).is_ok())
        .map(|(_, size)| size)
        .sum())
}

/// The names of the blobs that are layers of images.
pub(super) fn layers_of(manifests: &[Vec<u8>]) -> BTreeSet<String> {
    let layers = manifests.iter().flat_map(|manifest| wire::layers(manifest));
    layers.map(|layer| layer.digest.hex().to_owned()).collect()
}

/// Takes the name of a blob that nobody works with; where it is then, and its size on the disk.
fn take_away(home: &Home, name: &str) -> Option<(PathBuf, u64)> {
    let path = home.blobs().join(name);
    let _lock = FileLock::try_acquire(&path.with_extension("lock")).ok()??;
    let Ok(Free::Locked(file)) = lock_free(&path) else { return None };
    let size = file.metadata().map_or(0, |meta| meta.blocks() * 512);
    let gone = home.tmp().join(format!("blob-{name}.gone"));
    fs::rename(&path, &gone).ok()?;
    Some((gone, size))
}

/// Calls `take` with the names in a directory and their paths.
pub(super) fn for_each_name(dir: &Path, mut take: impl FnMut(&str, &Path)) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if let Some(name) = entry.file_name().to_str() {
            take(name, &entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::SystemTime;

    use super::*;
    use crate::image::MemoryRows;

    #[test]
    fn only_what_nobody_holds() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        home.create().unwrap();
        let touch = |path: std::path::PathBuf, age: Duration| {
            File::create(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
        };
        let old = KEEP_BLOBS + Duration::from_secs(60);
        touch(home.tmp().join("image-aa.tmp"), Duration::ZERO);
        touch(home.tmp().join("image-bb.tmp"), Duration::ZERO);
        touch(home.tmp().join("other"), old);
        touch(home.tmp().join("patches-gg.tmp"), Duration::ZERO);
        touch(home.tmp().join("patches-hh.tmp"), old);
        let making = File::open(home.tmp().join("patches-hh.tmp")).unwrap();
        making.lock().unwrap();
        for (name, age) in [("old", old), ("new", Duration::ZERO), ("used", old)] {
            touch(home.patches().join(name), age);
        }
        fs::hard_link(home.patches().join("used"), dir.path().join("used")).unwrap();
        touch(home.blobs().join("cc.part"), old);
        touch(home.blobs().join("dd.part"), Duration::ZERO);
        touch(home.blobs().join("ee.part"), old);
        touch(home.blobs().join("ff.lock"), Duration::ZERO);
        let _image = FileLock::try_acquire(&image_lock(&home.blobs(), "bb")).unwrap().unwrap();
        let _blob = FileLock::try_acquire(&home.blobs().join("ee.lock")).unwrap().unwrap();
        let rows = MemoryRows::default();
        clean(&home, &rows);
        let mut left = Vec::new();
        for dir in [home.tmp(), home.blobs(), home.patches()] {
            for_each_name(&dir, |name, _| left.push(name.to_owned()));
        }
        left.sort_unstable();
        assert_eq!(
            left,
            [
                "dd.part",
                "ee.lock",
                "ee.part",
                "image-bb.lock",
                "image-bb.tmp",
                "new",
                "other",
                "patches-hh.tmp",
                "used"
            ]
        );
    }
}
