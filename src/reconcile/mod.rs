//! Observes a machine, executes plans on it.
//!
//! [`Host`] is the machine: `FakeHost` in memory for tests, the real one in the product. A plan is
//! executed by [`execute`], which has no opinion about desired state: it starts every step as soon
//! as those it needs have succeeded, skips the dependents of a failed one, and collects all errors.
#![allow(clippy::disallowed_methods, reason = "reconcile acts on the machine")]

mod adopt;
mod execute;
#[cfg(any(test, feature = "test-support"))]
mod fake;
mod host;
mod host_trait;
mod journal;
mod known;
mod observe;
mod one_off;
#[cfg(test)]
mod properties;
mod pull;
mod record;
mod report;
mod volumes;

pub use adopt::{AdoptError, Adopted, adopt, is_lost};
pub use execute::{ExecuteOptions, Outcome, StepState, execute};
#[cfg(any(test, feature = "test-support"))]
pub use fake::{FakeHost, FakeSandbox, Machine};
pub use host::{BootParts, RealHost};
pub use host_trait::{Host, HostError, Progress, ProgressHandle, StepOutput};
pub use known::known_images;
pub use observe::{ObserveError, observe, rows};
pub use one_off::{ONE_OFF, is_one_off};
pub use report::{Event, Reporter, Silent};
pub use volumes::{
    FileError as VolumeFileError, NewVolume, VolumeError, VolumeGrowth, VolumeInfo, VolumeUser,
    create_volume, grow_volume, growth_notice, list_volumes, prunable_volumes, remove_volume,
    volume_path,
};

/// Where tests have the process killed.
fn crash_point(name: &'static str) {
    fail::fail_point!(name, |_| {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    });
    let _ = name;
}
