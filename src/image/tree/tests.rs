use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::time::UNIX_EPOCH;

use super::*;
use crate::home::Home;
use crate::image::erofs::reader::{self, Stat};
use crate::image::{MemoryRows, RegistryAccess};
use crate::spec::ImageSource;

struct Place {
    dir: tempfile::TempDir,
    cache: ImageCache,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("h"));
        home.create().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let cache = ImageCache::new(home, Arc::new(MemoryRows::default()));
        Self { dir, cache }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn image(&self) -> Image {
        let source = ImageSource::Dir(self.root().display().to_string());
        Image { source, platform: None }
    }

    async fn pull(&self) -> Result<ImageRecord, String> {
        let access = RegistryAccess::anonymous();
        let pulled = self.cache.pull(&self.image(), &access, Arc::new(NoProgress)).await;
        pulled.map_err(|error| error.to_string())
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.root().join(path), text).unwrap();
    }
}

fn walk_image(record: &ImageRecord) -> (reader::Image, BTreeMap<Vec<u8>, Stat>) {
    let image = reader::Image::open(File::open(&record.file).unwrap()).unwrap();
    let entries = image.walk().unwrap();
    (image, entries)
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

#[tokio::test]
async fn everything_is_as_it_is_in_the_directory() {
    let place = Place::new();
    let root = place.root();
    let is_root = rustix::process::geteuid().is_root();
    fs::set_permissions(&root, Permissions::from_mode(0o711)).unwrap();
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::set_permissions(root.join("a/b"), Permissions::from_mode(0o3770)).unwrap();
    place.write("a/one", "one");
    fs::hard_link(root.join("a/one"), root.join("two")).unwrap();
    fs::set_permissions(root.join("two"), Permissions::from_mode(0o4751)).unwrap();
    set_xattr(&root.join("two"), "user.note", b"kept");
    set_xattr(&root.join("a"), "user.dir", b"");
    place.write("secret", "outside");
    symlink("../../../../../etc/passwd", root.join("a/up")).unwrap();
    symlink("/etc", root.join("etc")).unwrap();
    let _socket = UnixListener::bind(root.join("socket")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), fifo, mode, 0).unwrap();
    if is_root {
        chown(root.join("secret"), Some(1234), Some(70_000)).unwrap();
        set_xattr(&root.join("secret"), "trusted.overlay.opaque", b"y");
        let null = rustix::fs::makedev(1, 3);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, root.join("null"), kind, mode, null).unwrap();
    }
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(300 << 20).unwrap();
    sparse.set_modified(UNIX_EPOCH).unwrap();

    let before = state(&root);
    let record = place.pull().await.unwrap();
    assert_eq!(state(&root), before, "the directory is not as it was");

    let (image, entries) = walk_image(&record);
    let at = |path: &str| &entries[path.as_bytes()];
    for (path, meta) in before {
        let stat = &entries[path.as_os_str().as_encoded_bytes()];
        assert_eq!(
            (u32::from(stat.mode), stat.uid, stat.gid),
            (meta.0, meta.1, meta.2),
            "{path:?}"
        );
        assert_eq!(stat.mtime, meta.3, "{path:?}");
    }
    assert_eq!(at("a/one").nid, at("two").nid);
    assert_eq!(at("two").xattrs[b"user.note".as_slice()], b"kept");
    assert_eq!(at("a").xattrs[b"user.dir".as_slice()], b"");
    assert!(at("secret").xattrs.is_empty());
    assert_eq!(image.contents(at("two")).unwrap(), b"one");
    assert_eq!(image.contents(at("a/up")).unwrap(), b"../../../../../etc/passwd");
    assert_eq!(image.contents(at("etc")).unwrap(), b"/etc");
    assert_eq!(at("sparse").size, 300 << 20);
    assert!(record.size_bytes < 1 << 20, "{}", record.size_bytes);
    if is_root {
        assert_eq!(at("null").rdev, 0x103);
    }
    assert!(!entries.contains_key(b"etc/passwd".as_slice()));
}

type State = BTreeMap<PathBuf, (u32, u32, u32, i64, (i64, i64), (i64, i64))>;

/// Everything below a directory that reading it could change; sockets and links too.
fn state(root: &Path) -> State {
    let mut found = State::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(root.join(&path)).unwrap();
        if meta.is_dir() {
            for entry in fs::read_dir(root.join(&path)).unwrap() {
                left.push(path.join(entry.unwrap().file_name()));
            }
        }
        // The listing above is a read too, and a link cannot be read without a trace.
        let accessed = if meta.is_file() { (meta.atime(), meta.atime_nsec()) } else { (0, 0) };
        let times = (accessed, (meta.ctime(), meta.ctime_nsec()));
        found.insert(path, (meta.mode(), meta.uid(), meta.gid(), meta.mtime(), times.0, times.1));
    }
    found
}

