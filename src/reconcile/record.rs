//! Reading the record that a sandbox's or a volume's directory has of its row.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

/// Longer than the record of anything that a Sandboxfile can declare.
const MAX: u64 = 16 << 20;

/// The record in the file `path`; `None` where there is none that makes sense.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}
