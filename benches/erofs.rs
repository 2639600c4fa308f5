//! Building an image against what cannot be avoided: inflating the layer and hashing what comes out.
//!
//! `cargo bench --bench erofs`. The aim is that `build` costs a fraction of `floor`, so that a pull ends
//! when inflating does; `inflate_then_build` runs both in one thread and should be near their sum.
#![allow(clippy::unwrap_used, reason = "a failed benchmark is what a panic is for")]

use std::io::{Read, Write};
use std::sync::LazyLock;

use divan::Bencher;
use divan::counter::BytesCount;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use msb::image::build::{Layer, build_image};
use msb::image::layer::Limits;
use sha2::{Digest, Sha256};

/// A layer as a distribution's: many small files, some large ones; text that compresses three to one.
static TAR: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut builder = tar::Builder::new(Vec::new());
    let mut state = 1_u32;
    for index in 0..4000_u32 {
        let size = if index % 100 == 0 { 1 << 20 } else { 500 + index % 7 * 1500 };
        let contents: Vec<u8> = (0..size)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                b"etaoin shrdlu_/\n"[usize::try_from(state % 23 % 16).unwrap()]
            })
            .collect();
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::from(size));
        header.set_mode(0o644);
        header.set_mtime(u64::from(index));
        let path = format!("usr/share/package{}/file{index}", index % 200);
        builder.append_data(&mut header, path, contents.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
});

static GZIP: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&TAR).unwrap();
    encoder.finish().unwrap()
});

fn main() {
    divan::main();
}

fn build(reader: impl Read) {
    let layer = Layer { name: "layer".to_owned(), reader };
    build_image([layer], tempfile::tempfile().unwrap(), &Limits::default()).unwrap();
}

/// Inflate and the two hashes of a pull, in one thread and without any file.
#[divan::bench]
fn floor(bencher: Bencher<'_, '_>) {
    let (gzip, size) = (&*GZIP, TAR.len());
    bencher.counter(BytesCount::new(size)).bench(|| {
        let mut decoder = GzDecoder::new(gzip.as_slice());
        let mut hasher = Sha256::new_with_prefix(gzip);
        let mut buffer = vec![0; 256 << 10];
        loop {
            match decoder.read(&mut buffer).unwrap() {
                0 => break hasher.finalize(),
                count => hasher.update(&buffer[..count]),
            }
        }
    });
}

#[divan::bench(name = "build")]
fn build_only(bencher: Bencher<'_, '_>) {
    let tar = &*TAR;
    bencher.counter(BytesCount::new(tar.len())).bench(|| build(tar.as_slice()));
}

#[divan::bench]
fn inflate_then_build(bencher: Bencher<'_, '_>) {
    let (gzip, size) = (&*GZIP, TAR.len());
    bencher.counter(BytesCount::new(size)).bench(|| build(GzDecoder::new(gzip.as_slice())));
}
