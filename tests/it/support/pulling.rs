//! A cache in a temporary home, and pulls into it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use msb::home::Home;
use msb::image::{
    Digest, ImageCache, ImageError, ImageRecord, NoProgress, RegistryAccess, TransferLimits,
};
use msb::spec::{Image, ImageSource, PullPolicy, RegistrySpec, SecretFrom};
use msb::store::Store;

/// A cache with a home of its own.
pub(crate) struct Fixture {
    pub(crate) home: Home,
    pub(crate) cache: ImageCache,
    _dir: tempfile::TempDir,
}

/// Limits under which lies are found out soon.
pub(crate) fn quick_limits() -> TransferLimits {
    TransferLimits {
        attempts: 2,
        backoff: Duration::from_millis(1),
        idle_timeout: Duration::from_millis(400),
        unpacked_bytes: 8 << 20,
        ..TransferLimits::default()
    }
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(TransferLimits::default())
    }

    pub(crate) fn with(limits: TransferLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        let cache = cache_at(&home).with_limits(limits);
        Self { home, cache, _dir: dir }
    }

    pub(crate) fn pull(
        &self,
        image: &Image,
        access: &RegistryAccess,
    ) -> Result<ImageRecord, ImageError> {
        block_on(self.cache.pull(image, access, Arc::new(NoProgress)))
    }

    pub(crate) fn ensure(
        &self,
        image: &Image,
        policy: PullPolicy,
        access: &RegistryAccess,
    ) -> Result<ImageRecord, ImageError> {
        block_on(self.cache.ensure(image, policy, access, Arc::new(NoProgress)))
    }

    /// Names in the image directories, without the state of the database.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for (label, dir) in
            [("blobs", self.home.blobs()), ("erofs", self.home.erofs()), ("tmp", self.home.tmp())]
        {
            for entry in fs::read_dir(dir).unwrap() {
                names.push(format!("{label}/{}", entry.unwrap().file_name().to_str().unwrap()));
            }
        }
        names.sort_unstable();
        names
    }

    /// No image, nothing half made, no lock; a blob under its final name is what it says.
    pub(crate) fn assert_nothing_made(&self) {
        for name in self.names() {
            let (dir, file) = name.split_once('/').unwrap();
            assert_eq!(dir, "blobs", "{name}");
            assert!(!file.ends_with(".lock"), "{name}");
            if !file.ends_with(".part") {
                let bytes = fs::read(self.home.blobs().join(file)).unwrap();
                assert_eq!(Digest::of(&bytes).hex(), file);
            }
        }
    }
}

/// A cache at an existing or new home, as another process would open it.
pub(crate) fn cache_at(home: &Home) -> ImageCache {
    let store = Store::open(home).unwrap();
    ImageCache::new(home.clone(), Arc::new(Mutex::new(store)))
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub(crate) fn oci(reference: impl Into<String>) -> Image {
    Image { source: ImageSource::Oci(reference.into()), platform: None }
}

pub(crate) fn layout(path: &Path) -> Image {
    Image { source: ImageSource::Dir(path.to_str().unwrap().to_owned()), platform: None }
}

pub(crate) fn archive(path: &Path) -> Image {
    Image { source: ImageSource::Archive(path.to_str().unwrap().to_owned()), platform: None }
}

/// Access over plain HTTP without credentials.
pub(crate) fn insecure(host: &str) -> RegistryAccess {
    let spec = RegistrySpec { insecure: true, ..RegistrySpec::default() };
    RegistryAccess::new(&BTreeMap::from([(host.to_owned(), spec)]), |_| None)
}

/// Access over plain HTTP with a password from the environment.
pub(crate) fn with_password(host: &str, username: &str, password: &str) -> RegistryAccess {
    let spec = RegistrySpec {
        username: Some(username.to_owned()),
        password: Some(SecretFrom::Env("TEST_PASSWORD".to_owned())),
        insecure: true,
    };
    let password = password.to_owned();
    RegistryAccess::new(&BTreeMap::from([(host.to_owned(), spec)]), move |name| {
        (name == "TEST_PASSWORD").then(|| password.clone())
    })
}

/// An error with its sources and help; ports and digests made stable.
pub(crate) fn render(error: &ImageError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text.push_str(&format!("\n  because {inner}"));
        source = inner.source();
    }
    if let Some(help) = error.help() {
        text.push_str(&format!("\n  help: {help}"));
    }
    stable(&text)
}

fn stable(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    loop {
        let port = rest.find("127.0.0.1:").map(|at| (at, "127.0.0.1:", "PORT"));
        let digest = rest.find("sha256:").map(|at| (at, "sha256:", "…"));
        let Some((at, prefix, word)) = port.into_iter().chain(digest).min() else {
            return out + rest;
        };
        out.push_str(&rest[..at]);
        out.push_str(prefix);
        out.push_str(word);
        rest = rest[at + prefix.len()..].trim_start_matches(|c: char| c.is_ascii_hexdigit());
    }
}
