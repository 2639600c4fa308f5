//! A database that was lost is made again before a command looks into it.

use crate::reconcile::{adopt, is_lost};
use crate::store::Store;

use super::error::CliError;
use super::ui::Ui;
use super::{interrupt, project};

/// Takes sandboxes and volumes over that exist without a database.
pub(crate) fn take_over(ui: &Ui) -> Result<(), CliError> {
    let home = project::home()?;
    if !is_lost(&home) {
        return Ok(());
    }
    let store = Store::open(&home)?;
    let adopted = interrupt::runtime()?.block_on(adopt(&home, &store))?;
    let kinds =
        [("sandbox", "sandboxes", adopted.sandboxes), ("volume", "volumes", adopted.volumes)];
    let found: Vec<String> = kinds
        .into_iter()
        .filter(|(.., count)| *count > 0)
        .map(|(one, many, count)| format!("{count} {}", if count == 1 { one } else { many }))
        .collect();
    if !found.is_empty() {
        let (found, all) = (found.join(" and "), adopted.sandboxes + adopted.volumes);
        let from = if all == 1 { "its directory" } else { "their directories" };
        ui.warn(&format!("the database was lost: took over {found} from {from}"));
    }
    Ok(())
}
