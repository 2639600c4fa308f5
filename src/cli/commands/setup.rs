//! `msb setup`: provide the guest kernel.

use crate::cli::args::{Setup, size};
use crate::cli::error::{CliError, Exit};
use crate::cli::project;
use crate::cli::ui::Ui;
use crate::rootfs;
use crate::runtime::setup::{self, Origin, Progress, SetupError, Status};

pub(crate) fn run(ui: &Ui, args: &Setup) -> Result<Exit, CliError> {
    let home = project::home()?;
    if args.check {
        let status = setup::status(&home)?;
        ui.say(&describe(&status));
        return Ok(Exit::Ok);
    }
    home.create()?;
    let line = ui.live_line("guest kernel");
    let installed = setup::install(&home, &mut |progress| match progress {
        Progress::Downloading { bytes, total } => {
            line.set_message(format!("downloading {} of {}", size(bytes), size(total)));
        }
        Progress::Unpacking => line.set_message("checking and unpacking"),
        Progress::Kernel => line.set_message("making the kernel"),
    });
    line.finish_and_clear();
    let status = installed?;
    rootfs::boot_disk(&home)?;
    ui.say(&describe(&status));
    Ok(Exit::Ok)
}

/// What is used, and where it came from.
pub(super) fn describe(status: &Status) -> String {
    let from = match status.library.origin {
        Origin::Override => "MSB_LIBKRUNFW",
        Origin::System => "the system",
        Origin::Installed => "`msb setup`",
    };
    format!("the guest kernel is {} (from {from})", status.library.path.display())
}

/// How to get what is missing.
pub(crate) fn hint(error: &SetupError) -> Option<&'static str> {
    matches!(error, SetupError::Missing).then_some("it downloads about 20 MB once")
}