#[tokio::test]
async fn what_a_guest_would_find_makes_the_digest() {
    let place = Place::new();
    let path = place.root().join("file");
    place.write("file", "text");
    let first = place.pull().await.unwrap();
    let cached = || place.cache.cached(&place.image()).unwrap();
    assert_eq!(cached().unwrap(), first);

    // Another time alone is not another image.
    File::open(&path).unwrap().set_modified(UNIX_EPOCH).unwrap();
    assert_eq!(cached(), None);
    assert_eq!(place.pull().await.unwrap().digest, first.digest);
    assert!(cached().is_some());

    let mut seen = vec![first.digest];
    let changes: [&dyn Fn(); 6] = [
        &|| place.write("file", "TEXT"),
        &|| fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap(),
        &|| set_xattr(&path, "user.a", b"b"),
        &|| fs::hard_link(&path, place.root().join("other")).unwrap(),
        &|| symlink("file", place.root().join("link")).unwrap(),
        &|| fs::rename(place.root().join("link"), place.root().join("name")).unwrap(),
    ];
    for (index, change) in changes.iter().enumerate() {
        change();
        let told = place.cache.resolve(&place.image(), &RegistryAccess::anonymous()).await.unwrap();
        assert!(!seen.contains(&told), "change {index} is not seen");
        assert_eq!(place.pull().await.unwrap().digest, told);
        seen.push(told);
    }
    // The same files elsewhere are the same image.
    let elsewhere = Place::new();
    for name in ["file", "other", "name"] {
        let to = elsewhere.root().join(name);
        match name {
            "file" => {
                fs::write(&to, "TEXT").unwrap();
                fs::set_permissions(&to, Permissions::from_mode(0o600)).unwrap();
                set_xattr(&to, "user.a", b"b");
            }
            "other" => fs::hard_link(elsewhere.root().join("file"), to).unwrap(),
            _ => symlink("file", to).unwrap(),
        }
    }
    fs::set_permissions(elsewhere.root(), fs::metadata(place.root()).unwrap().permissions())
        .unwrap();
    assert_eq!(elsewhere.pull().await.unwrap().digest, *seen.last().unwrap());
}

/// Calls something as soon as a file has been read.
struct Meanwhile<F>(F);

impl<F: Fn() + Send + Sync> Progress for Meanwhile<F> {
    fn event(&self, event: ProgressEvent<'_>) {
        if matches!(event, ProgressEvent::Reading { .. }) {
            (self.0)();
        }
    }
}

#[tokio::test]
async fn nothing_is_made_of_a_directory_that_changes_meanwhile() {
    let changes: [fn(&Path); 5] = [
        |root| fs::write(root.join("a"), "behind").unwrap(),
        |root| fs::write(root.join("z"), "ahead").unwrap(),
        |root| fs::remove_file(root.join("z")).unwrap(),
        |root| fs::write(root.join("new"), "").unwrap(),
        |root| {
            fs::remove_file(root.join("z")).unwrap();
            symlink("/etc/passwd", root.join("z")).unwrap();
        },
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let place = Place::new();
        let root = place.root();
        place.write("a", "a");
        fs::write(root.join("m"), vec![1; 5 << 20]).unwrap();
        place.write("z", "z");
        let progress = Arc::new(Meanwhile(move || change(&root)));
        let pulled = place.cache.pull(&place.image(), &RegistryAccess::anonymous(), progress).await;
        let error = pulled.unwrap_err().to_string();
        assert!(error.ends_with("it changed while it was read"), "change {index}: {error}");
        for dir in [place.cache.home.erofs(), place.cache.home.tmp(), place.cache.home.blobs()] {
            assert_eq!(fs::read_dir(dir).unwrap().count(), 0, "change {index}");
        }
    }
}

#[test]
fn other_file_systems_are_not_entered() {
    // Every Linux has terminals in a file system of their own.
    let error = Fingerprint::of(Path::new("/dev"), &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("another file system is mounted there"), "{error}");
}

#[test]
fn there_is_an_end_to_depth_and_number() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
    let with = |depth, entries| {
        let limits = Limits { depth, entries, ..Limits::default() };
        Fingerprint::of(dir.path(), &limits).map_err(|error| error.to_string())
    };
    assert!(with(3, 4).is_ok());
    assert!(with(2, 4).unwrap_err().ends_with("too many directories in one another"));
    assert!(with(3, 3).unwrap_err().ends_with("the image would have too many files"));
}

#[test]
fn what_is_none_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let text = |name: &str| dir.path().join(name).display().to_string();
    assert_eq!(root(&text("none")), None);
    fs::write(dir.path().join("file"), "").unwrap();
    assert_eq!(root(&text("file")), None);
    fs::create_dir(dir.path().join("a b#c")).unwrap();
    assert!(root(&text("a b#c")).is_some());
    assert_eq!(root(&text("a b#c#tag")), None);
    let key = named(
        Path::new("/a b"),
        &Fingerprint::of(dir.path(), &Limits::default()).unwrap(),
        String::new(),
    );
    assert_eq!(parse(&key.reference), Some(("/a b", false)));
}
