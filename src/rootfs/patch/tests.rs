//! The layer against a model: a tree in memory that patches are applied to by hand. What the guest sees
//! is worked out from the two EROFS files by the rules of overlayfs.

mod model;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::home::Home;
use crate::image::ImageRecord;
use crate::image::erofs::reader::{Image, Stat};
use crate::image::erofs::{Attr, Builder};
use crate::spec::{GuestPath, ImageSource, Patch};
use model::Model;

/// A time that no image and no source has.
const NOW: i64 = 1_700_000_000;

use Model::{Dir, Link};

/// A state directory, a project with sources, and an image.
struct Bench {
    dir: tempfile::TempDir,
    home: Home,
    record: ImageRecord,
    image: crate::spec::Image,
    root: Root,
}

impl Bench {
    fn new(image: &Model) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        home.create().unwrap();
        let project = dir.path().join("project");
        fs::create_dir(&project).unwrap();
        write_sources(&project, &sources());
        let file = dir.path().join("image.erofs");
        let mut builder = Builder::new(File::create(&file).unwrap()).unwrap();
        image.write("", &mut builder);
        builder.finish().unwrap();
        let size_bytes = fs::metadata(&file).unwrap().len();
        let config = crate::image::ImageConfig::default();
        let digest = format!("sha256:{}", "1".repeat(64));
        let record = ImageRecord { digest, config, file, size_bytes, disk: None };
        let source = ImageSource::Oci("image".to_owned());
        let image = crate::spec::Image { source, platform: None };
        let root = Root::open(&project).unwrap();
        Self { dir, home, record, image, root }
    }

    fn base(&self) -> Base<'_> {
        Base { record: &self.record, image: &self.image }
    }

    fn project(&self) -> std::path::PathBuf {
        self.dir.path().join("project")
    }

    fn source(&self, name: &str) -> String {
        self.project().join(name).display().to_string()
    }

    /// As the command line does it: look at the sources, then make the layer.
    fn layer(&self, patches: &[Patch]) -> Result<std::path::PathBuf, LayerError> {
        let patches = self.with_digests(patches).map_err(LayerError::Patch)?;
        ensure(&self.home, self.base(), &self.project(), &patches, NOW)
    }

    /// The same for a file that need not survive a power cut.
    fn unsynced_layer(&self, patches: &[Patch]) -> Result<std::path::PathBuf, LayerError> {
        let patches = self.with_digests(patches).map_err(LayerError::Patch)?;
        let path = self.dir.path().join("layer");
        let out = File::options().create(true).truncate(true).read(true).write(true).open(&path);
        layer::make(self.base(), &self.project(), &patches, NOW, out.unwrap(), &path)?;
        Ok(path)
    }

    fn with_digests(&self, patches: &[Patch]) -> Result<Vec<Patch>, PatchError> {
        let mut patches = patches.to_vec();
        for (index, patch) in patches.iter_mut().enumerate() {
            match self.root.scan(patch) {
                Ok(Some(scan)) => patch.set_digest(scan.digest),
                Ok(None) => {}
                Err(problem) => return Err(PatchError { index, problem }),
            }
        }
        Ok(patches)
    }

    fn problem(&self, patch: Patch) -> String {
        match self.layer(&[patch]) {
            Ok(_) => "none".to_owned(),
            Err(LayerError::Patch(error)) => {
                assert_eq!(self.leftovers(), [""; 0]);
                let text = error.to_string();
                text.replace(&self.project().display().to_string(), "PROJECT")
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn leftovers(&self) -> Vec<String> {
        let names =
            |dir| fs::read_dir(dir).unwrap().map(|e| e.unwrap().path().display().to_string());
        names(self.home.tmp()).chain(names(self.home.patches())).collect()
    }

    /// What the guest sees: path to kind, mode and contents.
    fn seen(&self, layer: &Path) -> BTreeMap<String, String> {
        let lower = Image::open(File::open(&self.record.file).unwrap()).unwrap();
        let upper = Image::open(File::open(layer).unwrap()).unwrap();
        let text = |path: &[u8]| match path {
            b"" => String::new(),
            path => format!("/{}", String::from_utf8_lossy(path)),
        };
        let (below, above) = (lower.walk().unwrap(), upper.walk().unwrap());
        let mut seen = BTreeMap::new();
        let is_dir = |stat: &Stat| stat.mode >> 12 == 0o4;
        for (path, stat) in &below {
            let covers = |over: &[u8], is_self: bool| match above.get(over) {
                None => false,
                Some(_) if is_self => true,
                Some(stat) if is_dir(stat) => {
                    stat.xattrs.contains_key(b"trusted.overlay.opaque".as_slice())
                        || below.get(over).is_some_and(|lower| !is_dir(lower))
                }
                Some(_) => true,
            };
            let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
            if !covers(path, true) && !ends.into_iter().any(|end| covers(&path[..end], false)) {
                seen.insert(text(path), show(&lower, stat));
            }
        }
        for (path, stat) in &above {
            if (stat.mode >> 12, stat.rdev) != (0o2, 0) {
                seen.insert(text(path), show(&upper, stat));
            }
        }
        seen
    }
}

fn show(image: &Image, stat: &Stat) -> String {
    let contents = || String::from_utf8(image.contents(stat).unwrap()).unwrap();
    let mode = stat.mode & 0o7777;
    match stat.mode >> 12 {
        0o4 => format!("dir {mode:o}"),
        0o10 => format!("file {mode:o} {}", contents()),
        0o12 => format!("link {}", contents()),
        other => format!("type {other:o}"),
    }
}

fn file(mode: u16, text: &str) -> Model {
    Model::File(mode, text.into())
}

fn tree(mode: u16, entries: Vec<(&str, Model)>) -> Model {
    Dir(mode, entries.into_iter().map(|(name, node)| (name.to_owned(), node)).collect())
}

fn sources() -> Model {
    let deep = tree(0o711, vec![("b", file(0o600, "deep")), ("c", Link("../../..".into()))]);
    let one = vec![("a", deep), ("b", Link("/c".into())), ("x", file(0o755, "run"))];
    tree(
        0o755,
        vec![
            ("f", file(0o640, "source")),
            ("one", tree(0o750, one)),
            ("empty", tree(0o700, vec![])),
        ],
    )
}

fn write_sources(at: &Path, model: &Model) {
    let mode = match model {
        Link(target) => return symlink(target, at).unwrap(),
        Model::File(mode, bytes) => {
            fs::write(at, bytes).unwrap();
            *mode
        }
        Dir(mode, entries) => {
            fs::create_dir_all(at).unwrap();
            entries.iter().for_each(|(name, child)| write_sources(&at.join(name), child));
            *mode
        }
    };
    fs::set_permissions(at, fs::Permissions::from_mode(mode.into())).unwrap();
}

fn guest(text: &str) -> GuestPath {
    text.parse().unwrap()
}

fn path() -> impl Strategy<Value = GuestPath> {
    proptest::collection::vec(prop_oneof!["a", "b", "c"], 1..4)
        .prop_map(|names| guest(&format!("/{}", names.join("/"))))
}

fn mode() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![Just(None), Just(Some(0o700)), Just(Some(0o1755)), Just(Some(0o4511))]
}

fn patch() -> impl Strategy<Value = Patch> {
    let target = proptest::sample::select(vec![
        "a",
        "b/c",
        "/a",
        "/a/b",
        "..",
        "../c",
        "../../../../a/b",
        "/",
        "/../..",
        ".",
    ]);
    let flag = any::<bool>;
    prop_oneof![
        (path(), "[xy]{0,3}", mode(), flag()).prop_map(|(path, content, mode, replace)| {
            Patch::Text { path, content, mode, replace }
        }),
        (path(), mode()).prop_map(|(path, mode)| Patch::Mkdir { path, mode }),
        (path(), "[xy]{0,3}").prop_map(|(path, content)| Patch::Append { path, content }),
        (path(), mode(), flag()).prop_map(|(to, mode, replace)| {
            Patch::CopyFile { source: "f".into(), to, mode, replace, digest: None }
        }),
        (path(), prop_oneof!["one", "empty"], flag()).prop_map(|(to, source, replace)| {
            Patch::CopyDir { source, to, replace, digest: None }
        }),
        (path(), target.prop_map(str::to_owned), flag())
            .prop_map(|(at, target, replace)| Patch::Symlink { target, at, replace }),
        path().prop_map(|path| Patch::Remove { path }),
    ]
}

/// An image made by patches that come as they come.
fn image() -> impl Strategy<Value = Model> {
    proptest::collection::vec(patch(), 0..14).prop_map(|patches| {
        let mut model = Model::new();
        for patch in patches {
            let mut next = model.clone();
            if next.apply(&patch, &sources()).is_some() {
                model = next;
            }
        }
        model
    })
}

fn with_sources(bench: &Bench, patches: &[Patch]) -> Vec<Patch> {
    let mut patches = patches.to_vec();
    for patch in &mut patches {
        if let Patch::CopyFile { source, .. } | Patch::CopyDir { source, .. } = patch {
            *source = bench.source(source);
        }
    }
    patches
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn the_guest_sees_what_the_model_says(
        image in image(),
        patches in proptest::collection::vec(patch(), 1..8),
    ) {
        let bench = Bench::new(&image);
        let mut model = image;
        let wrong = patches.iter().position(|patch| {
            let mut next = model.clone();
            let applied = next.apply(patch, &sources()).is_some();
            model = if applied { next } else { model.clone() };
            !applied
        });
        let patches = with_sources(&bench, &patches);
        if let Some(wrong) = wrong {
            match bench.unsynced_layer(&patches) {
                Err(LayerError::Patch(error)) => prop_assert_eq!(error.index, wrong),
                other => prop_assert!(false, "{:?}, and the model {}", other, wrong),
            }
        }
        // Up to there they are fine.
        let layer = bench.unsynced_layer(&patches[..wrong.unwrap_or(patches.len())]).unwrap();
        let mut expected = BTreeMap::new();
        model.flat("", &mut expected);
        prop_assert_eq!(bench.seen(&layer), expected);
    }
}

fn copy_file(source: String) -> Patch {
    Patch::CopyFile { source, to: guest("/copied"), mode: None, replace: false, digest: None }
}

fn copy_dir(source: String) -> Patch {
    Patch::CopyDir { source, to: guest("/copied"), replace: false, digest: None }
}

#[test]
fn equal_patches_are_one_layer_and_a_link_holds_it() {
    let bench = Bench::new(&Model::new());
    let patches = [copy_file(bench.source("f")), copy_dir(bench.source("one"))];
    let patches = bench.with_digests(&patches[..1]).unwrap();
    let (one, two) = (bench.dir.path().join("1"), bench.dir.path().join("2"));
    for name in [&one, &two] {
        link(&bench.home, bench.base(), &bench.project(), &patches, NOW, name).unwrap();
    }
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::metadata(&one).unwrap();
    assert_eq!((meta.nlink(), meta.ino()), (3, fs::metadata(&two).unwrap().ino()));
    assert_eq!(meta.mode() & 0o777, 0o600);
    let mut other = bench.record.clone();
    other.digest = format!("sha256:{}", "2".repeat(64));
    ensure(&bench.home, Base { record: &other, ..bench.base() }, &bench.project(), &patches, NOW)
        .unwrap();
    assert_eq!(bench.leftovers().len(), 2);
    // The same input is the same file, made anew.
    let before = fs::read(&one).unwrap();
    for path in bench.leftovers() {
        fs::remove_file(path).unwrap();
    }
    fs::write(bench.home.tmp().join("patches-x.tmp"), "of another").unwrap();
    let again = bench.layer(&patches).unwrap();
    assert_eq!(fs::read(again).unwrap(), before);
}

#[test]
fn who_needs_a_layer_at_the_same_time_waits_for_it() {
    let bench = Bench::new(&Model::new());
    let patches = bench.with_digests(&[copy_dir(bench.source("one"))]).unwrap();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (bench, patches) = (&bench, &patches);
            scope.spawn(move || {
                let to = bench.dir.path().join(number.to_string());
                link(&bench.home, bench.base(), &bench.project(), patches, NOW, &to).unwrap();
                // As a prune does it.
                for layer in fs::read_dir(bench.home.patches()).unwrap() {
                    let _ = fs::remove_file(layer.unwrap().path());
                }
            });
        }
    });
    assert_eq!(bench.leftovers(), [""; 0]);
    for number in 0..8 {
        let layer = bench.dir.path().join(number.to_string());
        assert_eq!(bench.seen(&layer)["/copied/x"], "file 755 run");
    }
}

