//! Layers to images: against a model of layering, against other tools, and with hostile archives.

mod formats;
mod hostile;
mod merging;
mod model;
mod tarball;
mod umoci;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use msb::image::build::{BuildReport, Layer, build_image};
use msb::image::erofs::reader::{Image, Stat};
use msb::image::layer::{LayerError, Limits};

/// An image with everything that is in it.
struct Built {
    file: tempfile::NamedTempFile,
    report: BuildReport,
    image: Image,
    found: BTreeMap<Vec<u8>, Stat>,
}

/// Builds from archives, **bottom layer first** as one would write them down.
fn try_build(layers: &[Vec<u8>], limits: &Limits) -> Result<Built, LayerError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let layers = layers
        .iter()
        .enumerate()
        .rev()
        .map(|(index, bytes)| Layer { name: format!("layer{index}"), reader: bytes.as_slice() });
    let report = build_image(layers, file.reopen().unwrap(), limits)?;
    let image = Image::open(file.reopen().unwrap()).unwrap();
    let found = image.walk().unwrap();
    Ok(Built { file, report, image, found })
}

fn build(layers: &[Vec<u8>]) -> Built {
    let built = try_build(layers, &Limits::default()).unwrap();
    fsck(built.file.path());
    built
}

impl Built {
    fn at(&self, path: &str) -> &Stat {
        match self.found.get(path.as_bytes()) {
            Some(stat) => stat,
            None => panic!("no {path} in {:?}", self.paths()),
        }
    }

    /// Contents as text.
    fn text(&self, path: &str) -> String {
        String::from_utf8(self.image.contents(self.at(path)).unwrap()).unwrap()
    }

    fn paths(&self) -> Vec<String> {
        let paths = self.found.keys().filter(|path| !path.is_empty());
        paths.map(|path| String::from_utf8_lossy(path).into_owned()).collect()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.report.size_bytes).unwrap()];
        self.file.as_file().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

/// The reference checker, which also reads all contents.
fn fsck(image: &Path) {
    let output = run("fsck.erofs", "erofs-utils", &["--extract", image.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a program that `package` brings.
fn run(program: &str, package: &str, args: &[&str]) -> Output {
    match Command::new(program).args(args).output() {
        Ok(output) => output,
        Err(error) => panic!("{program}: {error} (apt-get install {package})"),
    }
}

/// Runs a program that must succeed.
fn must(program: &str, package: &str, args: &[&str]) {
    let output = run(program, package, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// A file that can be read through again and again.
fn open(path: &Path) -> File {
    File::open(path).unwrap()
}
