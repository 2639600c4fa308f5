//! What dead processes left behind.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::download::remove;
use super::lock::FileLock;
use super::pull::image_lock;
use crate::home::Home;

/// How long blobs of an interrupted pull are kept to be continued.
const KEEP_BLOBS: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes images half made, blobs that nobody came back for, and locks that nobody holds. What
/// another process works on is locked and stays. Best effort: what cannot be removed now can be
/// removed later.
pub(super) fn clean(home: &Home) {
    let blobs = home.blobs();
    for_each_name(&home.tmp(), |name, path| {
        if let Some(hex) = name.strip_prefix("image-").and_then(|rest| rest.strip_suffix(".tmp"))
            && let Ok(Some(_lock)) = FileLock::try_acquire(&image_lock(&blobs, hex))
        {
            remove(path);
        }
    });
    for_each_name(&blobs, |name, path| {
        if name.ends_with(".lock") {
            // Dropped, it removes the file.
            let _ = FileLock::try_acquire(path);
            return;
        }
        let is_old = fs::metadata(path)
            .and_then(|meta| meta.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > KEEP_BLOBS));
        if is_old && let Ok(Some(_lock)) = FileLock::try_acquire(&path.with_extension("lock")) {
            remove(path);
        }
    });
}

fn for_each_name(dir: &Path, mut take: impl FnMut(&str, &Path)) {
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
        touch(home.blobs().join("cc.part"), old);
        touch(home.blobs().join("dd.part"), Duration::ZERO);
        touch(home.blobs().join("ee.part"), old);
        touch(home.blobs().join("ff.lock"), Duration::ZERO);
        let _image = FileLock::try_acquire(&image_lock(&home.blobs(), "bb")).unwrap().unwrap();
        let _blob = FileLock::try_acquire(&home.blobs().join("ee.lock")).unwrap().unwrap();
        clean(&home);
        let mut left = Vec::new();
        for dir in [home.tmp(), home.blobs()] {
            for_each_name(&dir, |name, _| left.push(name.to_owned()));
        }
        left.sort_unstable();
        assert_eq!(
            left,
            ["dd.part", "ee.lock", "ee.part", "image-bb.lock", "image-bb.tmp", "other"]
        );
    }
}
