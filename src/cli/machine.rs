//! What boots guests here, or how to get it.

use crate::home::Home;
use crate::reconcile::BootParts;
use crate::rootfs;
use crate::runtime::{self, Chosen, DriverChoice, Kernel, setup};

use super::args::Machine;
use super::error::{CliError, Exit};
use super::ui::Ui;

/// The driver that the user wants, checked.
pub(crate) fn choice(driver: Option<&str>) -> Result<DriverChoice, CliError> {
    match driver.filter(|text| !text.is_empty()) {
        None => Ok(DriverChoice::Auto),
        Some(text) => text.parse().map_err(|error: runtime::InvalidDriver| {
            CliError::new(Exit::Usage, error).hint("`msb doctor` says what works on this machine")
        }),
    }
}

/// The driver, the kernel and the boot disk; what is missing is an error that says how to get it.
pub(crate) fn machine(ui: &Ui, home: &Home, args: &Machine) -> Result<BootParts, CliError> {
    let choice = choice(args.driver.as_deref())?;
    let require_jail = args.require_jail;
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
