//! Wall time of finding an image on this machine, as every `up` does: one row, one stat. The store
//! has a hundred images; whoever opens it first pays for that too.

#![allow(clippy::disallowed_methods, reason = "it measures finding files")]

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex};

use msb::home::Home;
use msb::image::{Digest, ImageCache, ImageRows as _, SourceKey};
use msb::spec::{Image, ImageSource};
use msb::store::{ImageDocuments, ImageRow, Store};

const IMAGES: u32 = 100;
const FILE_BYTES: u64 = 4096;

fn main() {
    divan::main();
}

fn image(number: u32) -> Image {
    let reference = format!("registry.example.com/team/app{number:03}:1.2");
    Image { source: ImageSource::Oci(reference), platform: None }
}

/// A home with a hundred images that were pulled.
fn world() -> (tempfile::TempDir, Home) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let home = Home::at(dir.path().join("home"));
    let store = Mutex::new(Store::open(&home).expect("a new store"));
    let names: BTreeMap<u32, Digest> =
        (0..IMAGES).map(|number| (number, Digest::of(&number.to_le_bytes()))).collect();
    for (number, digest) in names {
        let ImageSource::Oci(reference) = image(number).source else { continue };
        let key = SourceKey { reference, platform: platform() };
        let config_json = CONFIG.to_owned();
        let row = ImageRow { digest: digest.to_string(), config_json, size_bytes: FILE_BYTES };
        let documents = ImageDocuments { manifest: Vec::new(), config: Vec::new() };
        store.put(Some(&key), &row, Some(&documents)).expect("a row");
        let file = home.erofs().join(format!("{}.v1.erofs", digest.hex()));
        File::create(&file).and_then(|file| file.set_len(FILE_BYTES)).expect("an image file");
    }
    (dir, home)
}

fn platform() -> String {
    msb::image::Platform::host().to_string()
}

const CONFIG: &str = r#"{"entrypoint":["/entry"],"cmd":["serve","--port","8080"],
"env":{"PATH":"/usr/local/bin:/usr/bin:/bin","LANG":"C.UTF-8"},"workdir":"/srv","user":"app"}"#;

fn cache_at(home: &Home) -> ImageCache {
    let store = Store::open_read_only(home).expect("a readable store").expect("a store");
    ImageCache::new(home.clone(), Arc::new(Mutex::new(store)))
}

/// One image, the store being open.
#[divan::bench]
fn cached(bencher: divan::Bencher<'_, '_>) {
    let (_dir, home) = world();
    let cache = cache_at(&home);
    let image = image(50);
    bencher.bench_local(|| cache.cached(&image).expect("an answer").expect("an image"));
}

/// One image in a process that has just begun: the store is opened for it.
#[divan::bench]
fn open_and_cached(bencher: divan::Bencher<'_, '_>) {
    let (_dir, home) = world();
    let image = image(50);
    bencher.bench_local(|| cache_at(&home).cached(&image).expect("an answer").expect("an image"));
}

/// All hundred, the store being open.
#[divan::bench]
fn cached_all(bencher: divan::Bencher<'_, '_>) {
    let (_dir, home) = world();
    let cache = cache_at(&home);
    let images: Vec<_> = (0..IMAGES).map(image).collect();
    bencher.bench_local(|| {
        for image in &images {
            cache.cached(image).expect("an answer").expect("an image");
        }
    });
}
