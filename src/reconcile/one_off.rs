//! Sandboxes that are removed when they have ended: those of `msb run`.

use crate::spec::SandboxSpec;

/// The label of a sandbox that is removed when it has ended.
pub const ONE_OFF: &str = "msb.one-off";

/// Whether a stored spec is that of a sandbox that is removed when it has ended.
pub fn is_one_off(spec_json: &str) -> bool {
    // Most are not, and a spec may be long.
    spec_json.contains(ONE_OFF)
        && serde_json::from_str(spec_json)
            .is_ok_and(|spec: SandboxSpec| spec.labels.contains_key(ONE_OFF))
}
