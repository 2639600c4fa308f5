//! What boots guests here, or how to get it.

use crate::home::Home;
use crate::reconcile::BootParts;
use crate::rootfs;
use crate::runtime::{self, Chosen, DriverChoice, Kernel, setup};

use super::args::Machine;
use super::error::CliError;
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
    let kernel = setup::kernel(home)?;
    let boot_disk = Some(rootfs::boot_disk(home)?);
    Ok(BootParts { driver: driver.name(), kernel, boot_disk, require_jail })
}

#[cfg(feature = "test-support")]
fn is_local(choice: DriverChoice) -> bool {
    choice == DriverChoice::Local
}

#[cfg(not(feature = "test-support"))]
const fn is_local(_: DriverChoice) -> bool {
    false
}
