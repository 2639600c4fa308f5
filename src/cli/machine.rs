//! What boots guests here, or how to get it.

use crate::client::{self, MachineError};
use crate::home::Home;
use crate::reconcile::BootParts;

use super::args::Machine;
use super::error::{CliError, Exit};
use super::ui::Ui;

/// The driver, the kernel and the boot disk; what is missing is an error that says how to get it.
pub(crate) fn machine(ui: &Ui, home: &Home, args: &Machine) -> Result<BootParts, CliError> {
    let (parts, fallback) = client::boot_parts(home, args.driver, args.require_jail, None)?;
    if let Some(reason) = fallback {
        ui.say(&format!("using the {} driver: {reason}", parts.driver));
    }
    Ok(parts)
}

impl From<MachineError> for CliError {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Home(error) => error.into(),
            MachineError::Driver(error) => error.into(),
            MachineError::Kernel(error) => error.into(),
            MachineError::BootDisk(error) => error.into(),
            error @ (MachineError::Jail(_) | MachineError::Trial(_) | MachineError::Executable) => {
                Self::new(Exit::RuntimeMissing, error)
            }
        }
    }
}
