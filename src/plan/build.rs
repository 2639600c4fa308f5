//! The planner.

use super::{Desired, ObservedState, Plan, PlanError, PlanOptions, Summary};

/// Decides what must change. Pure: see the module.
///
/// # Errors
/// See [`PlanError`]; nothing has been done then.
pub fn plan(
    desired: &Desired<'_>,
    observed: &ObservedState,
    _options: &PlanOptions,
) -> Result<Plan, PlanError> {
    Ok(Plan {
        project: desired.project.name.clone(),
        serial: observed.serial,
        steps: Vec::new(),
        orphans: Vec::new(),
        withheld: Vec::new(),
        summary: Summary::default(),
    })
}
