//! Files of a sandbox: the library, and `msb cp`, with the real agent as a process here. Its root is
//! this machine's, so that "in the sandbox" is a directory of the test's own.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use msb::client::{CopyOptions, FsEntryKind, ReadOptions, SandboxFs, WriteOptions};

use super::*;

/// A running sandbox, and a directory for each side.
pub(super) struct Files {
    pub(super) up: Up,
    pub(super) fs: SandboxFs,
    bench: Bench,
}

pub(super) async fn files() -> Files {
    files_of(None).await
}

/// With `agent` in the place of the agent.
pub(super) async fn files_of(agent: Option<&str>) -> Files {
    let bench = bench();
    let mut config = bench.config("web", idle());
    config.local_agent = agent.map(|helper| bench.hostile(helper));
    let up = bench.launch(config).await;
    up.running().await;
    let fs = SandboxFs::new(&bench.home, &up.config.id);
    fs::create_dir(bench._dir.path().join("guest")).unwrap();
    fs::create_dir(bench._dir.path().join("host")).unwrap();
    Files { up, fs, bench }
}

impl Files {
    fn guest(&self, path: &str) -> PathBuf {
        self.bench._dir.path().join("guest").join(path)
    }

    pub(super) fn host(&self, path: &str) -> PathBuf {
        self.bench._dir.path().join("host").join(path)
    }

