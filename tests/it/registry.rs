//! Images from a real registry, from layouts and from archives, and the cache over them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use expect_test::expect;
use msb::home::Home;
use msb::image::{
    ImageCache, ImageRows, MemoryRows, NoProgress, Progress, ProgressEvent, RegistryAccess,
    SourceKey,
};
use msb::spec::{PullPolicy, RegistrySpec};
use msb::store::{ImageDocuments, ImageRow, StoreError};

use crate::support::liar::{Body, Content, Liar, Reply};
use crate::support::oci::{Blobs, Compression, ImageSpec, Made, host_arch, image, layer, noise};
use crate::support::pulling::{
    Fixture, archive, block_on, cache_at, insecure, layout, oci, quick_limits, render,
    with_password,
};
use crate::support::registry::{PASSWORD, TestRegistry, USER, extract, run, skopeo};

fn three_layers() -> ImageSpec {
    image(vec![
        layer(Compression::Plain, &[("bin/hello", b"hello"), ("etc/gone", b"x")]),
        layer(Compression::Gzip, &[("etc/name", b"old"), ("etc/.wh.gone", b"")]),
        layer(Compression::Zstd, &[("etc/name", b"new")]),
    ])
}

fn three_layers_merged() -> Vec<(String, Vec<u8>)> {
    vec![("bin/hello".to_owned(), b"hello".to_vec()), ("etc/name".to_owned(), b"new".to_vec())]
}

/// A layout of one image at `dir`, tagged `v1`.
fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap()
}

fn one_image(dir: &Path, spec: &ImageSpec) -> Made {
    let mut blobs = Blobs::default();
    let made = blobs.make(spec);
    blobs.write_layout(dir, &[("v1", &made.digest)]);
    made
}

#[test]
fn pull_then_cached_without_registry() {
    let registry = TestRegistry::start();
    let dir = registry.scratch("layout");
    let made = one_image(&dir, &three_layers());
    registry.push(&dir, "v1", "shop/app:v1");
    let (host, fixture) = (registry.host.clone(), Fixture::with(quick_limits()));
    let (image, access) = (oci(format!("{host}/shop/app:v1")), insecure(&host));
    assert!(fixture.cache.cached(&image).unwrap().is_none());
    assert!(fixture.cache.needs_network(&image, PullPolicy::IfMissing).unwrap());

    let record = fixture.pull(&image, &access).unwrap();
    assert_eq!(record.digest, made.digest);
    assert_eq!(record.config.cmd, ["/bin/hello"]);
    assert_eq!(record.size_bytes, fs::metadata(&record.file).unwrap().len());
    assert_eq!(extract(&record.file), three_layers_merged());
    let file = record.file.file_name().unwrap().to_str().unwrap();
    let mut names = vec![format!("erofs/{file}")];
    names.extend(made.layers.iter().map(|layer| format!("blobs/{}", hex(layer))));
    names.sort_unstable();
    assert_eq!(fixture.names(), names, "the image and its layers stay");

    registry.stop();
    assert_eq!(fixture.cache.cached(&image).unwrap().as_ref(), Some(&record));
    assert_eq!(fixture.cache.by_digest(&made.digest).unwrap().as_ref(), Some(&record));
    assert!(!fixture.cache.needs_network(&image, PullPolicy::IfMissing).unwrap());
    assert_eq!(fixture.ensure(&image, PullPolicy::Never, &access).unwrap(), record);
    assert_eq!(fixture.ensure(&image, PullPolicy::IfMissing, &access).unwrap(), record);
    assert!(fixture.ensure(&image, PullPolicy::Always, &access).is_err());
    fs::remove_file(&record.file).unwrap();
    assert!(fixture.cache.cached(&image).unwrap().is_none(), "a row without its file is nothing");
}

