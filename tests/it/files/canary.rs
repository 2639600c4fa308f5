//! What must never change: everything around a share.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A directory with a share in it, and beside that what a guest would like to have.
pub(super) struct Canary {
    dir: tempfile::TempDir,
    before: BTreeMap<PathBuf, Seen>,
}

/// What is known of a file: its mode, its owner, its times, and what it holds.
type Seen = (u32, (u32, u32), (i64, i64), (i64, i64), Vec<u8>);

impl Canary {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("canary/deep")).unwrap();
        fs::write(at("canary/secret"), "secret").unwrap();
        fs::write(at("canary/deep/file"), "deep").unwrap();
        fs::set_permissions(at("canary/secret"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink("secret", at("canary/link")).unwrap();
        fs::write(at("beside"), "beside").unwrap();
        fs::create_dir_all(at("share/sub/below")).unwrap();
        fs::write(at("share/file"), "file").unwrap();
        fs::write(at("share/sub/file"), "sub file").unwrap();
        symlink("../canary", at("share/up")).unwrap();
        symlink(at("canary"), at("share/absolute")).unwrap();
        symlink("../canary/secret", at("share/secret")).unwrap();
        symlink("/proc/self/root", at("share/root")).unwrap();
        let mut canary = Self { before: BTreeMap::new(), dir };
        canary.before = canary.look();
        canary
    }

    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub(super) fn share(&self) -> PathBuf {
        self.path("share")
    }

    fn look(&self) -> BTreeMap<PathBuf, Seen> {
        let mut seen = BTreeMap::new();
        for path in ["canary", "beside"] {
            look(&self.path(path), &mut seen);
        }
        let names = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.count(), 3, "something new beside the share");
        seen
    }

    /// Byte for byte as it was.
    pub(super) fn lives(&self) {
        assert_eq!(self.look(), self.before);
    }
}

fn look(path: &Path, seen: &mut BTreeMap<PathBuf, Seen>) {
    let meta = fs::symlink_metadata(path).unwrap();
    let content = if meta.is_symlink() {
        fs::read_link(path).unwrap().into_os_string().into_encoded_bytes()
    } else if meta.is_file() {
        fs::read(path).unwrap()
    } else {
        Vec::new()
    };
    let times = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
    let owner = (meta.uid(), meta.gid());
    seen.insert(path.to_owned(), (meta.mode(), owner, times.0, times.1, content));
    if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            look(&entry.unwrap().path(), seen);
        }
    }
}
