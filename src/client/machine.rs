//! What runs microVMs here, or how to get it.

use std::path::{Path, PathBuf};

use crate::home::{Home, HomeError};
use crate::reconcile::BootParts;
use crate::rootfs::{self, DiskError};
use crate::runtime::setup::{self, SetupError};
use crate::runtime::{self, DriverChoice, IncompleteJail, Kernel, Unavailable};

/// Why sandboxes cannot be run here. Each says what is missing; `msb doctor` says more.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The state directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// No driver works.
    #[error(transparent)]
    Driver(#[from] Unavailable),
    /// The guest's kernel: `msb setup` or [`super::install`] provides it.
    #[error(transparent)]
    Kernel(#[from] SetupError),
    /// The boot disk could not be made.
    #[error(transparent)]
    BootDisk(#[from] DiskError),
    /// A layer of the jail is missing, and a whole one is required.
    #[error(transparent)]
    Jail(#[from] IncompleteJail),
    /// The jail could not be tried.
    #[error("the jail cannot be tried")]
    Trial(#[source] std::io::Error),
    /// The program that runs supervisors.
    #[error("there is no `msb` in PATH: install it, or say where it is in MSB_EXECUTABLE")]
    Executable,
}

/// What boots guests by the driver that `choice` means, and why that is not the better one.
pub(crate) fn boot_parts(
    home: &Home,
    choice: DriverChoice,
    require_jail: bool,
    executable: Option<PathBuf>,
) -> Result<(BootParts, Option<String>), MachineError> {
    home.create()?;
    let runtime::Chosen { driver, fallback } = runtime::driver(choice, home)?;
    if is_local(choice) {
        let parts = BootParts {
            driver: driver.name(),
            kernel: Kernel::default(),
            boot_disk: None,
            require_jail,
            executable,
        };
        return Ok((parts, fallback));
    }
    // A layer that is missing is told before anything is stopped, not only by the supervisor that
    // then refuses.
    if require_jail {
        let report = runtime::jail::trial(&*driver).map_err(MachineError::Trial)?;
        if report.missing().next().is_some() {
            return Err(IncompleteJail(report).into());
        }
    }
    let kernel = setup::kernel(home)?;
    let boot_disk = Some(rootfs::boot_disk(home)?);
    let parts = BootParts { driver: driver.name(), kernel, boot_disk, require_jail, executable };
    Ok((parts, fallback))
}

#[cfg(feature = "test-support")]
fn is_local(choice: DriverChoice) -> bool {
    choice == DriverChoice::Local
}

#[cfg(not(feature = "test-support"))]
const fn is_local(_: DriverChoice) -> bool {
    false
}

/// The `msb` that runs supervisors: what `MSB_EXECUTABLE` says, else the first in `PATH`.
pub(super) fn executable() -> Option<PathBuf> {
    let said = std::env::var_os("MSB_EXECUTABLE").filter(|path| !path.is_empty());
    if let Some(path) = said {
        return Some(PathBuf::from(path)).filter(|path| is_executable(path));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("msb")).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.is_absolute() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}