#[test]
fn the_index_is_asked_for_the_platform() {
    let registry = TestRegistry::start();
    let mut blobs = Blobs::default();
    let mut of = |architecture: &'static str| {
        let layer = layer(Compression::Gzip, &[("arch", architecture.as_bytes())]);
        blobs.make(&ImageSpec { architecture, ..image(vec![layer]) })
    };
    let (own, other) = (of(host_arch()), of("s390x"));
    let index = blobs.index(&[("s390x", &other), (host_arch(), &own)]);
    let dir = registry.scratch("layout");
    blobs.write_layout(&dir, &[("v1", &index)]);
    registry.push(&dir, "v1", "multi:v1");
    let (host, fixture) = (&registry.host, Fixture::new());
    let mut image = oci(format!("{host}/multi:v1"));
    let record = fixture.pull(&image, &insecure(host)).unwrap();
    assert_eq!(record.digest, own.digest);

    image.platform = Some("linux/s390x".to_owned());
    assert!(fixture.cache.cached(&image).unwrap().is_none(), "another platform, another image");
    assert_eq!(fixture.pull(&image, &insecure(host)).unwrap().digest, other.digest);

    image.platform = Some("linux/riscv64".to_owned());
    let error = fixture.pull(&image, &insecure(host)).unwrap_err();
    let text = render(&error).replace(host_arch(), "OWN");
    expect![[r#"
        image 127.0.0.1:PORT/multi:v1: there is no image for linux/riscv64, only for linux/s390x, linux/OWN
          help: set `platform` of the image to one that exists and that this machine runs"#]]
    .assert_eq(&text);

    let pinned = oci(format!("{host}/multi@{index}"));
    assert_eq!(fixture.pull(&pinned, &insecure(host)).unwrap().digest, own.digest);
}

#[test]
fn credentials_in_order() {
    let registry = TestRegistry::start_private();
    let dir = registry.scratch("layout");
    one_image(&dir, &three_layers());
    registry.push(&dir, "v1", "private:v1");
    let host = &registry.host;
    let image = oci(format!("{host}/private:v1"));

    let fixture = Fixture::new();
    let error = fixture.pull(&image, &insecure(host)).unwrap_err();
    expect![[r#"
        image 127.0.0.1:PORT/private:v1: 127.0.0.1:PORT: access denied with no credentials: authentication required
          help: set `username` and `password` in [registry."127.0.0.1:PORT"], or run `docker login 127.0.0.1:PORT`"#]]
    .assert_eq(&render(&error));
    let error = fixture.pull(&image, &with_password(host, USER, "wrong")).unwrap_err();
    expect![[r#"
        image 127.0.0.1:PORT/private:v1: 127.0.0.1:PORT: access denied with the credentials of the Sandboxfile: authentication required
          help: set `username` and `password` in [registry."127.0.0.1:PORT"], or run `docker login 127.0.0.1:PORT`"#]]
    .assert_eq(&render(&error));
    fixture.assert_nothing_made();
    fixture.pull(&image, &with_password(host, USER, PASSWORD)).unwrap();

    // The Docker configuration, as `skopeo login` writes it.
    let docker = registry.scratch("docker");
    fs::create_dir(&docker).unwrap();
    run(skopeo()
        .args(["login", "--tls-verify=false", "--username", USER, "--password", PASSWORD])
        .arg("--authfile")
        .arg(docker.join("config.json"))
        .arg(host));
    let fixture = Fixture::new();
    fixture.pull(&image, &docker_access(host, &docker)).unwrap();
}

fn docker_access(host: &str, docker: &Path) -> RegistryAccess {
    let docker = docker.to_str().unwrap().to_owned();
    let spec = RegistrySpec { insecure: true, ..RegistrySpec::default() };
    RegistryAccess::new(&BTreeMap::from([(host.to_owned(), spec)]), move |name| {
        (name == "DOCKER_CONFIG").then(|| docker.clone())
    })
}

#[test]
fn policies_follow_a_tag_that_moves() {
    let registry = TestRegistry::start();
    let push = |name: &str, text: &[u8]| {
        let dir = registry.scratch(name);
        let made = one_image(&dir, &image(vec![layer(Compression::Gzip, &[("file", text)])]));
        registry.push(&dir, "v1", "moving:v1");
        made.digest
    };
    let (host, fixture) = (&registry.host, Fixture::new());
    let (image, access) = (oci(format!("{host}/moving:v1")), insecure(host));
    let error = fixture.ensure(&image, PullPolicy::Never, &access).unwrap_err();
    expect![[r#"
        image 127.0.0.1:PORT/moving:v1: not in the cache, and the pull policy is `never`
          help: use `pull_policy = "if-missing"`, or pull it first"#]]
    .assert_eq(&render(&error));
    let first = push("first", b"1");
    assert_eq!(fixture.ensure(&image, PullPolicy::IfMissing, &access).unwrap().digest, first);
    let second = push("second", b"2");
    assert_eq!(fixture.ensure(&image, PullPolicy::IfMissing, &access).unwrap().digest, first);
    assert_eq!(block_on(fixture.cache.resolve(&image, &access)).unwrap(), second);
    assert_eq!(fixture.cache.cached(&image).unwrap().unwrap().digest, first, "nothing pulled yet");
    assert_eq!(fixture.ensure(&image, PullPolicy::Always, &access).unwrap().digest, second);
    assert_eq!(fixture.cache.cached(&image).unwrap().unwrap().digest, second);
    let error = fixture.pull(&oci(format!("{host}/moving:nothing")), &access).unwrap_err();
    expect![[r#"
        image 127.0.0.1:PORT/moving:nothing: 127.0.0.1:PORT: manifest nothing not found: manifest unknown
          help: check the spelling of the name and tag; private images need credentials"#]]
    .assert_eq(&render(&error));
}

#[test]
fn layouts_and_archives_are_the_same_image() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layout");
    let made = one_image(&path, &three_layers());
    let fixture = Fixture::new();
    let anonymous = RegistryAccess::anonymous();
    let in_layout = layout(&path);
    assert!(fixture.cache.cached(&in_layout).unwrap().is_none());
    let record = fixture.ensure(&in_layout, PullPolicy::Never, &anonymous).unwrap();
    assert_eq!(record.digest, made.digest);
    assert_eq!(extract(&record.file), three_layers_merged());
    assert_eq!(fixture.cache.cached(&in_layout).unwrap(), Some(record));

    let tar = dir.path().join("oci.tar");
    run(skopeo()
        .args(["copy", "--preserve-digests"])
        .arg(format!("oci:{}:v1", path.display()))
        .arg(format!("oci-archive:{}:v1", tar.display())));
    let fixture = Fixture::new();
    assert!(fixture.cache.cached(&archive(&tar)).unwrap().is_none());
    let record = fixture.pull(&archive(&tar), &anonymous).unwrap();
    assert_eq!(record.digest, made.digest);
    assert_eq!(fixture.cache.cached(&archive(&tar)).unwrap(), Some(record));

    // The older form has no zstd.
    let mut spec = three_layers();
    spec.layers[2].compression = Compression::Gzip;
    let path = dir.path().join("gzip");
    one_image(&path, &spec);
    let saved = dir.path().join("docker.tar");
    run(skopeo()
        .arg("copy")
        .arg(format!("oci:{}:v1", path.display()))
        .arg(format!("docker-archive:{}:example.org/app:v1", saved.display())));
    let record = fixture.pull(&archive(&saved), &anonymous).unwrap();
    assert_eq!(extract(&record.file), three_layers_merged());
    assert_eq!(record.config.cmd, ["/bin/hello"]);
    let mut tagged = saved.clone().into_os_string();
    tagged.push("#v1");
    assert_eq!(fixture.pull(&archive(Path::new(&tagged)), &anonymous).unwrap(), record);
    fs::write(&saved, b"changed").unwrap();
    assert!(fixture.cache.cached(&archive(&saved)).unwrap().is_none(), "a changed archive is new");
}

#[test]
fn an_image_made_by_umoci() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made");
    let image = format!("{}:v1", path.display());
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::copy("/bin/busybox", tree.join("bin/busybox")).expect("apt-get install busybox-static");
    run(Command::new("umoci").args(["init", "--layout"]).arg(&path));
    run(Command::new("umoci").args(["new", "--image", &image]));
    run(Command::new("umoci").args(["insert", "--image", &image]).arg(&tree).arg("/"));
    run(Command::new("umoci").args(["config", "--image", &image, "--config.cmd", "/bin/busybox"]));
    let fixture = Fixture::new();
    let record = fixture.pull(&layout(&path), &RegistryAccess::anonymous()).unwrap();
    let files = extract(&record.file);
    assert_eq!(files, [("bin/busybox".to_owned(), fs::read("/bin/busybox").unwrap())]);
    assert_eq!(record.config.cmd, ["/bin/busybox"]);
}

#[test]
fn local_sources_that_make_no_sense() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::new();
    let show = |image| {
        let error = fixture.pull(&image, &RegistryAccess::anonymous()).unwrap_err();
        render(&error).replace(dir.path().to_str().unwrap(), "DIR")
    };
    expect![[r#"
        image DIR/#x: not an OCI image layout (`oci-layout` and `index.json` are missing)
          help: `skopeo copy docker://… oci:DIR:TAG` makes one; a `#tag` is for layouts, and a root file system is a directory"#]]
        .assert_eq(&show(layout(&dir.path().join("#x"))));
    let mut blobs = Blobs::default();
    let one = blobs.make(&image(vec![layer(Compression::Plain, &[("a", b"1")])]));
    let two = blobs.make(&image(vec![layer(Compression::Plain, &[("a", b"2")])]));
    let path = dir.path().join("two");
    blobs.write_layout(&path, &[("one", &one.digest), ("two", &two.digest)]);
    expect![[r#"
        image DIR/two: DIR/two: it holds several images; it holds one, two
          help: choose one with a `#tag` at the end of the path"#]]
    .assert_eq(&show(layout(&path)));
    let tagged = format!("{}#two", path.display());
    let record = fixture.pull(&layout(Path::new(&tagged)), &RegistryAccess::anonymous()).unwrap();
    assert_eq!(record.digest, two.digest);
    let tagged = format!("{}#three", path.display());
    expect![[r#"
        image DIR/two#three: DIR/two: there is no `three`; it holds one, two
          help: choose one with a `#tag` at the end of the path"#]]
    .assert_eq(&show(layout(Path::new(&tagged))));
    // A blob that was changed.
    let hex = one.layers[0].strip_prefix("sha256:").unwrap();
    let blob = path.join("blobs/sha256").join(hex);
    let mut bytes = fs::read(&blob).unwrap();
    bytes[600] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let tagged = format!("{}#one", path.display());
    expect![[r#"
        image DIR/two#one: layer sha256:… has other content than its digest says: got sha256:…
          help: the image or the registry is broken or hostile; nothing of it was kept"#]]
    .assert_eq(&show(layout(Path::new(&tagged))));
    let file = dir.path().join("file.tar");
    fs::write(&file, [0x1f, 0x8b, 8, 0]).unwrap();
    expect!["image DIR/file.tar: DIR/file.tar: not an image archive: it is compressed as a whole: decompress it first"]
        .assert_eq(&show(archive(&file)));
    fs::write(&file, vec![0; 1024]).unwrap();
    expect!["image DIR/file.tar: DIR/file.tar: not an image archive: neither `index.json` nor `manifest.json` is in it"]
        .assert_eq(&show(archive(&file)));
    expect![[r#"
        image DIR/missing.tar: there is no such file or directory
          help: relative paths start at the directory of the Sandboxfile; write `image = "name:tag"` for an image of a registry"#]]
    .assert_eq(&show(archive(&dir.path().join("missing.tar"))));
    let mut fixture_names = fixture.names();
    fixture_names.retain(|name| !name.starts_with("erofs/"));
    assert_eq!(fixture_names, [""; 0]);
}

/// A big image of incompressible layers, honestly served.
fn big_image() -> (Content, Made) {
    let mut blobs = Blobs::default();
    let files: Vec<_> = (1..4).map(|n| (format!("noise{n}"), noise(n, 300_000))).collect();
    let layers = files.iter().map(|(name, data)| layer(Compression::Gzip, &[(name, data)]));
    let made = blobs.make(&image(layers.collect()));
    (Content::new(blobs, &made), made)
}

#[test]
fn many_pulls_download_once() {
    let (content, made) = big_image();
    let liar = Liar::honest(content);
    let fixture = Fixture::new();
    let image = oci(format!("{}/app", liar.host));
    // Each with a cache and a connection to the database of its own, as processes have.
    let records: Vec<_> = std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..3)
            .map(|_| {
                let access = insecure(&liar.host);
                let (image, home) = (&image, &fixture.home);
                scope.spawn(move || {
                    let cache = cache_at(home);
                    block_on(cache.pull(image, &access, Arc::new(NoProgress))).unwrap()
                })
            })
            .collect();
        pulls.into_iter().map(|pull| pull.join().unwrap()).collect()
    });
    assert!(records.iter().all(|record| *record == records[0]));
    assert_eq!(records[0].digest, made.digest);
    let seen = liar.seen();
    for digest in made.layers.iter().chain([&made.config]) {
        assert_eq!(seen.iter().filter(|seen| seen.is_blob(digest)).count(), 1, "{digest}");
    }
    assert_eq!(fixture.names().len(), 1 + made.layers.len(), "{:?}", fixture.names());
}

/// Rows that are written while nobody else makes the image.
struct LockedRows {
    rows: MemoryRows,
    home: Home,
}

impl ImageRows for LockedRows {
    fn by_source(&self, key: &SourceKey) -> Result<Option<ImageRow>, StoreError> {
        self.rows.by_source(key)
    }

    fn by_digest(&self, digest: &str) -> Result<Option<ImageRow>, StoreError> {
        self.rows.by_digest(digest)
    }

    fn put(
        &self,
        key: Option<&SourceKey>,
        row: &ImageRow,
        documents: Option<&ImageDocuments>,
    ) -> Result<(), StoreError> {
        let hex = row.digest.strip_prefix("sha256:").unwrap();
        let lock = fs::File::open(self.home.blobs().join(format!("image-{hex}.lock"))).unwrap();
        assert!(lock.try_lock().is_err(), "another pull would find neither lock nor row");
        self.rows.put(key, row, documents)
    }

    fn alone_with_manifests(&self, body: &mut dyn FnMut(&[Vec<u8>])) -> Result<(), StoreError> {
        self.rows.alone_with_manifests(body)
    }
}

#[test]
fn the_lock_of_an_image_is_held_until_it_has_a_row() {
    let (content, made) = big_image();
    let liar = Liar::honest(content);
    let fixture = Fixture::new();
    let rows = LockedRows { rows: MemoryRows::default(), home: fixture.home.clone() };
    let cache = ImageCache::new(fixture.home.clone(), Arc::new(rows));
    let image = oci(format!("{}/app", liar.host));
    let pull = || block_on(cache.pull(&image, &insecure(&liar.host), Arc::new(NoProgress)));
    let record = pull().unwrap();
    assert_eq!(record.digest, made.digest);
    // Its file there, its row lost.
    let rows = LockedRows { rows: MemoryRows::default(), home: fixture.home.clone() };
    let cache = ImageCache::new(fixture.home.clone(), Arc::new(rows));
    let pull = || block_on(cache.pull(&image, &insecure(&liar.host), Arc::new(NoProgress)));
    assert_eq!(pull().unwrap(), record);
    assert_eq!(liar.seen().iter().filter(|seen| seen.is_blob(&made.layers[0])).count(), 1);
    assert_eq!(fixture.names().len(), 1 + made.layers.len(), "{:?}", fixture.names());
}

#[test]
fn a_file_that_does_not_fit_its_row_is_made_again() {
    let (content, _) = big_image();
    let liar = Liar::honest(content);
    let fixture = Fixture::new();
    let image = oci(format!("{}/app", liar.host));
    let record = fixture.pull(&image, &insecure(&liar.host)).unwrap();
    let whole = fs::read(&record.file).unwrap();
    fs::File::options().write(true).open(&record.file).unwrap().set_len(4096).unwrap();
    assert!(fixture.cache.cached(&image).unwrap().is_none());
    assert_eq!(fixture.pull(&image, &insecure(&liar.host)).unwrap(), record);
    assert!(fs::read(&record.file).unwrap() == whole);
}

/// Serves the big image, but breaks the first connection of each of these layers in the middle.
fn cutting(content: Content, layers: Vec<String>) -> Liar {
    cutting_at(content, layers, |length| length / 2)
}

fn cutting_at(
    content: Content,
    layers: Vec<String>,
    at: impl Fn(usize) -> usize + Send + Sync + 'static,
) -> Liar {
    let cut = Mutex::new(layers);
    Liar::start(move |seen| {
        let mut cut = cut.lock().unwrap();
        let Some(found) = cut.iter().position(|digest| seen.is_blob(digest)) else {
            return content.serve(seen);
        };
        let digest = cut.swap_remove(found);
        let bytes = &content.blobs.0[&digest];
        Reply::body(Body::Cut(bytes[..at(bytes.len())].to_vec()))
            .with("content-length", bytes.len().to_string())
    })
}

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Progress for Recorder {
    fn event(&self, event: ProgressEvent<'_>) {
        let text = match event {
            ProgressEvent::Retrying { layer, .. } => format!("retrying {layer}"),
            ProgressEvent::Built { layer } => format!("built {layer}"),
            ProgressEvent::Done { cached, .. } => format!("done, cached {cached}"),
            _ => return,
        };
        self.0.lock().unwrap().push(text);
    }
}

#[test]
fn a_broken_connection_is_resumed() {
    let (content, made) = big_image();
    let liar = cutting(content.clone(), made.layers.clone());
    let fixture = Fixture::with(quick_limits());
    let recorder = Arc::new(Recorder::default());
    let (image, access) = (oci(format!("{}/app", liar.host)), insecure(&liar.host));
    let pull = fixture.cache.pull(&image, &access, recorder.clone());
    assert_eq!(block_on(pull).unwrap().digest, made.digest);
    for digest in &made.layers {
        let half = content.blobs.0[digest].len() / 2;
        let ranges: Vec<_> = liar
            .seen()
            .iter()
            .filter(|seen| seen.is_blob(digest))
            .map(|seen| seen.header("range").unwrap_or("all").to_owned())
            .collect();
        assert_eq!(ranges, ["all".to_owned(), format!("bytes={half}-")]);
    }
    let mut events = recorder.0.lock().unwrap().clone();
    assert_eq!(events.pop().as_deref(), Some("done, cached false"));
    let built: Vec<_> = events.iter().filter(|event| event.starts_with("built")).collect();
    assert_eq!(built, ["built 2", "built 1", "built 0"], "top layer first");
    assert_eq!(events.iter().filter(|event| event.starts_with("retrying")).count(), 3);
}

#[test]
fn an_interrupted_pull_is_continued_by_the_next() {
    let (content, made) = big_image();
    let mut limits = quick_limits();
    limits.attempts = 1;
    let fixture = Fixture::with(limits);
    let liar = cutting(content.clone(), made.layers.clone());
    let (image, access) = (oci(format!("{}/app", liar.host)), insecure(&liar.host));
    let error = fixture.pull(&image, &access).unwrap_err();
    assert!(error.help().unwrap().contains("what has arrived is kept"), "{error}");
    fixture.assert_nothing_made();
    let mut tries = 1;
    while fixture.pull(&image, &access).is_err() {
        tries += 1;
        assert!(tries <= 3, "each layer is cut once");
    }
    let resumed = liar.seen().iter().filter(|seen| seen.header("range").is_some()).count();
    assert!(resumed >= 1, "nothing was resumed");
    assert_eq!(fixture.names().len(), 1 + made.layers.len(), "{:?}", fixture.names());
}

#[test]
fn a_layer_that_breaks_costs_no_other() {
    let (content, made) = big_image();
    let mut limits = quick_limits();
    // The lowest comes last.
    (limits.attempts, limits.parallel_downloads) = (1, 1);
    let fixture = Fixture::with(limits);
    let liar = cutting(content, vec![made.layers[0].clone()]);
    let (image, access) = (oci(format!("{}/app", liar.host)), insecure(&liar.host));
    fixture.pull(&image, &access).unwrap_err();
    fixture.pull(&image, &access).unwrap();
    let asked = |digest: &String| liar.seen().iter().filter(|seen| seen.is_blob(digest)).count();
    assert_eq!(made.layers.iter().map(asked).collect::<Vec<_>>(), [2, 1, 1]);
}

#[test]
fn a_layer_may_begin_byte_by_byte() {
    for first in 1..4 {
        let (content, made) = big_image();
        let liar = cutting_at(content, made.layers.clone(), move |_| first);
        let fixture = Fixture::with(quick_limits());
        fixture.pull(&oci(format!("{}/app", liar.host)), &insecure(&liar.host)).unwrap();
    }
}

/// What came first has been unpacked when the registry begins again, with something else.
#[test]
fn a_layer_may_begin_again_as_another() {
    let (content, made) = big_image();
    let wrong = Mutex::new(made.layers.clone());
    let liar = Liar::start(move |seen| {
        let Some(digest) = content.blobs.0.keys().find(|digest| seen.is_blob(digest)) else {
            return content.serve(seen);
        };
        let mut wrong = wrong.lock().unwrap();
        let Some(at) = wrong.iter().position(|layer| layer == digest) else {
            return Reply::ok(content.blobs.0[digest].clone());
        };
        wrong.swap_remove(at);
        let length = content.blobs.0[digest].len();
        Reply::body(Body::Cut(noise(9, length / 2))).with("content-length", length.to_string())
    });
    let fixture = Fixture::with(quick_limits());
    fixture.pull(&oci(format!("{}/app", liar.host)), &insecure(&liar.host)).unwrap();
    assert_eq!(fixture.names().len(), 1 + made.layers.len(), "{:?}", fixture.names());
}

#[test]
fn a_rotten_leftover_is_downloaded_again() {
    let (content, made) = big_image();
    let liar = Liar::honest(content);
    let fixture = Fixture::with(quick_limits());
    for digest in &made.layers {
        let hex = digest.strip_prefix("sha256:").unwrap();
        fs::write(fixture.home.blobs().join(format!("{hex}.part")), b"rot").unwrap();
    }
    fixture.pull(&oci(format!("{}/app", liar.host)), &insecure(&liar.host)).unwrap();
    assert_eq!(fixture.names().len(), 1 + made.layers.len(), "{:?}", fixture.names());
}

#[test]
fn a_dropped_pull_leaves_nothing_locked() {
    let (content, made) = big_image();
    let honest = content.clone();
    let top = made.layers[2].clone();
    let stuck =
        Liar::start(
            move |seen| {
                if seen.is_blob(&top) { Reply::body(Body::Stall) } else { honest.serve(seen) }
            },
        );
    let fixture = Fixture::new();
    let (image, access) = (oci(format!("{}/app", stuck.host)), insecure(&stuck.host));
    struct Told(tokio::sync::Notify);
    impl Progress for Told {
        fn event(&self, event: ProgressEvent<'_>) {
            if matches!(event, ProgressEvent::Downloaded { .. }) {
                self.0.notify_one();
            }
        }
    }
    let told = Arc::new(Told(tokio::sync::Notify::new()));
    block_on(async {
        tokio::select! {
            _ = fixture.cache.pull(&image, &access, told.clone()) => panic!("it cannot end"),
            () = told.0.notified() => {}
        }
    });
    fixture.assert_nothing_made();
    let liar = Liar::honest(content);
    fixture.pull(&oci(format!("{}/app", liar.host)), &insecure(&liar.host)).unwrap();
}
