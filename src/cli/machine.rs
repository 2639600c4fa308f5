//! What boots guests here, or how to get it.

use crate::home::Home;
use crate::reconcile::BootParts;
use crate::rootfs;
use crate::runtime::{self, Chosen, Driver, DriverChoice, IncompleteJail, Kernel, setup};

use super::args::Machine;
use super::error::{CliError, Exit};
use super::ui::Ui;

/// The driver, the kernel and the boot disk; what is missing is an error that says how to get it.
pub(crate) fn machine(ui: &Ui, home: &Home, args: &Machine) -> Result<BootParts, CliError> {
    let Machine { driver: choice, require_jail } = *args;
    home.create()?;
    let Chosen { driver, fallback } = runtime::driver(choice, home)?;
    if let Some(reason) = fallback {
        ui.say(&format!("using the {} driver: {reason}", driver.name()));
    }
    if is_local(choice) {
        let kernel = Kernel::default();
        return Ok(BootParts { driver: driver.name(), kernel, boot_disk: None, require_jail });
    }
    if require_jail {
        whole_jail(&*driver)?;
    }
    let kernel = setup::kernel(home)?;
    let boot_disk = Some(rootfs::boot_disk(home)?);
    Ok(BootParts { driver: driver.name(), kernel, boot_disk, require_jail })
}

/// A layer that is missing is told before anything is stopped, not only by the supervisor that
/// then refuses.
fn whole_jail(driver: &dyn Driver) -> Result<(), CliError> {
    let report = runtime::jail::trial(driver).map_err(|error| {
        CliError::message(Exit::RuntimeMissing, format!("the jail cannot be tried: {error}"))
    })?;
    if report.missing().next().is_none() {
        return Ok(());
    }
    Err(CliError::new(Exit::RuntimeMissing, IncompleteJail(report)))
}

#[cfg(feature = "test-support")]
fn is_local(choice: DriverChoice) -> bool {
    choice == DriverChoice::Local
}

#[cfg(not(feature = "test-support"))]
const fn is_local(_: DriverChoice) -> bool {
    false
}
