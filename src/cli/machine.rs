//! What boots guests here, or how to get it.

use crate::home::Home;
use crate::reconcile::BootParts;
use crate::runtime::{self, DriverChoice};

use super::error::{CliError, Exit};

/// The driver that the user wants, checked.
pub(crate) fn choice(driver: Option<&str>) -> Result<DriverChoice, CliError> {
    match driver {
        None => Ok(DriverChoice::Auto),
        Some(text) => text.parse().map_err(|error: runtime::InvalidDriver| {
            CliError::new(Exit::Usage, error).hint("`msb doctor` says what works on this machine")
        }),
    }
}

/// The driver, the kernel and the boot disk; what is missing is an error that says how to get it.
pub(crate) fn machine(home: &Home, driver: Option<&str>) -> Result<BootParts, CliError> {
    let driver = runtime::driver(choice(driver)?, home)?;
    Ok(BootParts { driver: driver.name(), kernel: Default::default(), boot_disk: None })
}
