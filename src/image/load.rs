//! Images from an archive or a layout directory into the cache, under the names that they have
//! there.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cache::{ImageCache, ImageRecord};
use super::error::{ImageError, Reason};
use super::local::{self, Named};
use super::platform::Platform;
use super::progress::Progress;
use super::pull;
use super::reference::ImageRef;
use super::rows::SourceKey;

/// What images are loaded from.
#[derive(Clone, Debug)]
pub enum LoadSource {
    /// A layout directory or an archive, which may be compressed; `#tag` behind it chooses one of
    /// several images.
    Path(String),
    /// An archive on standard input, which may be compressed.
    Stdin,
}

/// An image that has been loaded.
#[derive(Clone, Debug)]
pub struct LoadedImage {
    /// The image.
    pub record: ImageRecord,
    /// What names it here; none where the archive says nothing.
    pub name: Option<ImageRef>,
}

impl ImageCache {
    /// Makes all images of `source` for `platform` (of this machine where `None`) exist. With a
    /// `name`, there must be one image, which gets it.
    ///
    /// Ends at the first image that cannot be had; those before it stay.
    pub async fn load(
        &self,
        source: &LoadSource,
        name: Option<&ImageRef>,
        platform: Option<&Platform>,
        progress: Arc<dyn Progress>,
    ) -> Result<Vec<LoadedImage>, ImageError> {
        let label = match source {
            LoadSource::Path(text) => text.clone(),
            LoadSource::Stdin => "of standard input".to_owned(),
        };
        let fail = |reason| ImageError::new(&label, reason);
        let found = self.open(source).map_err(fail)?;
        if let (Some(_), [_, _, ..]) = (name, &found[..]) {
            let available: Vec<String> = found.into_iter().map(|named| named.label).collect();
            let problem = "it holds several images, and one name was given".to_owned();
            let path = PathBuf::from(&label);
            return Err(fail(Reason::Selection { path, problem, available }));
        }
        let wanted = platform.cloned().unwrap_or_else(Platform::host);
        let mut loaded = Vec::new();
        for Named { label, reference, image } in found {
            let name = name.cloned().or(reference);
            let key = name.as_ref().map(|name| SourceKey {
                reference: name.to_string(),
                platform: wanted.to_string(),
            });
            let taken = pull::take(self, &image, &wanted, key.as_ref(), true, &progress).await;
            let record = taken.map_err(|reason| ImageError::new(&label, reason))?;
            loaded.push(LoadedImage { record, name });
        }
        Ok(loaded)
    }

    fn open(&self, source: &LoadSource) -> Result<Vec<Named>, Reason> {
        let text = match source {
            LoadSource::Stdin => {
                let path = Path::new("standard input");
                let mut stdin = io::stdin().lock();
                let spooled = self.spool(path, &mut stdin)?;
                // What came may be compressed, which only its first bytes tell.
                let spooled = self.plain(path, spooled)?;
                return local::in_archive_file(path, spooled, None, &self.limits);
            }
            LoadSource::Path(text) => text,
        };
        let (path, tag) = local::split_tag(text);
        if path.is_dir() {
            return local::all_in_dir(path, tag, &self.limits);
        }
        let file = local::open_archive(path)?;
        let file = self.plain(path, file)?;
        local::in_archive_file(path, file, tag, &self.limits)
    }

    /// The archive, uncompressed in a file without a name where it was compressed.
    fn plain(&self, path: &Path, mut file: File) -> Result<File, Reason> {
        let read = |source| Reason::File { what: "cannot be read", path: path.to_owned(), source };
        let mut magic = [0; 4];
        let got = std::os::unix::fs::FileExt::read_at(&file, &mut magic, 0).map_err(read)?;
        file.rewind().map_err(read)?;
        match &magic[..got] {
            [0x1f, 0x8b, ..] => self.spool(path, &mut flate2::read::MultiGzDecoder::new(file)),
            [0x28, 0xb5, 0x2f, 0xfd] => {
                let mut decoder = zstd::stream::read::Decoder::new(file).map_err(read)?;
                self.spool(path, &mut decoder)
            }
            _ => Ok(file),
        }
    }

    /// Copies everything into a file without a name, which goes with this process.
    fn spool(&self, path: &Path, from: &mut impl Read) -> Result<File, Reason> {
        let dir = self.home.tmp();
        let made = |source| Reason::File { what: "cannot be written", path: dir.clone(), source };
        let mut file = tempfile::tempfile_in(&dir).map_err(made)?;
        let limit_bytes = self.limits.unpacked_bytes;
        let mut buffer = vec![0; 256 << 10];
        let mut len = 0;
        loop {
            let got = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    let path = path.to_owned();
                    return Err(Reason::File { what: "cannot be read", path, source });
                }
            };
            len += got as u64;
            if len > limit_bytes {
                let (what, whose) = (path.display().to_string(), "the most that is accepted");
                return Err(Reason::TooLarge { what, limit_bytes, whose });
            }
            file.write_all(&buffer[..got]).map_err(made)?;
        }
        file.rewind().map_err(made)?;
        Ok(file)
    }
}