#[test]
fn sources_stay_in_the_project() {
    let bench = Bench::new(&Model::new());
    let project = bench.project();
    fs::write(bench.dir.path().join("secret"), "s").unwrap();
    symlink("../secret", project.join("out")).unwrap();
    symlink("/etc", project.join("etc")).unwrap();
    symlink("f", project.join("in")).unwrap();
    symlink("loop", project.join("loop")).unwrap();
    let secret = bench.dir.path().join("secret").display().to_string();
    assert!(bench.problem(copy_file(secret)).contains("outside of the project"));
    let check = |patch, expected: &str| assert_eq!(bench.problem(patch), expected);
    for name in ["out", "etc/passwd", "../secret"] {
        let text = format!("patch 1: PROJECT/{name} is outside of the project directory");
        check(copy_file(bench.source(name)), &text);
    }
    check(
        copy_dir(bench.source("etc")),
        "patch 1: PROJECT/etc is outside of the project directory",
    );
    check(copy_file(bench.source("gone/f")), "patch 1: PROJECT/gone/f does not exist");
    check(copy_file(bench.source("one")), "patch 1: PROJECT/one is not a regular file");
    check(copy_dir(bench.source("f")), "patch 1: PROJECT/f is not a directory");
    assert!(bench.problem(copy_file(bench.source("loop"))).contains("cannot be read"));
    check(copy_file(bench.source("in")), "none");
}

