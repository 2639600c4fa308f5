//! A database that was lost is made again before a command looks into it.

use crate::reconcile::{adopt, is_lost};
use crate::store::Store;

use super::error::CliError;
use super::ui::Ui;
use super::{interrupt, project};

/// Takes sandboxes over that exist without a database.
pub(crate) fn take_over(ui: &Ui) -> Result<(), CliError> {
    let home = project::home()?;
    if !is_lost(&home) {
        return Ok(());
    }
    let store = Store::open(&home)?;
    match interrupt::runtime()?.block_on(adopt(&home, &store))? {
        0 => {}
        1 => ui.warn("the database was lost: took over 1 sandbox from its directory"),
        n => ui.warn(&format!(
            "the database was lost: took over {n} sandboxes from their directories"
        )),
    }
    Ok(())
}
