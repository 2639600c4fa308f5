//! Whether, and when, another run follows the one that has ended: pure.
//!
//! The policy holds once the workload has run: a sandbox that cannot be started at all is reported
//! as that, to whoever starts it.

use std::time::Duration;

use crate::spec::RestartPolicy;

/// The first pause between two runs; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A workload that ran this long was well: the pauses and the count of failures begin anew.
const WELL: Duration = Duration::from_secs(10);

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunEnd {
    /// How long the workload (or the agent, without one) ran; `None` when it never did.
    pub(super) ran: Option<Duration>,
    /// It crashed, or its exit code was not 0.
    pub(super) failed: bool,
    /// Its end was asked for, or was due.
    pub(super) asked: bool,
}

/// The runs so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Restarts {
    /// The workload has run, in some run.
    has_run: bool,
    /// Runs by the policy.
    count: u32,
    /// Those since the workload was last well.
    in_a_row: u32,
}

impl Restarts {
    /// Runs that the policy has begun.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Takes the end of a run in; how long after it the next one begins, if one does.
    pub(super) fn after(&mut self, policy: RestartPolicy, end: RunEnd) -> Option<Duration> {
        self.has_run |= end.ran.is_some();
        if end.ran.is_some_and(|ran| ran >= WELL) {
            self.in_a_row = 0;
        }
        if !self.has_run || end.asked || !self.wants(policy, end.failed) {
            return None;
        }
        let pause =
            FIRST_PAUSE.saturating_mul(1_u32.checked_shl(self.in_a_row).unwrap_or(u32::MAX));
        self.count = self.count.saturating_add(1);
        self.in_a_row = self.in_a_row.saturating_add(1);
        Some(pause.min(LONGEST_PAUSE))
    }

    /// Whether `policy` has another run follow one that failed, or did not.
    fn wants(&self, policy: RestartPolicy, failed: bool) -> bool {
        match policy {
            RestartPolicy::No => false,
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
            RestartPolicy::OnFailure { max } => failed && max.is_none_or(|max| self.in_a_row < max),
        }
    }

    /// Whether the run that is waited for is still wanted under `policy`, which has changed.
    pub(super) fn still(&self, policy: RestartPolicy, failed: bool) -> bool {
        let before = Self { in_a_row: self.in_a_row.saturating_sub(1), ..self.clone() };
        before.wants(policy, failed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAILED: RunEnd = RunEnd { ran: Some(Duration::from_secs(1)), failed: true, asked: false };

    fn pauses(policy: RestartPolicy, ends: &[RunEnd]) -> Vec<Option<u128>> {
        let mut restarts = Restarts::default();
        ends.iter().map(|end| restarts.after(policy, *end).map(|p| p.as_millis())).collect()
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let pauses = pauses(RestartPolicy::Always, &[FAILED; 12]);
        let millis: Vec<u128> = pauses.into_iter().flatten().collect();
        assert_eq!(
            millis,
            [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]
        );
    }

    #[test]
    fn a_run_that_was_well_begins_the_count_anew() {
        let well = RunEnd { ran: Some(WELL), ..FAILED };
        let policy = RestartPolicy::OnFailure { max: Some(2) };
        let ends = [FAILED, FAILED, well, FAILED, FAILED];
        assert_eq!(pauses(policy, &ends), [Some(100), Some(200), Some(100), Some(200), None]);
    }

    #[test]
    fn what_never_ran_is_not_tried_again() {
        let never = RunEnd { ran: None, ..FAILED };
        assert_eq!(pauses(RestartPolicy::Always, &[never]), [None]);
        assert_eq!(pauses(RestartPolicy::Always, &[FAILED, never]), [Some(100), Some(200)]);
    }

    #[test]
    fn success_ends_what_is_restarted_on_failure() {
        let success = RunEnd { failed: false, ..FAILED };
        let policy = RestartPolicy::OnFailure { max: None };
        assert_eq!(pauses(policy, &[FAILED, success]), [Some(100), None]);
        assert_eq!(pauses(RestartPolicy::UnlessStopped, &[success]), [Some(100)]);
        assert_eq!(pauses(RestartPolicy::No, &[FAILED]), [None]);
    }

    #[test]
    fn an_edit_of_the_policy_counts_for_the_run_that_is_waited_for() {
        let mut restarts = Restarts::default();
        restarts.after(RestartPolicy::Always, FAILED);
        restarts.after(RestartPolicy::Always, FAILED);
        assert!(!restarts.still(RestartPolicy::No, true));
        assert!(!restarts.still(RestartPolicy::OnFailure { max: Some(1) }, true));
        assert!(restarts.still(RestartPolicy::OnFailure { max: Some(2) }, true));
        assert!(!restarts.still(RestartPolicy::OnFailure { max: None }, false));
    }

    proptest! {
        /// At most `max` runs follow failures in a row; none follows an end that was asked for;
        /// pauses stay between their bounds.
        #[test]
        fn runs_are_bounded(
            max in 0_u32..5,
            ends in prop::collection::vec((prop::option::of(0_u64..20), any::<bool>(), 0..10), 0..60),
        ) {
            let mut restarts = Restarts::default();
            let mut in_a_row = 0;
            for (ran, failed, asked) in ends {
                let end = RunEnd { ran: ran.map(Duration::from_secs), failed, asked: asked == 0 };
                if ran.is_some_and(|ran| ran >= 10) {
                    in_a_row = 0;
                }
                let pause = restarts.after(RestartPolicy::OnFailure { max: Some(max) }, end);
                if let Some(pause) = pause {
                    in_a_row += 1;
                    prop_assert!(failed && !end.asked);
                    prop_assert!((FIRST_PAUSE..=LONGEST_PAUSE).contains(&pause));
                }
                prop_assert!(in_a_row <= max);
            }
        }
    }
}
