//! What images are, as far as this machine knows: the planner's input.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::FutureExt;

use crate::image::{ImageCache, ImageError, RegistryAccess};
use crate::plan::DesiredImage;
use crate::spec::{Image, ImageSource, Name, Project};

/// What the images of the selected sandboxes are; each image is looked up once.
pub fn known_images(
    project: &Project,
    selected: &BTreeSet<Name>,
    cache: &ImageCache,
    resolved: &[(Image, String)],
) -> Result<BTreeMap<Name, DesiredImage>, ImageError> {
    let mut seen: Vec<(&Image, DesiredImage)> = Vec::new();
    let mut images = BTreeMap::new();
    for name in selected {
        let Some(spec) = project.sandboxes.get(name) else { continue };
        let known = seen.iter().find(|(image, _)| **image == spec.image);
        let found = match known {
            Some((_, found)) => found.clone(),
            None => {
                let found = known_image(&spec.image, cache, resolved)?;
                seen.push((&spec.image, found.clone()));
                found
            }
        };
        images.insert(name.clone(), found);
    }
    Ok(images)
}

fn known_image(
    image: &Image,
    cache: &ImageCache,
    resolved: &[(Image, String)],
) -> Result<DesiredImage, ImageError> {
    if let Some((_, digest)) = resolved.iter().find(|(other, _)| other == image) {
        let digest = digest.clone();
        return Ok(match cache.by_digest(&digest)? {
            Some(_) => DesiredImage::Known { digest },
            None => DesiredImage::Remote { digest },
        });
    }
    if let Some(record) = cache.cached(image)? {
        return Ok(DesiredImage::Known { digest: record.digest });
    }
    if matches!(image.source, ImageSource::Oci(_)) {
        return Ok(DesiredImage::Missing);
    }
    // A layout or an archive is read from files, which answer at once.
    match cache.resolve(image, &RegistryAccess::anonymous()).now_or_never() {
        Some(digest) => Ok(DesiredImage::Remote { digest: digest? }),
        None => Ok(DesiredImage::Missing),
    }
}
