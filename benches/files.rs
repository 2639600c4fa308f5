//! The file server without a guest: what its process and its jail cost, in bytes over its stream.
//!
//! `cargo bench --bench files`. Over a guest's port everything is slower; what is seen here is the floor.
#![allow(clippy::unwrap_used, reason = "a failed benchmark is what a panic is for")]
#![allow(clippy::disallowed_methods, reason = "benchmarks read files and start programs")]
#![allow(dead_code, reason = "a guest of tests can do more")]

#[path = "../tests/it/files/client.rs"]
mod client;

use std::sync::{LazyLock, Mutex};

use client::*;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

const FILES: usize = 1000;
const LARGE: u64 = 64 << 20;
const IO: u32 = 128 << 10;

/// A directory of empty files and a large one, and who looks at it.
struct Bench {
    client: Client,
    root: u64,
    _dir: tempfile::TempDir,
}

static BENCH: LazyLock<Mutex<Bench>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..FILES {
        std::fs::write(dir.path().join(number.to_string()), "").unwrap();
    }
    std::fs::write(dir.path().join("large"), vec![7; usize::try_from(LARGE).unwrap()]).unwrap();
    std::fs::create_dir(dir.path().join("new")).unwrap();
    let mut client = Client::start(vec![files(dir.path())]);
    let root = client.share(0);
    Mutex::new(Bench { client, root, _dir: dir })
});

fn main() {
    divan::main();
}

/// One file after the other, as a program that waits for each.
#[divan::bench]
fn lookup(bencher: Bencher) {
    let mut bench = BENCH.lock().unwrap();
    let root = bench.root;
    bencher.counter(ItemsCount::new(FILES)).bench_local(|| {
        for number in 0..FILES {
            bench.client.lookup(root, number.to_string()).unwrap();
        }
    });
}

/// Many at a time, as several programs.
#[divan::bench]
fn lookup_together(bencher: Bencher) {
    let mut bench = BENCH.lock().unwrap();
    let root = bench.root;
    bencher.counter(ItemsCount::new(FILES)).bench_local(|| {
        for number in 0..FILES {
            let body = Body::default().name(number.to_string());
            bench.client.ask(LOOKUP, root, &body.0);
        }
        for _ in 0..FILES {
            bench.client.receive().unwrap().1.unwrap();
        }
    });
}

#[divan::bench]
fn getattr(bencher: Bencher) {
    let mut bench = BENCH.lock().unwrap();
    let root = bench.root;
    bencher.counter(ItemsCount::new(FILES)).bench_local(|| {
        for _ in 0..FILES {
            bench.client.getattr(root).unwrap();
        }
    });
}

#[divan::bench]
fn list_with_attributes(bencher: Bencher) {
    let mut bench = BENCH.lock().unwrap();
    let root = bench.root;
    bencher.counter(ItemsCount::new(FILES)).bench_local(|| {
        assert!(bench.client.list(READDIRPLUS, root).unwrap().len() >= FILES);
    });
}

#[divan::bench]
fn create_write_remove(bencher: Bencher) {
    let mut bench = BENCH.lock().unwrap();
    let root = bench.root;
    let dir = bench.client.lookup(root, "new").unwrap().node;
    bencher.counter(ItemsCount::new(FILES)).bench_local(|| {
        for number in 0..FILES {
            let name = number.to_string();
            let (attr, handle) = bench.client.create(dir, &name, libc::O_WRONLY, 0o644).unwrap();
            bench.client.write(attr.node, handle, 0, b"content").unwrap();
            bench.client.release(RELEASE, attr.node, handle).unwrap();
            bench.client.remove(UNLINK, dir, &name).unwrap();
        }
    });
}

#[divan::bench]
fn read(bencher: Bencher) {
    let mut bench = BENCH.lock().unwrap();
    let root = bench.root;
    let file = bench.client.lookup(root, "large").unwrap().node;
    let handle = bench.client.open(file, libc::O_RDONLY).unwrap();
    bencher.counter(BytesCount::new(LARGE)).bench_local(|| {
        for offset in (0..LARGE).step_by(IO as usize) {
            bench.client.read(file, handle, offset, IO).unwrap();
        }
    });
}

/// As a kernel reads ahead.
#[divan::bench]
fn read_ahead(bencher: Bencher) {
    let mut bench = BENCH.lock().unwrap();
    let root = bench.root;
    let file = bench.client.lookup(root, "large").unwrap().node;
    let handle = bench.client.open(file, libc::O_RDONLY).unwrap();
    bencher.counter(BytesCount::new(LARGE)).bench_local(|| {
        let mut waiting = 0;
        for offset in (0..LARGE).step_by(IO as usize) {
            bench.client.ask(READ, file, &read_body(handle, offset, IO));
            waiting += 1;
            if waiting > 8 {
                bench.client.receive().unwrap().1.unwrap();
                waiting -= 1;
            }
        }
        for _ in 0..waiting {
            bench.client.receive().unwrap().1.unwrap();
        }
    });
}

#[divan::bench]
fn write(bencher: Bencher) {
    let mut bench = BENCH.lock().unwrap();
    let root = bench.root;
    let file = bench.client.lookup(root, "large").unwrap().node;
    let handle = bench.client.open(file, libc::O_WRONLY).unwrap();
    let data = vec![7; IO as usize];
    bencher.counter(BytesCount::new(LARGE)).bench_local(|| {
        for offset in (0..LARGE).step_by(IO as usize) {
            bench.client.write(file, handle, offset, &data).unwrap();
        }
    });
}
