//! What a changed field costs: one table of patterns over field paths.

use std::fmt;

use serde::Serialize;

/// What acting on a changed field takes, in order of cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeClass {
    /// The row, and the supervisor where one lives.
    Live,
    /// A new run on the same disk.
    Restart,
    /// A new disk.
    Replace,
}

use ChangeClass::{Live, Replace, Restart};

/// Patterns in order; the first that covers a path decides. A pattern covers its own path and
/// everything below it.
const CLASSES: &[(&str, ChangeClass)] = &[
    // The supervisor's own business, or the planner's: the guest does not notice.
    ("labels", Live),
    ("log_level", Live),
    ("stop_signal", Live),
    ("stop_grace_period", Live),
    ("max_duration", Live),
    ("idle_timeout", Live),
    ("restart", Live),
    ("healthcheck", Live),
    ("hooks", Live),
    ("watch", Live),
    ("ports", Live),
    ("scripts", Live),
    ("kind", Live),
    ("pull_policy", Live),
    ("depends_on", Live),
    ("profiles", Live),
    ("replicas", Live),
    ("lifecycle", Live),
    // The preset decides whether there is a network device, and the guest trusts a CA from boot on.
    ("network.policy", Restart),
    ("network.tls.ca_cert", Restart),
    ("network.tls.ca_key", Restart),
    ("network", Live),
    // Read when a guest boots or its workload starts.
    ("cmd", Restart),
    ("entrypoint", Restart),
    ("env", Restart),
    ("workdir", Restart),
    ("user", Restart),
    ("shell", Restart),
    ("hostname", Restart),
    ("cpus", Restart),
    ("memory", Restart),
    ("volumes", Restart),
    ("secrets", Restart),
    // Part of the disk. No driver resizes the file system of an upper disk, in either direction.
    ("image", Replace),
    ("patches", Replace),
    ("disk", Replace),
];

impl ChangeClass {
    /// The class of a change at a dotted path of the canonical form. A path that the table does
    /// not know costs the most, so that a forgotten row never leaves a stale guest behind.
    pub fn of(path: &str) -> Self {
        let covers = |pattern: &str| {
            path.strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        CLASSES.iter().find(|(pattern, _)| covers(pattern)).map_or(Replace, |(_, class)| *class)
    }
}

impl fmt::Display for ChangeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::Restart => "restart",
            Self::Replace => "replace",
        })
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::plan::testing::full_spec;

    #[test]
    fn every_field_of_a_spec_has_a_row() {
        let value = serde_json::to_value(full_spec()).unwrap();
        let mut rows = String::new();
        for field in value.as_object().unwrap().keys() {
            let known = CLASSES.iter().any(|(pattern, _)| pattern.split('.').next() == Some(field));
            assert!(known, "`{field}` has no row");
            rows.push_str(&format!("{field} {}\n", ChangeClass::of(field)));
        }
        expect![[r#"
            image replace
            kind live
            pull_policy live
            memory restart
            cpus restart
            env restart
            entrypoint restart
            cmd restart
            workdir restart
            user restart
            shell restart
            hostname restart
            labels live
            scripts live
            volumes restart
            patches replace
            healthcheck live
            restart live
            stop_signal live
            stop_grace_period live
            max_duration live
            idle_timeout live
            disk replace
            log_level live
            depends_on live
            ports live
            secrets restart
            profiles live
            replicas live
            hooks live
            lifecycle live
            watch live
            network live
        "#]]
        .assert_eq(&rows);
    }

    #[test]
    fn patterns_cover_paths_below_and_no_others() {
        assert_eq!(ChangeClass::of("network.tls.ca_cert"), Restart);
        assert_eq!(ChangeClass::of("network.tls.bypass"), Live);
        assert_eq!(ChangeClass::of("env.A.B"), Restart);
        assert_eq!(ChangeClass::of("environment"), Replace);
        assert_eq!(ChangeClass::of("restart_later"), Replace);
    }
}
