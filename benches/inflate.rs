//! The least that a pull takes: every layer inflated and hashed twice, compressed and not, a layer per
//! processor, and nothing written. Prints the time in seconds. Usage: inflate LAYER…

#![allow(clippy::disallowed_methods, reason = "it reads layers")]
#![allow(clippy::print_stdout, reason = "the time is its answer")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Mutex;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Instant;

use sha2::{Digest as _, Sha256};

const CHUNK_BYTES: usize = 256 << 10;
const QUEUE: usize = 8;

fn main() -> io::Result<()> {
    let layers: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let processors = std::thread::available_parallelism()?.get();
    let begun = Instant::now();
    let left = Mutex::new(layers.into_iter());
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let Some(path) = left.lock().ok().and_then(|mut left| left.next()) else {
                    return Ok::<_, io::Error>(());
                };
                inflate(&path)?;
            }
        };
        let threads: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_| io::Error::other("a thread ended early"))?
        })
    })?;
    writeln!(io::stdout(), "{:.4}", begun.elapsed().as_secs_f64())
}

fn inflate(path: &str) -> io::Result<()> {
    let (to_hash, chunks) = sync_channel::<Vec<u8>>(QUEUE);
    let hash = std::thread::spawn(move || {
        let mut hasher = Sha256::new();
        chunks.iter().for_each(|chunk| hasher.update(&chunk));
        hasher.finalize()
    });
    let file = Hashed { file: File::open(path)?, hasher: Sha256::new() };
    send(flate2::read::MultiGzDecoder::new(file), &to_hash)?;
    drop(to_hash);
    hash.join().map(drop).map_err(|_| io::Error::other("a thread ended early"))
}

fn send(mut decoder: impl Read, to: &SyncSender<Vec<u8>>) -> io::Result<()> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        (&mut decoder).take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            return Ok(());
        }
        to.send(chunk).map_err(|_| io::Error::other("a thread ended early"))?;
    }
}

struct Hashed {
    file: File,
    hasher: Sha256,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