#[test]
fn special_and_huge_files_are_refused_without_waiting() {
    let bench = Bench::new(&Model::new());
    let project = bench.project();
    let pipe = project.join("one/pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let problem = bench.problem(copy_file(bench.source("one/pipe")));
    assert_eq!(problem, "patch 1: PROJECT/one/pipe is not a regular file");
    let special = "patch 1: PROJECT/one/pipe is a socket, a pipe or a device";
    assert_eq!(bench.problem(copy_dir(bench.source("one"))), special);
    fs::remove_file(&pipe).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(&pipe).unwrap();
    assert_eq!(bench.problem(copy_dir(bench.source("one"))), special);
    let huge = File::create(project.join("huge")).unwrap();
    huge.set_len(MAX_FILE_BYTES + 1).unwrap();
    assert!(
        bench.problem(copy_file(bench.source("huge"))).contains("has more than 1073741824 bytes")
    );
    let mut deep = project.join("deep");
    for _ in 0..=MAX_DEPTH {
        deep.push("d");
    }
    fs::create_dir_all(deep).unwrap();
    assert!(bench.problem(copy_dir(bench.source("deep"))).contains("has more than 200 names"));
}

#[test]
fn what_changes_between_the_looks_is_refused() {
    let bench = Bench::new(&Model::new());
    let patches = [copy_file(bench.source("f")), copy_dir(bench.source("one"))];
    let make = |patch: &Patch, change: &dyn Fn()| {
        let patches = bench.with_digests(std::slice::from_ref(patch)).unwrap();
        change();
        let made = ensure(&bench.home, bench.base(), &bench.project(), &patches, NOW);
        made.map_err(|error| error.to_string())
    };
    let f = bench.project().join("f");
    let changed = |source: &str| {
        Err(format!("patch 1: {} has changed since the plan was made", bench.source(source)))
    };
    assert_eq!(make(&patches[0], &|| fs::write(&f, "sourcf").unwrap()), changed("f"));
    let x = bench.project().join("one/x");
    let private = fs::Permissions::from_mode(0o700);
    let chmod = || fs::set_permissions(&x, private.clone()).unwrap();
    assert_eq!(make(&patches[1], &chmod), changed("one"));
    let touch = || File::open(&x).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert!(make(&patches[1], &touch).is_ok(), "times are no change");
    let unplanned = ensure(&bench.home, bench.base(), &bench.project(), &patches, NOW);
    assert!(matches!(
        unplanned,
        Err(LayerError::Patch(PatchError { index: 0, problem: Problem::NoDigest }))
    ));
}

#[test]
fn a_file_that_shrinks_while_it_is_copied_is_refused() {
    let bench = Bench::new(&Model::new());
    let scan = bench.root.scan(&copy_file(bench.source("f"))).unwrap().unwrap();
    let image = lower::Lower::open(bench.base()).unwrap();
    let scans = [Some(scan)];
    let mut layer = tree::Tree::new(&image, NOW).unwrap();
    apply::apply(&mut layer, 0, &copy_file(bench.source("f")), scans[0].as_ref(), NOW).unwrap();
    let contents = write::Contents { image: &image, root: &bench.root, scans: &scans };
    for text in ["sour", "", "sourcf"] {
        fs::write(bench.project().join("f"), text).unwrap();
        let out = tempfile::tempfile().unwrap();
        let written = write::write(&layer.root, &contents, out);
        assert!(matches!(
            written,
            Err(write::WriteError::Layer(LayerError::Patch(PatchError {
                index: 0,
                problem: Problem::Changed(_)
            })))
        ));
    }
    fs::write(bench.project().join("f"), "source").unwrap();
    let written = write::write(&layer.root, &contents, tempfile::tempfile().unwrap());
    assert!(written.is_ok());
}

#[test]
fn what_does_not_fit_the_image_is_said() {
    let image = tree(
        0o755,
        vec![
            ("etc", tree(0o755, vec![("motd", file(0o644, "m"))])),
            ("round", Link("round".into())),
            ("up", Link("../../../etc".into())),
        ],
    );
    let bench = Bench::new(&image);
    let text = |path: &str| Patch::Text {
        path: guest(path),
        content: "t".into(),
        mode: None,
        replace: false,
    };
    let append = |path: &str| Patch::Append { path: guest(path), content: "t".into() };
    let link =
        |target: &str| Patch::Symlink { target: target.into(), at: guest("/l"), replace: true };
    let check = |patch, expected: &str| assert_eq!(bench.problem(patch), expected);
    check(text("/etc/motd"), "patch 1: /etc/motd exists");
    check(text("/up/motd"), "patch 1: /etc/motd exists");
    check(text("/etc"), "patch 1: /etc is a directory");
    check(text("/etc/motd/x"), "patch 1: /etc/motd is not a directory in the guest");
    check(text("/round/x"), "patch 1: /round: too many symbolic links");
    check(append("/etc/issue"), "patch 1: /etc/issue does not exist in the guest");
    check(append("/etc"), "patch 1: /etc is a directory");
    check(
        Patch::Mkdir { path: guest("/etc/motd"), mode: None },
        "patch 1: /etc/motd is not a directory in the guest",
    );
    check(link("a\0b"), "patch 1: the target of the link must have 1 to 4095 bytes and no NUL");
    check(Patch::Remove { path: guest("/") }, "patch 1: / is a directory");
    let long = format!("/{}", "x".repeat(256));
    check(text(&long), &format!("patch 1: {long}: the path or a name in it is too long"));
    check(Patch::Remove { path: guest("/nothing/there") }, "none");
    check(append("/etc/hosts"), "none");
}

#[test]
fn copied_up_directories_and_files_keep_what_they_carry() {
    let bench = Bench::new(&Model::new());
    let mut builder = Builder::new(File::create(&bench.record.file).unwrap()).unwrap();
    let dir = Attr { uid: 5, gid: 6, mtime: 77, ..Attr::mode(0o2750) };
    builder.dir("d", dir.xattr(*b"user.k", *b"v")).unwrap();
    let owned = Attr { uid: 7, gid: 8, ..Attr::mode(0o600) };
    let big = b"0123456789abcdef".repeat(70_000);
    builder.bytes("d/big", owned.clone(), &big).unwrap();
    builder.bytes("d/tail", owned, &big[..5000]).unwrap();
    builder.finish().unwrap();
    let append = |path: &str| Patch::Append { path: guest(path), content: "more".into() };
    let layer = bench.layer(&[append("/d/big"), append("/d/tail"), append("/d/big")]).unwrap();
    let layer = Image::open(File::open(layer).unwrap()).unwrap();
    let found = layer.walk().unwrap();
    let d = &found[b"d".as_slice()];
    assert_eq!((d.mode & 0o7777, d.uid, d.gid, d.mtime), (0o2750, 5, 6, 77));
    assert_eq!(d.xattrs.keys().collect::<Vec<_>>(), [b"user.k"]);
    let file = &found[b"d/big".as_slice()];
    assert_eq!((file.mode & 0o7777, file.uid, file.gid, file.mtime), (0o600, 7, 8, NOW));
    assert_eq!(layer.contents(file).unwrap(), [&big, b"moremore".as_slice()].concat());
    let tail = layer.contents(&found[b"d/tail".as_slice()]).unwrap();
    assert_eq!(tail, [&big[..5000], b"more"].concat());
}
