//! The layers of patches that sandboxes need.

use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};

use crate::image::ImageRecord;
use crate::plan::{Action, Plan};
use crate::rootfs::patch::{self, Base, LayerError};
use crate::spec::{Image, Name, ResourceId, SandboxSpec};
use crate::store::now_ms;

use super::super::{HostError, Progress, ProgressHandle};
use super::RealHost;

impl RealHost {
    /// Gives the layer of the sandbox's patches, where it has any, the name `to`.
    pub(super) fn link_patches(
        &self,
        name: &Name,
        spec: &SandboxSpec,
        image: &ImageRecord,
        to: &Path,
    ) -> Result<(), HostError> {
        if spec.patches.is_empty() {
            return Ok(());
        }
        let root = Path::new(&self.root);
        let base = Base { record: image, image: &spec.image };
        let linked = patch::link(&self.home, base, root, &spec.patches, now_secs(), to);
        linked.map_err(|error| patch_error(name, error))
    }

    /// Makes the layer of the sandbox's patches, where it has any, beside whatever else is done.
    pub(super) async fn make_layer(
        &self,
        name: &Name,
        spec: &SandboxSpec,
        image: &ImageRecord,
        progress: Option<&ProgressHandle>,
    ) -> Result<(), HostError> {
        if spec.patches.is_empty() {
            return Ok(());
        }
        if let Some(progress) = progress {
            progress.report(Progress::Phase("patching"));
        }
        let (home, root) = (self.home.clone(), PathBuf::from(&self.root));
        let (record, image) = (image.clone(), spec.image.clone());
        let patches = spec.patches.clone();
        let make = move || {
            let base = Base { record: &record, image: &image };
            patch::ensure(&home, base, &root, &patches, now_secs())
        };
        let made = tokio::task::spawn_blocking(make).await.map_err(HostError::failed)?;
        made.map(drop).map_err(|error| patch_error(name, error))
    }

    /// Makes the patch layers that `plan` needs of images that are here, so that a patch that cannot
    /// be applied is known before anything is changed. Those of other images are made when these have
    /// been pulled; a sandbox that is replaced is stopped after that.
    pub async fn make_layers(&self, plan: &Plan) -> Vec<HostError> {
        let mut wrong = Vec::new();
        for step in &plan.steps {
            let Action::CreateSandbox { spec, image_digest, .. } = &step.action else { continue };
            let ResourceId::Sandbox(name) = &step.resource else { continue };
            if spec.patches.is_empty() {
                continue;
            }
            let digest = image_digest.as_deref().unwrap_or_default();
            let Ok(Some(image)) = self.stored(&spec.image, digest) else {
                self.unpatched().push((name.clone(), spec.share()));
                continue;
            };
            wrong.extend(self.make_layer(name, spec, &image, None).await.err());
        }
        wrong
    }

    /// Makes the layers that wait for an image, which is here.
    pub(super) async fn make_layers_of(
        &self,
        image: &Image,
        record: &ImageRecord,
        progress: &ProgressHandle,
    ) -> Result<(), HostError> {
        let waiting: Vec<_> =
            self.unpatched().extract_if(.., |(_, spec)| spec.image == *image).collect();
        for (name, spec) in waiting {
            self.make_layer(&name, &spec, record, Some(progress)).await?;
        }
        Ok(())
    }

    fn unpatched(&self) -> MutexGuard<'_, Vec<(Name, Arc<SandboxSpec>)>> {
        self.unpatched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn patch_error(sandbox: &Name, error: LayerError) -> HostError {
    match error {
        LayerError::Patch(source) => HostError::Patch { sandbox: sandbox.clone(), source },
        other => HostError::failed(other),
    }
}

fn now_secs() -> i64 {
    now_ms() / 1000
}