    /// `msb cp` from the directory of the host's side; `web:` stands for that of the sandbox's.
    fn cp(&self, arguments: &[&str]) -> Command {
        let guest = format!("web:{}/", self.guest("").display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_msb"));
        command
            .env_clear()
            .env("MSB_HOME", self.bench.home.root())
            .current_dir(self.host(""))
            .args(["-p", "shop", "cp"])
            .args(arguments.iter().map(|argument| argument.replacen("web:", &guest, 1)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Standard error of a copy that must succeed.
    fn copied(&self, arguments: &[&str]) -> String {
        let output = self.cp(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        text(&output)
    }

    fn refused(&self, arguments: &[&str], code: i32) -> String {
        let output = self.cp(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
        text(&output)
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What is below `root`, by path: mode, time and number of names, and contents or target.
pub(super) fn listing(root: &Path) -> BTreeMap<String, (u32, i64, u64, String)> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let contents = if metadata.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else if metadata.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else {
            let contents = fs::read(&path).unwrap();
            let hasher = BuildHasherDefault::<DefaultHasher>::default();
            format!("{} bytes, {}", contents.len(), hasher.hash_one(&contents))
        };
        let links = if metadata.is_dir() { 0 } else { metadata.nlink() };
        let name = path.strip_prefix(root).unwrap().display().to_string();
        found.insert(name, (metadata.mode(), metadata.mtime(), links, contents));
    }
    found
}

fn tree(dir: &Path) {
    fs::create_dir_all(dir.join("a/b/c")).unwrap();
    fs::create_dir(dir.join("empty dir")).unwrap();
    fs::write(dir.join("a/file"), "hello").unwrap();
    fs::write(dir.join("a/b/\u{1b}[31mred"), "").unwrap();
    let noise: Vec<u8> = (0..1_000_003_u32).map(|n| n.wrapping_mul(n).to_le_bytes()[1]).collect();
    fs::write(dir.join("a/b/c/noise"), noise).unwrap();
    fs::hard_link(dir.join("a/file"), dir.join("a/b/again")).unwrap();
    symlink("/no/where", dir.join("a/absolute")).unwrap();
    symlink("./b//", dir.join("a/to-dir")).unwrap();
    for (path, mode) in [("a/file", 0o600), ("a/b", 0o711), ("empty dir", 0o500)] {
        fs::set_permissions(dir.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let old = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for path in ["a/file", "a/b", "empty dir", "a"] {
        fs::File::open(dir.join(path)).unwrap().set_modified(old).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_written_read_listed_and_removed() {
    let files = files().await;
    let (fs, path) = (&files.fs, files.guest("new/dir/file"));
    fs.write(&path, "hello").await.unwrap();
    assert_eq!(fs.read_string(&path).await.unwrap(), "hello");
    let found = fs.stat(&path).await.unwrap();
    assert_eq!((found.kind, found.size, found.mode), (FsEntryKind::File, 5, 0o644));
    assert!(!found.readonly && found.modified.unwrap() > 1_600_000_000_000, "{found:?}");

    // What is replaced keeps its mode, and is replaced at once.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let mut writer = fs.write_stream(&path, WriteOptions::default()).await.unwrap();
    writer.write(&[b'x'; 1_000_000]).await.unwrap();
    assert_eq!(fs.read(&path).await.unwrap(), b"hello");
    writer.finish().await.unwrap();
    assert_eq!(fs.read(&path).await.unwrap(), [b'x'; 1_000_000]);
    assert_eq!(fs.stat(&path).await.unwrap().mode, 0o640);

    let in_place = WriteOptions { offset: Some(999_999), sync: true, mode: None };
    let mut writer = fs.write_stream(&path, in_place).await.unwrap();
    writer.write(b"ab").await.unwrap();
    writer.finish().await.unwrap();
    let part = ReadOptions { offset: 999_998, length: Some(2) };
    let mut reader = fs.read_stream(&path, part).await.unwrap();
    assert_eq!(reader.next().await.unwrap(), Some(&b"xa"[..]));
    assert_eq!(reader.next().await.unwrap(), None);

    fs.copy(&path, files.guest("new/copy")).await.unwrap();
    assert_eq!(fs.stat(files.guest("new/copy")).await.unwrap().size, 1_000_001);
    fs.rename(files.guest("new/copy"), files.guest("other/name")).await.unwrap();
    symlink("name", files.guest("other/link")).unwrap();
    let mut entries = fs.list(files.guest("other")).await.unwrap();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let found: Vec<_> = entries.iter().map(|e| (e.path.clone(), e.metadata.kind)).collect();
    let (link, name) = (files.guest("other/link"), files.guest("other/name"));
    assert_eq!(found, [(link.clone(), FsEntryKind::Symlink), (name, FsEntryKind::File)]);
    assert_eq!(fs.stat_followed(&link).await.unwrap().kind, FsEntryKind::File);

    // A write through a link is a write to what it leads to.
    fs.write(&link, "by the link").await.unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(files.guest("other/name")).unwrap(), b"by the link");

    fs.remove(&link).await.unwrap();
    assert!(!fs.exists(&link).await.unwrap());
    assert!(!fs.exists(files.guest("other/name/below")).await.unwrap());
    fs.mkdir(files.guest("other/x/y")).await.unwrap();
    fs.mkdir(files.guest("other/x/y")).await.unwrap();
    fs.remove_dir(files.guest("other")).await.unwrap();
    assert!(!files.guest("other").exists());
    // A file whose size the kernel does not state.
    assert!(fs.read_string("/proc/self/status").await.unwrap().contains("PPid:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_have_kinds() {
    let files = files().await;
    let (fs, dir) = (&files.fs, files.guest("dir"));
    fs.mkdir(&dir).await.unwrap();
    fs.write(dir.join("file"), b"\xff").await.unwrap();
    let missing = files.guest("missing");
    let kinds = [
        (fs.read(&missing).await.unwrap_err(), FsErrorKind::NotFound),
        (fs.list(&missing).await.unwrap_err(), FsErrorKind::NotFound),
        (fs.list(dir.join("file")).await.unwrap_err(), FsErrorKind::NotADirectory),
        (fs.read(&dir).await.unwrap_err(), FsErrorKind::IsADirectory),
        (fs.write(&dir, "").await.unwrap_err(), FsErrorKind::IsADirectory),
        (fs.remove(&dir).await.unwrap_err(), FsErrorKind::IsADirectory),
        (fs.remove_dir(dir.join("file")).await.unwrap_err(), FsErrorKind::NotADirectory),
        (fs.write(dir.join("file/x"), "").await.unwrap_err(), FsErrorKind::NotADirectory),
        (fs.copy(&dir, &missing).await.unwrap_err(), FsErrorKind::IsADirectory),
        (fs.stat("/a\0b").await.unwrap_err(), FsErrorKind::Invalid),
        (fs.write("/proc/x/y", "").await.unwrap_err(), FsErrorKind::NotFound),
        (fs.copy_to_host(&missing, files.host("x")).await.unwrap_err(), FsErrorKind::NotFound),
        (fs.copy_from_host(files.host("x"), &dir).await.unwrap_err(), FsErrorKind::NotFound),
    ];
    for (number, (error, kind)) in kinds.iter().enumerate() {
        assert_eq!(error.kind(), Some(*kind), "{number}: {error}");
    }
    let error = fs.read_string(dir.join("file")).await.unwrap_err();
    assert!(error.to_string().ends_with("it is not text"), "{error}");
    // A writer hears why before it has sent all.
    let mut writer = fs.write_stream(dir.join("file/x"), WriteOptions::default()).await.unwrap();
    let error = loop {
        if let Err(error) = writer.write(&[0; 100_000]).await {
            break error;
        }
    };
    assert_eq!(error.kind(), Some(FsErrorKind::NotADirectory), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_leaves_nothing() {
    let files = files().await;
    let path = files.guest("file");
    let mut writer = files.fs.write_stream(&path, WriteOptions::default()).await.unwrap();
    writer.write(&[0; 1_000_000]).await.unwrap();
    drop(writer);
    let mut reader = files.fs.read_stream("/dev/zero", ReadOptions::default()).await.unwrap();
    reader.next().await.unwrap();
    drop(reader);
    // Sessions end, and their helpers with them.
    let helpers =
        format!("/proc/{}/task", within(files.up.client.status()).await.unwrap().vm_pid.unwrap());
    let children = || -> String {
        fs::read_dir(&helpers)
            .unwrap()
            .map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap())
            .collect()
    };
    let started = std::time::Instant::now();
    while !children().is_empty() {
        assert!(started.elapsed() < PATIENCE, "helpers are left");
        files.fs.exists("/").await.unwrap();
    }
    assert_eq!(fs::read_dir(files.guest("")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_goes_both_ways() {
    let files = files().await;
    tree(&files.host("tree"));
    let said = files.copied(&["tree", "web:new"]);
    assert!(said.starts_with("copied 11 entries, "), "{said}");
    assert_eq!(listing(&files.host("tree")), listing(&files.guest("new")));
    files.copied(&["web:new", "back"]);
    assert_eq!(listing(&files.host("tree")), listing(&files.host("back")));
    files.copied(&["web:new/.", "back"]);
    files.copied(&["web:new/a", "back"]);
    files.copied(&["tree/a/file", "web:new/a/file"]);
    assert!(files.host("back/a/b/c/noise").exists());
    // Into a directory that exists, under its own name.
    files.copied(&["tree", "web:new"]);
    assert_eq!(listing(&files.host("tree")), listing(&files.guest("new/tree")));

    let _socket = std::os::unix::net::UnixListener::bind(files.guest("new/socket")).unwrap();
    let said = files.copied(&["web:new", "with-socket"]);
    assert!(said.contains("warning: socket: a socket is not copied"), "{said}");
    files.copied(&["-L", "web:new/a/to-dir", "followed"]);
    assert!(files.host("followed/c").is_dir());
    files.copied(&["web:new/a/to-dir", "kept"]);
    assert!(fs::symlink_metadata(files.host("kept")).unwrap().is_symlink());

    let said = files.refused(&["tree", "web:new/a/file"], 1);
    assert!(said.contains("Not a directory"), "{said}");
    let said = files.refused(&["missing", "web:x"], 1);
    assert!(said.contains("missing\n  caused by: No such file"), "{said}");
    let said = files.refused(&["web:missing", "x"], 1);
    assert!(said.contains("missing: No such file"), "{said}");
    let said = files.refused(&["web:new/a/file", "no/such/dir"], 1);
    assert!(said.contains("does not exist"), "{said}");
    files.refused(&["a", "b"], 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_stay_holes() {
    let files = files().await;
    let source = fs::File::create(files.host("sparse")).unwrap();
    source.write_all_at(b"begin", 0).unwrap();
    source.write_all_at(b"end", (1 << 30) - 3).unwrap();
    files.copied(&["sparse", "web:sparse"]);
    files.copied(&["web:sparse", "back"]);
    for copy in [files.guest("sparse"), files.host("back")] {
        let found = fs::metadata(&copy).unwrap();
        assert_eq!(found.len(), 1 << 30);
        assert!(found.blocks() * 512 < 1 << 20, "{}: {} blocks", copy.display(), found.blocks());
        let mut end = [0; 5];
        let file = fs::File::open(copy).unwrap();
        file.read_exact_at(&mut end, (1 << 30) - 5).unwrap();
        assert_eq!(&end, b"\0\0end");
        file.read_exact_at(&mut end, 0).unwrap();
        assert_eq!(&end, b"begin");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_files_go_in_one_stream() {
    let files = files().await;
    // In memory: this is not about the disk of this machine.
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let at = |name: &str| memory.path().join(name);
    for dir in 0..100 {
        let dir = at("many").join(dir.to_string());
        fs::create_dir_all(&dir).unwrap();
        for file in 0..100 {
            fs::write(dir.join(file.to_string()), format!("{file}")).unwrap();
        }
    }
    files.fs.copy_from_host(at("many"), at("guest")).await.unwrap();
    files.fs.copy_to_host(at("guest"), at("back")).await.unwrap();
    assert!(listing(&at("many")) == listing(&at("back")));
    assert!(files.up.peak_mib() < 100, "{} MiB", files.up.peak_mib());
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_go_through_pipes() {
    let files = files().await;
    tree(&files.guest("tree"));
    let output = files.cp(&["web:tree", "-"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let archive = files.host("archive.tar");
    fs::write(&archive, output.stdout).unwrap();
    // What another program makes of it.
    let unpacked = Command::new("tar")
        .args(["-xpf", "archive.tar"])
        .current_dir(files.host(""))
        .status()
        .unwrap();
    assert!(unpacked.success());
    assert_eq!(listing(&files.guest("tree")), listing(&files.host("tree")));

    fs::create_dir(files.guest("in")).unwrap();
    let stdin = || Stdio::from(fs::File::open(&archive).unwrap());
    let output = files.cp(&["-", "web:in"]).stdin(stdin()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(listing(&files.guest("tree")), listing(&files.guest("in/tree")));

    // As other programs write them, without directories, and out of order.
    let made = Command::new("tar")
        .args(["-cf", "other.tar", "tree/a/b/again", "tree/a/to-dir", "tree/a/b/c", "tree/a/file"])
        .current_dir(files.host(""))
        .status()
        .unwrap();
    assert!(made.success());
    fs::create_dir(files.guest("other")).unwrap();
    let other = Stdio::from(fs::File::open(files.host("other.tar")).unwrap());
    let output = files.cp(&["-", "web:other"]).stdin(other).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    for path in ["a/b/again", "a/to-dir", "a/b/c/noise", "a/file"] {
        let (from, to) = (files.guest("tree").join(path), files.guest("other/tree").join(path));
        assert!(fs::read_link(&from).ok() == fs::read_link(&to).ok(), "{path}");
        assert!(fs::read(&from).ok() == fs::read(&to).ok(), "{path}");
    }

    // Nobody reads the archive any more: the end that `head` and the like give to many programs.
    let mut child = files.cp(&["web:tree", "-"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*text(&output)), (Some(141), ""));

    let output = files.cp(&["-", "web:missing"]).stdin(stdin()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let cut = fs::read(&archive).unwrap();
    fs::write(files.host("cut.tar"), &cut[..cut.len() / 2]).unwrap();
    fs::create_dir(files.guest("cut")).unwrap();
    let cut = Stdio::from(fs::File::open(files.host("cut.tar")).unwrap());
    let output = files.cp(&["-", "web:cut"]).stdin(cut).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(fs::read_dir(files.guest("cut")).unwrap().count(), 0);
}

/// Waits until a temporary name with something in it is in `dir`.
fn begun(dir: &Path, child: &mut Child) {
    let started = std::time::Instant::now();
    let has_begun = || {
        fs::read_dir(dir).unwrap().any(|entry| {
            let entry = entry.unwrap();
            entry.file_name().to_string_lossy().starts_with(".msb-")
                && entry.metadata().is_ok_and(|found| found.len() > 1 << 20)
        })
    };
    while !has_begun() {
        assert!(started.elapsed() < PATIENCE && child.try_wait().unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_copy_leaves_no_half_file() {
    let files = files().await;
    // Larger than what is copied before the signal arrives.
    for side in [files.host("large"), files.guest("large")] {
        let file = fs::File::create(side).unwrap();
        for at in 0..512_u64 {
            file.write_all_at(&[1; 1 << 20], at << 20).unwrap();
        }
    }
    fs::write(files.guest("into"), "old").unwrap();
    fs::write(files.host("out"), "old").unwrap();
    let mut child = files.cp(&["large", "web:into"]).spawn().unwrap();
    begun(&files.guest(""), &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    // The sandbox's side hears of it, and removes what it has.
    let started = std::time::Instant::now();
    while fs::read_dir(files.guest("")).unwrap().count() != 2 {
        assert!(started.elapsed() < PATIENCE, "something is left");
    }
    let mut child = files.cp(&["web:large", "out"]).spawn().unwrap();
    begun(&files.host(""), &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    for path in [files.guest("into"), files.host("out")] {
        assert_eq!(fs::read(path).unwrap(), b"old");
    }
    // An interrupt gives it time to remove what it has.
    for entry in fs::read_dir(files.host("")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with(".msb-") {
            fs::remove_file(path).unwrap();
        }
    }
    let mut child = files.cp(&["web:large", "out"]).spawn().unwrap();
    begun(&files.host(""), &mut child);
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(fs::read_dir(files.host("")).unwrap().count(), 2);
    assert_eq!(fs::read(files.host("out")).unwrap(), b"old");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_holds_up_no_command() {
    let files = files().await;
    let file = fs::File::create(files.guest("large")).unwrap();
    for at in 0..256_u64 {
        file.write_all_at(&[1; 1 << 20], at << 20).unwrap();
    }
    // A reader that never reads, and a copy.
    let mut stuck = files.fs.read_stream("/dev/zero", ReadOptions::default()).await.unwrap();
    stuck.next().await.unwrap();
    let (fs, from, to) = (files.fs.clone(), files.guest("large"), files.host("large"));
    let copy = tokio::spawn(async move {
        fs.copy_to_host_with(from, to, CopyOptions::default(), |_| {}).await
    });
    let mut rounds = 0;
    while !copy.is_finished() || rounds == 0 {
        let started = std::time::Instant::now();
        assert_eq!(files.up.run("true").await.0, ExitStatus::Code(0));
        assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
        rounds += 1;
    }
    copy.await.unwrap().unwrap();
    assert_eq!(fs::metadata(files.host("large")).unwrap().len(), 256 << 20);
}

/// What is around the target of a copy: a link in it leads to a directory that is none of it.
fn around(files: &Files) {
    fs::create_dir_all(files.host("target/existing")).unwrap();
    fs::create_dir(files.host("outside")).unwrap();
    fs::write(files.host("outside/secret"), "secret").unwrap();
    symlink("../outside", files.host("target/planted")).unwrap();
}

fn assert_unharmed(files: &Files, what: &str) {
    let names = |path: &str| {
        let entries = fs::read_dir(files.host(path)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(""), ["outside", "target"], "{what}");
    assert_eq!(names("outside"), ["secret"], "{what}");
    assert_eq!(names("target"), ["existing", "planted"], "{what}");
    assert_eq!(fs::read(files.host("outside/secret")).unwrap(), b"secret", "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lying_sandbox_makes_nothing_outside_of_the_target() {
    let files = files_of(Some("helper_lying_trees")).await;
    around(&files);
    for (lie, said) in [
        ("up", "a name that is none"),
        ("path", "a name that is none"),
        ("absolute", "a name that is none"),
        ("link", "Not a directory"),
        ("planted", "Not a directory"),
        ("hard link", "Not a directory"),
        ("longer", "longer than announced"),
        ("shorter", "shorter than announced"),
        ("deep", "nested too deeply"),
        ("noise", "the session with the sandbox broke"),
        ("cut", "the sandbox ended before"),
        ("exec", "the session with the sandbox broke"),
    ] {
        let said_of = |arguments: &[&str]| {
            let output = files.cp(arguments).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output));
            text(&output)
        };
        // The name of the guest's directory stands before the lie; it does not look there.
        let source = format!("web:{lie}/.");
        let heard = said_of(&[&source, "target"]);
        assert!(heard.contains(said), "{lie}: {heard}");
        assert_unharmed(&files, lie);
        said_of(&[&source, "-"]);
    }
    let heard = files.refused(&["web:escape", "target/x"], 1);
    assert!(heard.contains("\\u{1b}[2J") && !heard.contains('\u{1b}'), "{heard:?}");
    assert_unharmed(&files, "escape");
    let error = files.fs.stat("/x").await.unwrap_err();
    assert!(matches!(error, msb::client::FsError::Broken(_)), "{error:?}");
    // A name as long as a frame.
    let error = files.fs.list("/x").await.unwrap_err();
    assert!(matches!(error, msb::client::FsError::Broken("a name that is none")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_items_take_no_memory() {
    let files = files_of(Some("helper_lying_trees")).await;
    around(&files);
    let output = files.cp(&["web:flood/.", "target"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("more like these") && said.len() < 100_000, "{said}");
    assert_unharmed(&files, "flood");
    let children = nix::sys::resource::UsageWho::RUSAGE_CHILDREN;
    let peak = nix::sys::resource::getrusage(children).unwrap().max_rss() / 1024;
    assert!(peak < 100, "{peak} MiB");
    assert!(files.up.peak_mib() < 100, "{} MiB", files.up.peak_mib());
}

/// Prints figures, against `cp`, a socket and the output of a command in the same run.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn figures() {
    const SIZE: u64 = 100 << 20;
    let files = files().await;
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let at = |name: &str| memory.path().join(name);
    fs::write(at("large"), vec![1; usize::try_from(SIZE).unwrap()]).unwrap();
    let rate = |what: &str, started: std::time::Instant| {
        let seconds = started.elapsed().as_secs_f64();
        let mib = SIZE as f64 / f64::from(1 << 20) / seconds;
        eprintln!("{what}: {seconds:.3} s, {mib:.0} MiB/s");
    };
    let started = std::time::Instant::now();
    fs::copy(at("large"), at("plain")).unwrap();
    rate("cp", started);
    let started = std::time::Instant::now();
    let (mut ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let reading = std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while io::Read::read(&mut theirs, &mut buffer).unwrap() > 0 {}
    });
    let block = vec![0; 32 << 10];
    for _ in 0..SIZE / block.len() as u64 {
        ours.write_all(&block).unwrap();
    }
    drop(ours);
    reading.join().unwrap();
    rate("a socket pair", started);
    let started = std::time::Instant::now();
    files.up.run("exec head -c 104857600 /dev/zero").await;
    rate("the output of a command", started);
    for _ in 0..3 {
        let started = std::time::Instant::now();
        files.fs.copy_from_host(at("large"), at("in")).await.unwrap();
        rate("into the sandbox", started);
        let started = std::time::Instant::now();
        files.fs.copy_to_host(at("in"), at("out")).await.unwrap();
        rate("out of the sandbox", started);
    }
    fs::create_dir(at("many")).unwrap();
    for file in 0..10_000 {
        fs::write(at("many").join(file.to_string()), "small").unwrap();
    }
    let started = std::time::Instant::now();
    files.fs.copy_from_host(at("many"), at("many-in")).await.unwrap();
    eprintln!("10,000 files in: {:?}", started.elapsed());
    let started = std::time::Instant::now();
    files.fs.copy_to_host(at("many-in"), at("many-out")).await.unwrap();
    eprintln!("10,000 files out: {:?}", started.elapsed());
}
