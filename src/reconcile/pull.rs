//! The progress of a pull as the progress of a step: phases, and bytes over all layers.

use std::sync::{Mutex, PoisonError};

use crate::image::{Progress as PullProgress, ProgressEvent};

use super::{Progress, ProgressHandle};

/// Adds up the layers of one pull.
#[derive(Debug)]
pub(super) struct Meter {
    handle: ProgressHandle,
    layers: Mutex<Layers>,
}

#[derive(Debug, Default)]
struct Layers {
    /// Size, downloaded and built bytes of each.
    layers: Vec<[u64; 3]>,
    phase: &'static str,
}

impl Meter {
    pub(super) fn new(handle: ProgressHandle) -> Self {
        Self { handle, layers: Mutex::default() }
    }

    /// Tells a phase that has just begun.
    fn phase(&self, phase: &'static str) {
        let mut all = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if all.phase != phase {
            all.phase = phase;
            self.handle.report(Progress::Phase(phase));
        }
    }

    /// Sets the bytes of a layer and tells what they add up to.
    fn set(&self, layer: usize, column: usize, phase: &'static str, bytes: Option<u64>) {
        let mut all = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = all.layers.get_mut(layer) else { return };
        entry[column] = bytes.unwrap_or(entry[0]);
        // Building goes on beside the downloads; the line shows what is behind.
        let total: u64 = all.layers.iter().map(|layer| layer[0]).sum();
        let downloaded: u64 = all.layers.iter().map(|layer| layer[1]).sum();
        if column == 2 && downloaded < total {
            return;
        }
        if all.phase != phase {
            all.phase = phase;
            self.handle.report(Progress::Phase(phase));
        }
        let done = all.layers.iter().map(|layer| layer[column]).sum();
        self.handle.report(Progress::Bytes { done, total: Some(total) });
    }
}

impl PullProgress for Meter {
    fn event(&self, event: ProgressEvent<'_>) {
        match event {
            ProgressEvent::Resolving => self.handle.report(Progress::Phase("resolving")),
            ProgressEvent::Waiting => {
                self.handle.report(Progress::Phase("waiting for another pull"))
            }
            ProgressEvent::Resolved { layers, .. } => {
                let mut all = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
                all.layers = layers.iter().map(|layer| [layer.size_bytes, 0, 0]).collect();
            }
            ProgressEvent::Downloading { layer, bytes } => {
                self.set(layer, 1, "pulling", Some(bytes));
            }
            ProgressEvent::Downloaded { layer } => self.set(layer, 1, "pulling", None),
            ProgressEvent::Building { layer, bytes } => self.set(layer, 2, "building", Some(bytes)),
            ProgressEvent::Reading { bytes, total } => {
                self.phase("building");
                self.handle.report(Progress::Bytes { done: bytes, total: Some(total) });
            }
            ProgressEvent::Built { layer } => self.set(layer, 2, "building", None),
            ProgressEvent::Retrying { .. } => self.handle.report(Progress::Phase("retrying")),
            ProgressEvent::Done { .. } => {}
        }
    }
}
