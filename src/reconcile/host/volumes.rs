//! Steps about volumes.

use std::collections::BTreeMap;

use crate::plan::{Action, Step};
use crate::spec::{ByteSize, MountSource, Name, SandboxSpec, VolumeSpec};
use crate::store::{Durability, Store, VolumeRow, now_ms};
use crate::supervisor::VolumePlace;

use super::super::volumes::{
    VolumeError, check_unused, growth_notice, lengthen, remove, update, volume_path, write_row,
};
use super::super::{HostError, StepOutput, crash_point};
use super::{RealHost, StepError};

impl RealHost {
    pub(super) fn volume(&self, step: &Step, name: &Name) -> Result<StepOutput, HostError> {
        let store = self.lock();
        let found = store.volume(Some(self.project.as_str()), name.as_str());
        let found = found.map_err(HostError::failed)?;
        let done = match &step.action {
            Action::CreateVolume { spec } => match found {
                Some(_) => return Ok(StepOutput::ALREADY),
                None => write_row(&store, &self.new_volume(step, name, spec)?),
            },
            Action::RemoveVolume => match found {
                Some(row) => removed(&store, &row),
                None => return Ok(StepOutput::ALREADY),
            },
            action => {
                let row = found.ok_or_else(|| gone(name))?;
                match action {
                    Action::UpdateVolume { spec } => {
                        let (labels, protect) = (spec.labels.clone(), spec.protect);
                        let origin_file = origin_file(step).or(row.origin_file);
                        update(&store, &VolumeRow { labels, protect, origin_file, ..row })
                    }
                    _ => return Err(HostError::failed(StepError::Unsupported("this step"))),
                }
            }
        };
        done.map_err(HostError::failed)?;
        Ok(StepOutput::default())
    }

    /// Makes the disk of a volume longer, and has sandboxes that run with it see that.
    pub(super) async fn grow_volume(
        &self,
        name: &Name,
        size: ByteSize,
    ) -> Result<StepOutput, HostError> {
        let lengthened = {
            let store = self.lock();
            let found = store.volume(Some(self.project.as_str()), name.as_str());
            let row = found.map_err(HostError::failed)?.ok_or_else(|| gone(name))?;
            lengthen(&store, &row, size)
        };
        let growing = lengthened.map_err(HostError::failed)?;
        let told = growing.tell().await;
        growing.record(&self.lock()).map_err(HostError::failed)?;
        Ok(StepOutput { already: false, notice: growth_notice(&told) })
    }

    fn new_volume(
        &self,
        step: &Step,
        name: &Name,
        spec: &VolumeSpec,
    ) -> Result<VolumeRow, HostError> {
        Ok(VolumeRow {
            id: self.begun_id(step)?,
            project: Some(self.project.to_string()),
            name: name.to_string(),
            kind: spec.kind,
            quota_bytes: spec.size().map(ByteSize::bytes),
            labels: spec.labels.clone(),
            protect: spec.protect,
            origin_file: origin_file(step),
            created_ms: now_ms(),
        })
    }

    /// Where the volumes are that `spec` mounts.
    pub(super) fn volume_places(
        &self,
        spec: &SandboxSpec,
    ) -> Result<BTreeMap<Name, VolumePlace>, HostError> {
        let mut places = BTreeMap::new();
        for mount in spec.volumes.values() {
            let MountSource::Named { volume, external } = &mount.source else { continue };
            let store = self.lock();
            let row = if *external {
                store.volume(None, volume.local().as_str())
            } else {
                store.volume(Some(self.project.as_str()), volume.as_str())
            };
            let row = row.map_err(HostError::failed)?.ok_or_else(|| gone(volume))?;
            let path = volume_path(store.home(), &row);
            if !path.exists() {
                let error = StepError::VolumeLost { volume: row.title(), path };
                return Err(HostError::failed(error));
            }
            places.insert(volume.clone(), VolumePlace { kind: row.kind, path });
        }
        Ok(places)
    }
}

fn gone(name: &Name) -> HostError {
    HostError::failed(StepError::NoVolume(name.clone()))
}

fn origin_file(step: &Step) -> Option<String> {
    step.origin.as_ref().map(|origin| origin.file.to_string())
}

fn removed(store: &Store, row: &VolumeRow) -> Result<(), VolumeError> {
    check_unused(store, row)?;
    store.write(Durability::Synced, |w| w.remove_volume(&row.id))?;
    crash_point("volume-after-row");
    Ok(remove(store.home(), &row.id)?)
}
